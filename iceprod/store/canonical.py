"""The canonical form of records: what is written to archive files and what digests are made of.

A record is one line of JSON with its keys in the order of the fields, mappings and sets
sorted, bytes in Base64.  Numbers are brought to the types of the model first, so that it
makes no difference whether a store gave 1 or 1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from iceprod.errors import FormatError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, Peer
from iceprod.model.file import FileRecord, OriginCredential, Quota, Usage
from iceprod.model.pilot import Pilot
from iceprod.model.task import Attempt
from iceprod.model.user import Token, User
from iceprod.store.archive import (
    ConfigRecord,
    JobRecord,
    Kind,
    LogRecord,
    OperationRecord,
    Value,
    ValueRecord,
)
from iceprod.store.base import AuditEntry, TaskClass

TYPES: Mapping[Kind, type[Any]] = {
    Kind.DATASET: Dataset,
    Kind.CONFIG: ConfigRecord,
    Kind.CLASS: TaskClass,
    Kind.JOB: JobRecord,
    Kind.ATTEMPT: Attempt,
    Kind.PILOT: Pilot,
    Kind.USER: User,
    Kind.TOKEN: Token,
    Kind.LOG: LogRecord,
    Kind.AUDIT: AuditEntry,
    Kind.VALUE: ValueRecord,
    Kind.FILE: FileRecord,
    Kind.USAGE: Usage,
    Kind.QUOTA: Quota,
    Kind.CREDENTIAL: OriginCredential,
    Kind.PEER: Peer,
    Kind.ERRAND: Errand,
    Kind.OPERATION: OperationRecord,
}

_encoder = msgspec.json.Encoder(order="deterministic")
_decoders = {kind: msgspec.json.Decoder(form) for kind, form in TYPES.items()}


def encode(kind: Kind, value: Value) -> bytes:
    """The canonical form of a record's value."""
    return _encoder.encode(decode(kind, _encoder.encode(value)))


def decode(kind: Kind, text: bytes | msgspec.Raw) -> Value:
    """The value that `encode` made ``text`` from.

    Raises:
        FormatError: it is none of that kind.
    """
    try:
        return cast(Value, _decoders[kind].decode(text))
    except msgspec.MsgspecError as error:
        raise FormatError(f"a record is no {kind}: {error}") from None


class Digest:
    """The number and the SHA-256 of records, taken one after another in the order of their keys."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Take the canonical form of the next record."""
        self.count += 1
        self._hash.update(line)
        self._hash.update(b"\n")

    def sum(self) -> Sum:
        """What there is so far."""
        return Sum(self.count, self._hash.hexdigest())


class Sum(msgspec.Struct, frozen=True):
    """How many records of a kind there are, and their SHA-256."""

    count: int
    sha256: str
