"""Files that one server sends to another, while this one only tells both what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from iceprod.errors import InputError
from iceprod.movers.gridftp import data, replies
from iceprod.movers.gridftp.session import Session
from iceprod.movers.gridftp.uploads import Progress


@dataclass(slots=True)
class End:
    """One of the two, and the path of the file there."""

    session: Session
    path: str
    progress: Progress = field(default_factory=Progress)


async def copy(source: End, target: End, *, size_now: Callable[[], Awaitable[int | None]]) -> None:
    """Have ``source`` send the file to ``target``.

    ``size_now`` tells how much of it the target has, by another way: it is asked when both have
    said nothing for ``stall_timeout_s``.

    Raises:
        Refused: one of them does not do it.
        TimeoutError: nothing moves.
        OSError, ProtocolFault: it went wrong.
    """
    ours, theirs = source.session.options, target.session.options
    if (ours.dcau, ours.protection) != (theirs.dcau, theirs.protection):
        raise InputError("both servers must have the same options dcau and protection")
    mode = "E" if ours.streams > 1 else "S"
    for end in (source, target):
        await end.session.set_mode(mode)
    if ours.streams > 1:
        await source.session.control.command("OPTS", f"RETR Parallelism={','.join([str(ours.streams)] * 3)};")
    await _introduce(source.session, await data.passive(target.session))
    for end, verb in ((target, "STOR"), (source, "RETR")):
        end.session.busy = end.progress.has_begun = True
        await end.session.control.send(verb, end.path)
    ends = [asyncio.ensure_future(_end(target, "STOR")), asyncio.ensure_future(_end(source, "RETR"))]
    try:
        await _wait(ends, [source.progress, target.progress], size_now, source.session.access.stall_timeout_s)
    finally:
        await data.give_up(*ends)


async def _introduce(source: Session, target: data.Address) -> None:
    """Tell the source where the target waits; the address is one that the policy allows, too."""
    address, port = target
    source.access.policy.check(address, port)
    if ":" in address:
        await source.control.command("EPRT", f"|2|{address}|{port}|")
    else:
        await source.control.command("PORT", replies.port_argument(address, port))


async def _end(end: End, verb: str) -> None:
    await end.session.control.final(verb, within_s=data.FOREVER_S, note=end.progress.note)
    end.session.busy = False


async def _wait(
    ends: list[asyncio.Task[None]],
    heard: list[Progress],
    size_now: Callable[[], Awaitable[int | None]],
    patience: float,
) -> None:
    """Wait for both as long as something moves."""
    loop = asyncio.get_running_loop()
    seen_at, size = loop.time(), -1
    while True:
        done, waiting = await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        if not waiting:
            return
        now = await size_now()
        if max(one.heard_at for one in heard) <= seen_at and now in (None, size):
            raise TimeoutError
        seen_at, size = loop.time(), size if now is None else now
