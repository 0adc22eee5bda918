"""What adapters have in common for files: whose a file is, what a change adds to that, texts they keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from iceprod.model.file import Direction, FileRecord, Flow, Replica, Usage

KINDS: Final[Mapping[str, str]] = {"user": "owner", "group": "group", "dataset": "dataset_id"}
"""The kinds of holders, and the field of a file that names its holder of that kind."""
LAST: Final = "\U0010ffff"
"""Sorts after all characters that names have."""

Holder = tuple[str, str]
"""Kind and name."""


def holders(record: FileRecord) -> list[Holder]:
    """Who keeps a file."""
    named = [(kind, str(getattr(record, field))) for kind, field in KINDS.items()]
    return [(kind, name) for kind, name in named if name]


class Tally:
    """Bytes and files that are to be added to what holders keep."""

    def __init__(self) -> None:
        self._sums: defaultdict[Holder, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, owner: str, group: str, dataset_id: str, *, size_bytes: int, files: int) -> None:
        """Count so much for all three, where they are named."""
        for holder in (("user", owner), ("group", group), ("dataset", dataset_id)):
            if holder[1]:
                self._sums[holder][0] += size_bytes
                self._sums[holder][1] += files

    def change(self, former: FileRecord | None, record: FileRecord | None) -> None:
        """Count a file that took the place of another, or of none, or that was forgotten."""
        for one, sign in ((former, -1), (record, 1)):
            if one is not None and one.is_here:
                self.add(one.owner, one.group, one.dataset_id, size_bytes=sign * one.size_bytes, files=sign)

    def __iter__(self) -> Iterator[tuple[Holder, int, int]]:
        """What is not nothing: holder, bytes, files."""
        for holder, (size_bytes, files) in sorted(self._sums.items()):
            if size_bytes or files:
                yield holder, size_bytes, files

    def sums(self) -> dict[Holder, tuple[int, int]]:
        """The same as a mapping: bytes and files by holder."""
        return {holder: (size_bytes, files) for holder, size_bytes, files in self}


def merged(record: FileRecord, former: FileRecord | None) -> FileRecord:
    """A new record with the places of the former that hold the same contents."""
    if former is None or former.checksums["sha256"] != record.checksums["sha256"]:
        return record
    return replace(record, replicas=with_replicas(former.replicas, *record.replicas))


def with_replicas(replicas: tuple[Replica, ...], *added: Replica) -> tuple[Replica, ...]:
    """Places with others added, or put in the place of those of the same address."""
    by_url = {replica.url: replica for replica in (*replicas, *added)}
    return tuple(by_url.values())


def without_replica(replicas: tuple[Replica, ...], url: str) -> tuple[Replica, ...]:
    """Places without one."""
    return tuple(replica for replica in replicas if replica.url != url)


def text_of(value: object) -> str:
    """Checksums or replicas as a text."""
    return msgspec.json.encode(value, order="deterministic").decode()


def checksums_of(text: str) -> dict[str, str]:
    """Checksums from their text."""
    return msgspec.json.decode(text, type=dict[str, str])


def replicas_of(text: str) -> tuple[Replica, ...]:
    """Replicas from their text."""
    return msgspec.json.decode(text, type=tuple[Replica, ...])


def usage_place(usage: Usage) -> str:
    """A text that day and flow have to themselves, and that sorts by day."""
    flow = usage.flow
    fields = (
        flow.user,
        flow.direction,
        flow.service,
        flow.group,
        flow.dataset_id,
        flow.origin,
        flow.peer,
    )
    return f"{usage.day} {msgspec.json.encode(fields).decode()}"


def usage_of(place: str, bytes_moved: int, transfers: int) -> Usage:
    """A day's use from its place."""
    day, _, text = place.partition(" ")
    user, direction, service, group, dataset_id, origin, peer = msgspec.json.decode(text, type=list[str])
    flow = Flow(user, Direction(direction), service, group, dataset_id, origin, peer)
    return Usage(day, flow, int(bytes_moved), int(transfers))


def days(since: str | None, until: str | None) -> tuple[str, str]:
    """The places between which those of some days lie, the last one excluded."""
    return since or "", LAST if until is None else f"{until}!"  # what follows a space
