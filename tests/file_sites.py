"""Sites that lend to one another, in one loop, with their files behind real connections.

What they say of tasks goes by way of `sync_harness.Wire`; files go over HTTP, through a `Tap`
that can break them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from site_harness import ADMIN, LARGE, Site
from sync_harness import Wire, make_means, peer_of
from web_harness import Web, open_web

from iceprod.model.dataset import Dataset
from iceprod.model.federation import OperationKind, PeerRole
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Task
from iceprod.server.federation import identity_files
from iceprod.services.file_catalogue import FileQuery
from iceprod.site_sync.as_child.parents import Parent
from iceprod.store.files import UsageFilter

_STEP = 16 * 1024


@dataclass
class Tap:
    """A relay of TCP before a site.

    ``cut_up`` and ``cut_down`` end the next connection after so many bytes to or from the site,
    ``flip_up`` and ``flip_down`` turn a bit of that byte over; each counts once, and ``when_cut``
    happens at a cut.  ``heads`` are the request lines that passed.
    """

    port: int
    url: str = ""
    is_down: bool = False
    cut_up: int | None = None
    cut_down: int | None = None
    flip_up: int | None = None
    flip_down: int | None = None
    when_cut: Callable[[], Awaitable[None]] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    heads: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        writers = [writer]
        try:
            if self.is_down:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
            writers.append(back)
            up = asyncio.create_task(self._relay(reader, back, "up"))
            down = asyncio.create_task(self._relay(there, writer, "down"))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for each in (up, down):
                each.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            for each in writers:
                each.close()

    async def _relay(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: str) -> None:
        done = 0
        with suppress(OSError):
            while data := await source.read(_STEP):
                if self.is_down:
                    return
                if way == "up":
                    await self.gate.wait()
                    self._note(data)
                else:
                    await self.gate.wait()
                data, is_over = self._broken(way, done, data)
                done += len(data)
                target.write(data)
                await target.drain()
                if is_over:
                    if self.when_cut is not None:
                        await self.when_cut()
                    return

    def _note(self, data: bytes) -> None:
        line = data.split(b"\r\n", 1)[0].decode("latin-1")
        if line.endswith("HTTP/1.1"):
            self.heads.append(line.removesuffix(" HTTP/1.1"))

    def _broken(self, way: str, done: int, data: bytes) -> tuple[bytes, bool]:
        flip, cut = getattr(self, f"flip_{way}"), getattr(self, f"cut_{way}")
        if flip is not None and done <= flip < done + len(data):
            changed = bytearray(data)
            changed[flip - done] ^= 1
            data = bytes(changed)
            setattr(self, f"flip_{way}", None)
        if cut is not None and done + len(data) >= cut:
            setattr(self, f"cut_{way}", None)
            return data[: cut - done], True
        return data, False

    def asked(self, method: str) -> int:
        """How many requests of a method have passed."""
        return sum(head.startswith(f"{method} ") for head in self.heads)


@asynccontextmanager
async def open_tap(url: str) -> AsyncIterator[Tap]:
    """A relay to the server at ``url``."""
    tap = Tap(int(url.rpartition(":")[2]))
    tap.gate.set()
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        for task in list(tap.tasks):
            task.cancel()
        await asyncio.gather(*tap.tasks, return_exceptions=True)


@dataclass
class Child:
    """A site and its way to its parent."""

    web: Web
    wire: Wire
    tap: Tap
    parent: Parent
    name: str

    @property
    def site(self) -> Site:
        return self.web.site

    async def take(self, tasks: int = 1) -> None:
        """Pull so many tasks, one by one."""
        for _ in range(tasks):
            await self.parent.taking.step()

    async def tell(self) -> None:
        """Send until nothing is left."""
        while (await self.site.store.outbox.backlog(self.parent.peer.name)).waiting:
            await self.parent.sender.step()

    async def queued(self) -> list[OperationKind]:
        """The kinds of what is in the outbox."""
        found = await self.site.store.outbox.next(self.parent.peer.name, 0, 1000)
        return [each.operation.kind for each in found]


@dataclass
class Running:
    """A task that a pilot holds, and what its payload does."""

    web: Web
    pilot: Principal
    task: Task

    @property
    def principal(self) -> Principal:
        return Principal(PrincipalKind.TASK, self.task.task_id, lease_id=self.task.lease_id)

    @property
    def job_area(self) -> str:
        return f"job_temp/{self.task.dataset_id}/{self.task.job_index}"

    @property
    def dataset_area(self) -> str:
        return f"dataset_temp/{self.task.dataset_id}"

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """One request to the site's file store."""
        token = self.web.site.services.accounts.make_task_token(self.task.task_id, self.task.lease_id)
        return await self.web.browser(token).send(method, f"/files/{path}", headers=headers, body=body)

    async def put(self, path: str, data: bytes) -> int:
        return int((await self.send("PUT", path, data)).code)

    async def get(self, path: str, **headers: str) -> bytes | int:
        """What is there, or the status."""
        answer = await self.send("GET", path, **headers)
        return bytes(answer.body) if answer.code in (200, 206) else int(answer.code)

    async def finish(self) -> None:
        await self.web.site.finish(self.pilot, self.task)


