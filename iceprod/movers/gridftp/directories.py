"""Directories, by MLSD."""

from __future__ import annotations

from collections.abc import AsyncIterator

from iceprod.movers.base import Entry
from iceprod.movers.gridftp import data
from iceprod.movers.gridftp.listing import LineSplitter, ListingError, parse_entry
from iceprod.movers.gridftp.session import Session

_READ = 64 * 1024
_MOST_EMPTY = 1024 * 1024


async def entries(session: Session, path: str) -> AsyncIterator[Entry]:
    """What lies in a directory, as it comes.

    Raises:
        Refused: there is none.
        OSError, ProtocolFault: it went wrong.
    """
    await session.set_mode("S")
    wire = await data.connect(session, await data.passive(session))
    try:
        (stream,) = await data.start(session, "MLSD", path, [data.secured(session, wire)])
        splitter = LineSplitter()
        empty = 0
        while came := await stream.receive(_READ):
            empty += len(came)
            for line in splitter.feed(came):
                if (entry := parse_entry(line)) is not None:
                    empty = 0
                    yield entry
            if empty > _MOST_EMPTY:
                raise ListingError("a listing without end that names nothing")
        for line in splitter.finish():
            if (entry := parse_entry(line)) is not None:
                yield entry
        await data.ended(session, "MLSD")
    finally:
        wire.close()
