"""All records of a store in one compressed file, which fills a store of either kind.

The file is gzip of lines of JSON: a heading, one line ``[kind, key, value]`` for each record in the
order of kinds and keys, and the sums of each kind at the end.  The value is in the form
that `iceprod.store.canonical` describes.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from iceprod import clock, ids
from iceprod.errors import FormatError, InputError
from iceprod.store import canonical
from iceprod.store.archive import Key, Kind, Record, Records, page
from iceprod.store.canonical import Digest, Sum
from iceprod.store.copying import Progress, pages, silent
from iceprod.store.newfile import new_file

MAGIC: Final = b"\x1f\x8b"
"""How every gzip file begins."""
_FORMAT: Final = "iceprod-archive"
_VERSION: Final = 1
_LEVEL: Final = 6


class _Heading(msgspec.Struct):
    format: str
    version: int
    id: str
    made_at: float


class _End(msgspec.Struct):
    end: dict[Kind, Sum]


_Line = tuple[Kind, tuple[int | str, ...], msgspec.Raw]
_decoder = msgspec.json.Decoder(_Line)
_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}


async def write_archive(records: Records, target: Path, *, progress: Progress = silent) -> int:
    """Write everything to one new file, which gets its name when it is complete; its size in bytes.

    Raises:
        AlreadyExists: there is something at ``target``.
    """
    with new_file(target) as partial, gzip.open(partial, "wb", compresslevel=_LEVEL) as file:
        heading = _Heading(_FORMAT, _VERSION, ids.new_id(), clock.now())
        file.write(msgspec.json.encode(heading) + b"\n")
        sums = {kind: await _write_kind(file, kind, records, progress) for kind in Kind}
        file.write(msgspec.json.encode(_End(sums)) + b"\n")
    return (await asyncio.to_thread(target.stat)).st_size


async def _write_kind(file: gzip.GzipFile, kind: Kind, records: Records, progress: Progress) -> Sum:
    digest, total = Digest(), await records.count(kind)
    progress("copy", kind, 0, total)
    async for part in pages(kind, records):
        await asyncio.to_thread(_write_page, file, kind, part, digest)
        progress("copy", kind, digest.count, total)
    return digest.sum()


def _write_page(file: gzip.GzipFile, kind: Kind, part: Sequence[Record], digest: Digest) -> None:
    for record in part:
        value = canonical.encode(kind, record.value)
        digest.add(value)
        file.write(msgspec.json.encode((kind, record.key, msgspec.Raw(value))) + b"\n")


class ArchiveFile(Records):
    """The records of a file; cheap to read in order, from the start again otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = ""
        self._sums: dict[Kind, Sum] = {}
        self._lines: Iterator[_Line] = iter(())
        self._place: tuple[Kind, Key | None] | None = None
        self._ahead: _Line | None = None

    async def open(self) -> dict[Kind, Sum]:
        """Read the whole file to see that nothing is missing or changed; the sums it holds.

        Raises:
            InputError: it is none of ours, or damaged.
        """
        self._identity, self._sums = await asyncio.to_thread(_checked, self._path)
        return self._sums

    async def identity(self) -> str:
        """See the port."""
        return self._identity

    async def count(self, kind: Kind) -> int:
        """See the port."""
        return self._sums[kind].count

    async def read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        """See the port."""
        return await asyncio.to_thread(self._read, kind, after, limit)

    def _read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        with _told(self._path):
            if not self._stands_before(kind, after):
                self._seek(kind, after)
            raw = page(self._of_kind(kind, limit), lambda line: 1 + len(bytes(line[2])) // 256)
            records = [Record(key, canonical.decode(kind, value)) for _, key, value in raw]
        self._place = (kind, records[-1].key if records else after)
        return records

    def _stands_before(self, kind: Kind, after: Key | None) -> bool:
        """Whether the next line is the one asked for, so that reading can just go on."""
        if self._place is None:
            return False
        if self._place == (kind, after):
            return True
        is_next_kind = _ORDER[self._place[0]] < _ORDER[kind]
        return (
            after is None
            and is_next_kind
            and self._ahead is not None
            and _ORDER[self._ahead[0]] >= _ORDER[kind]
        )

    def _seek(self, kind: Kind, after: Key | None) -> None:
        """Begin anew and stop before the first record of the kind after the key, or what comes there."""
        self._lines, self._ahead = _lines(self._path), None
        for line in self._lines:
            is_wanted = line[0] is kind and (after is None or line[1] > after)
            if is_wanted or _ORDER[line[0]] > _ORDER[kind]:
                self._ahead = line
                return

    def _of_kind(self, kind: Kind, limit: int) -> Iterator[_Line]:
        for _ in range(limit):
            line = self._ahead or next(self._lines, None)
            self._ahead = None
            if line is None:
                return
            if line[0] is not kind:
                self._ahead = line
                return
            yield line


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell in one way whatever may be wrong with a file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, FormatError) as error:
        raise InputError(f"{path} is no whole archive: {error}") from None


def _lines(path: Path) -> Iterator[_Line]:
    """The lines of the records."""
    with gzip.open(path) as file:
        file.readline()
        for line in file:
            if not line.startswith(b"["):
                return
            yield _decoder.decode(line)


def _checked(path: Path) -> tuple[str, dict[Kind, Sum]]:
    """Read all of a file; its identity and sums."""
    digests = {kind: Digest() for kind in Kind}
    with _told(path), gzip.open(path) as file:
        heading = msgspec.json.decode(file.readline(), type=_Heading)
        if (heading.format, heading.version) != (_FORMAT, _VERSION):
            raise FormatError(f"it is {heading.format} {heading.version}, not {_FORMAT} {_VERSION}")
        end: _End | None = None
        for line in file:
            if line.startswith(b"["):
                kind, _, value = _decoder.decode(line)
                digests[kind].add(bytes(value))
            else:
                end = msgspec.json.decode(line, type=_End)
        if end is None:
            raise FormatError("its end is missing")
        # One that an older release made says nothing of the kinds that came later.
        sums = {kind: Digest().sum() for kind in Kind} | end.end
        if sums != {kind: digest.sum() for kind, digest in digests.items()}:
            raise FormatError("its records are not those that it was made with")
    return heading.id, sums