async def run_one(web: Web) -> Running:
    """Have a pilot begin with a task of a site."""
    pilot = await web.site.pilot()
    return Running(web, pilot, await web.site.one(pilot))


@dataclass
class Chain:
    """``top`` and below it one child after the other."""

    top: Web
    children: list[Child]

    @property
    def child(self) -> Child:
        """The only one, or the first."""
        return self.children[0]

    @property
    def last(self) -> Child:
        return self.children[-1]

    async def lend(self, *tasks: dict[str, Any], njobs: int = 1) -> Dataset:
        """A dataset of the top whose first task is at the last site, not begun."""
        dataset = await self.top.site.submit(*tasks, njobs=njobs)
        await self.pass_on()
        return dataset

    async def pass_on(self) -> None:
        """One task from site to site, all the way down."""
        for child in self.children:
            await child.take()

    async def running(self) -> Running:
        """A task that was passed on, with a pilot of the last site."""
        return await run_one(self.last.web)

    async def tell(self) -> None:
        """All that there is to tell, all the way up."""
        for child in reversed(self.children):
            await child.tell()


@asynccontextmanager
async def open_chain(
    folder: Path, names: Sequence[str] = ("top", "leaf"), **sections: Any
) -> AsyncIterator[Chain]:
    """Sites by name, each the child of the one before; ``sections`` are settings of all."""
    async with AsyncExitStack() as stack:
        webs = []
        for name in names:
            (folder / name).mkdir()
            webs.append(await stack.enter_async_context(open_web(folder / name, **sections)))
        children = []
        for above, web, parent_name, name in zip(webs, webs[1:], names, names[1:], strict=False):
            tap = await stack.enter_async_context(open_tap(above.url))
            children.append(await _join(above, web, tap, parent_name, name))
            stack.push_async_callback(web.site.services.federation.files.close)
        yield Chain(webs[0], children)


@asynccontextmanager
async def open_fan(folder: Path, names: Sequence[str] = ("top", "east", "west")) -> AsyncIterator[Chain]:
    """The first site, and all others as its children."""
    async with AsyncExitStack() as stack:
        for name in names:
            (folder / name).mkdir()
        top, *webs = [await stack.enter_async_context(open_web(folder / name)) for name in names]
        children = []
        for web, name in zip(webs, names[1:], strict=True):
            tap = await stack.enter_async_context(open_tap(top.url))
            children.append(await _join(top, web, tap, names[0], name))
            stack.push_async_callback(web.site.services.federation.files.close)
        yield Chain(top, children)


async def _join(above: Web, web: Web, tap: Tap, parent_name: str, name: str) -> Child:
    site = web.site
    peer = replace(peer_of(PeerRole.PARENT, parent_name), url=tap.url)
    await above.site.store.peers.put(peer_of(PeerRole.CHILD, name))
    await site.store.peers.put(peer)
    identity_files(site.settings, parent_name).keep_token("is_none")
    wire = Wire(above.site, name)
    parent = Parent(peer, wire, make_means(site, Counter({LARGE: 1})))
    return Child(web, wire, tap, parent, name)


def decoded(answer: Any) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.body)


def read(web: Web, path: str) -> bytes | None:
    """What lies in a site's file store."""
    found = web.site.settings.files_path / path
    return found.read_bytes() if found.is_file() else None


async def put(web: Web, path: str, data: bytes) -> None:
    """A file that the administrator of a site puts there."""
    upload = await web.site.services.files.upload(ADMIN, path)
    await upload.write(data)
    await upload.commit()


async def known(web: Web) -> dict[str, str]:
    """The files in a site's catalogue and their digests."""
    found = await web.site.services.file_catalogue.find(ADMIN, FileQuery(), Page(100))
    return {file.name: file.checksums["sha256"] for file in found.items}


async def flows(web: Web) -> dict[tuple[str, str, str], int]:
    """Bytes moved by user, site at the other end and direction."""
    site = web.site
    await site.services.transfers.accounting.save()
    found = await site.services.transfers.accounting.select(UsageFilter(), Page(100))
    return {(u.flow.user, u.flow.peer, str(u.flow.direction)): u.bytes_moved for u in found.items}


async def statuses(chain: Chain, dataset: Dataset) -> list[TaskStatus]:
    return await chain.top.site.statuses(dataset)


async def reasons(chain: Chain) -> list[str]:
    """Why statements were refused for good."""
    letters = await chain.last.site.store.outbox.dead(None, Page(10))
    return [letter.reason for letter in letters.items]
