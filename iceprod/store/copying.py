"""Copying all records into an empty store: resumable wherever it is cut off, and verified at its end.

What is known of the way so far is kept in the target itself, after each page that was
written; a page that is written twice changes nothing.  As long as that note is there the
target is no site's store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from iceprod.errors import ConflictError
from iceprod.store import canonical
from iceprod.store.archive import Archive, Key, Kind, Record, Records
from iceprod.store.canonical import Digest, Sum

_PAGE = 1000

Progress = Callable[[str, Kind, int, int], None]
"""Called with what is done (``copy`` or ``verify``), the kind, how many of how many."""


class _Note(msgspec.Struct):
    """What is kept in the target: whose copy it is, and for each kind how far.

    ``clearing`` stands while what a former copy left behind is dropped.
    """

    source: str
    after: dict[str, tuple[int | str, ...]]
    done: dict[str, int]
    clearing: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """A finished copy: the sums of each kind, which both sides have, and whether it had been cut off."""

    sums: Mapping[Kind, Sum]
    resumed: bool


def silent(step: str, kind: Kind, done: int, total: int) -> None:
    """A `Progress` that nobody looks at."""
    del step, kind, done, total


async def copy(
    source: Records, target: Archive, *, progress: Progress = silent, restart: bool = False
) -> Copied:
    """Copy everything; goes on where a former call was cut off, unless told to ``restart``.

    Raises:
        ConflictError: the target holds something else, or is not equal to the source in the end.
    """
    note, resumed = await _begin(source, target, restart=restart)
    for kind in Kind:
        await _copy(kind, source, target, note, progress)
    await target.finish()
    sums = await verify(source, target, progress=progress)
    await target.set_mark(None)
    return Copied(sums, resumed)


async def _begin(source: Records, target: Archive, *, restart: bool) -> tuple[_Note, bool]:
    """The note to go on with, and whether there was one."""
    identity = await source.identity()
    text = await target.mark()
    former = None if text is None else msgspec.json.decode(text, type=_Note)
    if former is None:
        await _check_empty(target)
    elif former.source != identity and not restart:
        raise ConflictError("a copy of something else is under way into that store")
    elif not (restart or former.clearing):
        return former, True
    else:
        await _keep(target, _Note(identity, {}, {}, clearing=True))
        await target.clear()
    note = _Note(identity, {}, {})
    await _keep(target, note)
    return note, False


async def _check_empty(target: Archive) -> None:
    found = {kind: await target.count(kind) for kind in Kind}
    if any(found.values()):
        held = ", ".join(f"{kind} {number}" for kind, number in found.items() if number)
        raise ConflictError(f"that store is not empty (records by kind: {held}); copy into a new one")


async def _keep(target: Archive, note: _Note) -> None:
    await target.set_mark(msgspec.json.encode(note).decode())


async def _copy(kind: Kind, source: Records, target: Archive, note: _Note, progress: Progress) -> None:
    total = await source.count(kind)
    after = note.after.get(kind)
    done = note.done.get(kind, 0)
    progress("copy", kind, done, total)
    while records := await source.read(kind, after, _PAGE):
        after = records[-1].key
        await target.write(kind, _placed(kind, records, done))
        done += len(records)
        note.after[kind], note.done[kind] = after, done
        await _keep(target, note)
        progress("copy", kind, done, total)


def _placed(kind: Kind, records: Sequence[Record], done: int) -> Sequence[Record]:
    """Entries of the audit trail are counted anew: only their order is the same in every store."""
    if kind is not Kind.AUDIT:
        return records
    return [replace(record, key=(place,)) for place, record in enumerate(records, start=done + 1)]


async def verify(source: Records, target: Records, *, progress: Progress = silent) -> dict[Kind, Sum]:
    """The sums of each kind, which are equal on both sides.

    Raises:
        ConflictError: they are not (``detail`` has the sums of both by kind), or the source
            has records that belong to nothing and were left out.
    """
    sums, different = {}, {}
    for kind in Kind:
        there, here = await _compare(kind, source, target, progress)
        sums[kind] = there
        if there.count < (total := await source.count(kind)):
            lost = total - there.count
            raise ConflictError(
                f"{kind}: {lost} of the source belong to nothing; look with iceprod store check"
            )
        if there != here:
            different[str(kind)] = {"source": msgspec.to_builtins(there), "target": msgspec.to_builtins(here)}
    if different:
        kinds = ", ".join(different)
        message = f"the copy is not equal to its source in: {kinds}; --restart drops it and begins anew"
        raise ConflictError(message, kinds=different)
    return sums


async def _compare(kind: Kind, source: Records, target: Records, progress: Progress) -> tuple[Sum, Sum]:
    total = await source.count(kind) + await target.count(kind)
    progress("verify", kind, 0, total)
    there = await digest(kind, source, progress=lambda done: progress("verify", kind, done, total))
    here = await digest(
        kind, target, progress=lambda done: progress("verify", kind, there.count + done, total)
    )
    return there, here


async def digest(kind: Kind, records: Records, *, progress: Callable[[int], None] = lambda _: None) -> Sum:
    """Number and SHA-256 of the records of a kind."""
    found = Digest()
    async for part in pages(kind, records):
        for record in part:
            found.add(canonical.encode(kind, record.value))
        progress(found.count)
    return found.sum()


async def pages(kind: Kind, records: Records, after: Key | None = None) -> AsyncIterator[list[Record]]:
    """All records of a kind after a key, page by page."""
    while part := await records.read(kind, after, _PAGE):
        yield part
        after = part[-1].key
