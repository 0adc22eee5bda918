"""The one source of new identifiers and secrets, all unguessable.

A dataset's id is random, but for that of a dataset which stands for another site's: it is
made from the name of that, so that there is one however often it is made.  Ids of jobs and
tasks are the dataset's id followed by their place in it (``ID-7``, ``ID-7-2``): as unguessable
as the dataset's, made without asking the store, and the same however often a
materialisation is repeated.  Callers must treat them as opaque all the same.
"""

from __future__ import annotations

import hashlib
import secrets

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
_ID_LENGTH = 13  # 54^13: 74 bits
_LEASE_LENGTH = 16


def new_id() -> str:
    """A random opaque id of 13 letters and digits (74 bits), safe in URLs and file names."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def derived_id(text: str) -> str:
    """An id that looks like a random one and is always the same for the same text."""
    number = int.from_bytes(hashlib.blake2b(text.encode()).digest())
    return "".join(
        _ALPHABET[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(_ID_LENGTH)
    )


class _LeaseIds:
    """Random numbers drawn many at a time: asking the system for each costs more than a claim may."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def next(self) -> str:
        if not self._drawn:
            text = secrets.token_hex(_LEASE_LENGTH * 256)
            self._drawn = [text[i : i + _LEASE_LENGTH] for i in range(0, len(text), _LEASE_LENGTH)]
        return self._drawn.pop()


_lease_ids = _LeaseIds()


def new_lease_id() -> str:
    """A fencing token for one attempt of a task: 64 random bits in hexadecimal."""
    return _lease_ids.next()


def new_secret(prefix: str) -> str:
    """A bearer secret with 256 random bits; ``prefix`` tells people what it opens."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """What the store keeps of a secret: its SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()
