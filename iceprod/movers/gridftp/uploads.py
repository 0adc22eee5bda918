"""Files that are sent: in a stream, or in blocks over several connections."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from iceprod.movers.gridftp import data, mode_e, replies
from iceprod.movers.gridftp.faults import ProtocolFault
from iceprod.movers.gridftp.session import Session
from iceprod.movers.gridftp.wire import Stream

_VERB: Final = "STOR"


@dataclass(slots=True)
class Progress:
    """How far a file has got.

    ``sent`` is what went out, ``stored`` what the server says that it has, ``moved`` what each of its
    stripes says to have taken.  ``heard_at`` is when it last said anything, by the loop's clock;
    ``has_begun`` whether there may be a part of the file by now.
    """

    sent: int = 0
    stored: mode_e.Ranges = field(default_factory=mode_e.Ranges)
    moved: dict[int, int] = field(default_factory=dict)
    heard_at: float = 0.0
    has_begun: bool = False

    @property
    def done(self) -> int:
        """Bytes from the beginning that are there, as far as one knows."""
        if len(self.stored):
            return self.stored.contiguous()
        return sum(self.moved.values()) or self.sent

    def note(self, reply: replies.Reply) -> None:
        """See a reply that may be a marker."""
        self.heard_at = asyncio.get_running_loop().time()
        for start, end in replies.restart_ranges(reply):
            self.stored.add(start, end)
        if (marked := replies.performance(reply)) is not None:
            self.moved[marked[0]] = marked[1]


async def store(session: Session, path: str, pieces: AsyncIterator[bytes], progress: Progress) -> None:
    """Store a file of those pieces.

    Raises:
        Refused: the server does not take it, or not to its end.
        OSError, ProtocolFault: it went wrong.
    """
    parallel = session.options.streams > 1 or session.options.striped
    await session.set_mode("E" if parallel else "S")
    addresses = await _addresses(session)
    wires = [await data.connect(session, address) for address in addresses]
    try:
        streams = await data.start(session, _VERB, path, [data.secured(session, wire) for wire in wires])
        progress.has_begun = True
        if parallel:
            sending = send_blocks(streams, addresses, pieces, progress)
        else:
            sending = send_stream(streams[0], pieces, progress)
        await watched(session, _VERB, progress, sending)
    finally:
        for wire in wires:
            wire.close()


async def _addresses(session: Session) -> list[data.Address]:
    """Where to connect to, once for each stream."""
    found = await data.striped_passive(session) if session.options.striped else [await data.passive(session)]
    return list(itertools.islice(itertools.cycle(found), max(session.options.streams, len(found))))


async def send_stream(stream: Stream, pieces: AsyncIterator[bytes], progress: Progress) -> None:
    """Send all on one connection; its end is the file's."""
    async for piece in pieces:
        await stream.send(piece)
        progress.sent += len(piece)
    await stream.finish()


async def send_blocks(
    streams: Sequence[Stream],
    addresses: Sequence[data.Address],
    pieces: AsyncIterator[bytes],
    progress: Progress,
) -> None:
    """Send each piece on whichever connection is free, and on each connection that it ends.

    Each node of the server is told how many connections it has, and knows nothing of the others'.
    """
    turn, offset = asyncio.Lock(), 0

    async def work(stream: Stream) -> None:
        nonlocal offset
        while True:
            async with turn:
                piece = await anext(pieces, b"")
                start, offset = offset, offset + len(piece)
            if not piece:
                return
            await stream.send(mode_e.data_header(start, len(piece)))
            await stream.send(piece)
            progress.sent += len(piece)

    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(work(stream))
    counts = Counter(addresses)
    for stream, address in zip(streams, addresses, strict=True):
        await stream.send(mode_e.end_of_connection(connections=counts.pop(address, 0)))
        await stream.finish()


async def watched(
    session: Session, verb: str, progress: Progress, sending: Coroutine[Any, Any, None]
) -> None:
    """Send while listening to the server, which may end it any time; then wait for its word.

    Raises:
        Refused: it ended it.
        TimeoutError: it says nothing any more though all was sent.
    """
    task = asyncio.ensure_future(sending)
    ending = asyncio.ensure_future(_ending(session, verb, progress))
    try:
        await asyncio.wait({ending, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and isinstance(task.exception(), OSError):
            # What the server says of it tells more than that the connection broke.
            await asyncio.wait({ending}, timeout=data.GRACE_S)
        if ending.done():
            ending.result()
            if not task.done():
                raise ProtocolFault("the server ended before all was sent")
        await task
        await _patiently(session, progress, ending)
    finally:
        await data.give_up(ending, task)


async def _ending(session: Session, verb: str, progress: Progress) -> None:
    session.busy = True
    await session.control.final(verb, within_s=data.FOREVER_S, note=progress.note)
    session.busy = False


async def _patiently(session: Session, progress: Progress, ending: asyncio.Future[None]) -> None:
    """Wait for the end as long as the server says something from time to time."""
    loop, patience = asyncio.get_running_loop(), session.access.stall_timeout_s
    progress.heard_at = loop.time()
    while not ending.done():
        left = progress.heard_at + patience - loop.time()
        if left <= 0:
            raise TimeoutError
        await asyncio.wait({ending}, timeout=left)
    ending.result()
