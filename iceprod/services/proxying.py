"""Files of origins for those who may have them: from a copy where there can be one, else passed on."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TransferFailed,
    Unavailable,
)
from iceprod.model.file import Direction, Flow
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import Principal
from iceprod.movers.base import Facts, Incoming, Span
from iceprod.services.cache import Cache, Reading, Source, Wanted, stat
from iceprod.services.origins import Origins
from iceprod.services.transfers import Transfer, Transfers

MAX_PLACES: Final = 10
CHECKSUM: Final = "sha512"
_ELSEWHERE: Final = (TransferFailed, Unavailable, NotFoundError, AccessDenied, InputError)
_WHOLE: Final = Span()
_STRONG: Final = re.compile(r'"[!#-~]{1,200}"')


@dataclass(frozen=True, slots=True)
class Description:
    """What can be said of a file before its bytes; ``etag`` is that of an HTTP answer."""

    facts: Facts
    etag: str


class Proxying:
    """Reads files of origins for callers."""

    def __init__(self, origins: Origins, cache: Cache, transfers: Transfers) -> None:
        self._origins = origins
        self._transfers = transfers
        self.cache = cache

    async def wanted(self, principal: Principal, urls: Sequence[str]) -> Wanted:
        """The file of these addresses, all of which the caller may read.

        Raises:
            InputError: they are none.
            NotAuthenticated, AccessDenied, NotFoundError, LeaseLost: as `Origins.find`.
        """
        if not 1 <= len(urls) <= MAX_PLACES:
            raise InputError(f"a file is asked for by 1 to {MAX_PLACES} addresses")
        locations = dict.fromkeys([parse_location(url) for url in urls])
        found = [Source(each, await self._origins.find(each, principal)) for each in locations]
        return Wanted(tuple(found))

    async def copy(self, wanted: Wanted) -> Reading | None:
        """A copy, to be closed; None where the file has to be passed on, or lies on this machine anyway.

        Raises:
            NotFoundError, AccessDenied, TransferFailed, Unavailable: what the origin says.
        """
        is_here = any(source.location.scheme == "file" for source in wanted.sources)
        return None if is_here else await self.cache.read(wanted)

    async def describe(self, wanted: Wanted) -> Description:
        """What the first place that answers tells of a file."""
        error: IceProdError | None = None
        for source in wanted.sources:
            try:
                facts = await stat(source, self._origins)
                return Description(facts, etag_of(facts, wanted))
            except _ELSEWHERE as exc:
                error = error or exc
        raise error or InputError("a file has at least one address")

    @asynccontextmanager
    async def passed(self, wanted: Wanted, span: Span = _WHOLE) -> AsyncIterator[Incoming]:
        """The bytes of a file as its first place that answers sends them."""
        source, body = wanted.sources[0], None
        error: IceProdError | None = None
        for source in wanted.sources:
            body = self._body(source, span)
            try:
                incoming = await body.__aenter__()
                break
            except _ELSEWHERE as exc:
                error = error or exc
        else:
            raise error or InputError("a file has at least one address")
        try:
            yield incoming
        except BaseException as exc:
            if not await body.__aexit__(type(exc), exc, exc.__traceback__):
                raise
        else:
            await body.__aexit__(None, None, None)

    @asynccontextmanager
    async def _body(self, source: Source, span: Span) -> AsyncIterator[Incoming]:
        origin = source.origin
        async with (
            self._origins.turn(origin),
            origin.mover.fetch(source.location, origin.access, span=span) as incoming,
        ):
            if incoming.offset != span.offset:
                raise InputError("the origin does not send parts of files")
            yield incoming

    async def size(self, wanted: Wanted) -> int:
        """How long a file is.

        Raises:
            ConflictError: its origin does not say.
        """
        facts = (await self.describe(wanted)).facts
        if facts.size_bytes is None:
            raise ConflictError("the origin does not tell the size of this file")
        return facts.size_bytes

    async def checksum(self, wanted: Wanted, *, use_cache: bool) -> str:
        """The SHA-512 of a file, for which it is read once if nobody knows it."""
        reading = await self.copy(wanted) if use_cache else None
        if reading is not None:
            try:
                copy = await reading.whole()
            finally:
                reading.close()
            if copy is not None:
                return copy.checksums[CHECKSUM]
        described = (await self.describe(wanted)).facts
        return described.checksums.get(CHECKSUM) or await self._computed(wanted)

    async def _computed(self, wanted: Wanted) -> str:
        digest, size = hashlib.sha512(), 0
        async with self.passed(wanted) as incoming:
            flow = wanted.sources[0].origin.flow(Direction.IN, "proxy")
            label = wanted.sources[0].shown
            with self._transfers.begin(flow, label=label, size_bytes=incoming.length) as transfer:
                while piece := await incoming.read():
                    size += len(piece)
                    await asyncio.to_thread(digest.update, piece)
                    await transfer.moved(len(piece))
        if incoming.length not in (None, size):
            raise TransferFailed("the origin sent too little", done_bytes=size)
        return digest.hexdigest()

    def flow(self, wanted: Wanted) -> Flow:
        """Whose bytes they are that a client gets."""
        return wanted.sources[0].origin.flow(Direction.OUT, "proxy")

    def begin(self, wanted: Wanted, *, size_bytes: int | None) -> Transfer:
        """A transfer to a client."""
        label = wanted.sources[0].shown
        return self._transfers.begin(self.flow(wanted), label=label, size_bytes=size_bytes)

    def speed(self, wanted: Wanted) -> float | None:
        """Bytes per second that a client may have, for who keeps to that by itself."""
        return self._transfers.speed_of(self.flow(wanted))

    @property
    def transfers(self) -> Transfers:
        """What is under way."""
        return self._transfers


def etag_of(facts: Facts, wanted: Wanted) -> str:
    """The entity tag of a file; empty where changes can't be told.

    It is the origin's own where there is one, and weak where no more than the date is known.
    """
    if len(wanted.sources) == 1 and _STRONG.fullmatch(facts.validator):
        return facts.validator  # so that it is the same where the web server in front fetches the file
    if not facts.validator and facts.modified_at is None:
        return ""
    told = f"{wanted.key} {facts.validator} {facts.size_bytes} {facts.modified_at}"
    digest = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f'"{digest}"' if facts.validator else f'W/"{digest}"'


def file_name(location: Location) -> str:
    """The name under which to keep a file; never empty."""
    return location.name or "index"
