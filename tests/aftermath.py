"""What a site was doing when nothing moved any more, in words: for the message of a test that fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import Any, Protocol

import psutil

from iceprod.config import Settings
from iceprod.server.assembly import make_store

LINES = 40
"""How many of the last lines of each log are told."""
TASKS = 12
"""How many tasks are told of one by one."""
OVER = ("complete",)


class Site(Protocol):
    """What is needed of a `RunningSite`."""

    @property
    def folder(self) -> Path: ...

    @property
    def process(self) -> Any: ...

    def loaded(self) -> Settings: ...

    def call(self, method: str, /, **params: Any) -> Any: ...


def wait_for_end(site: Site, dataset_id: str, *, stall_s: float, tell: Callable[[], str]) -> None:
    """Wait until a dataset is complete, for as long as its tasks go on becoming complete.

    A machine may be slow, so there is no limit for the whole.  When none became complete for
    ``stall_s`` seconds, the error says what `tell` does.
    """

    def done() -> float:
        if site.call("dataset.get", dataset_id=dataset_id)["status"] == "complete":
            return inf
        return float(site.call("dataset.progress", dataset_id=dataset_id)["tasks"].get("complete", 0))

    wait_for(done, inf, stall_s=stall_s, tell=tell)


def wait_for(
    done: Callable[[], float], enough: float, *, stall_s: float, tell: Callable[[], str] = str
) -> None:
    """Wait until ``done`` gives ``enough``, for as long as it gives more and more."""
    best, since = -inf, time.monotonic()
    while (now := done()) < enough:
        if now > best:
            best, since = now, time.monotonic()
        if time.monotonic() - since > stall_s:
            raise AssertionError(f"nothing more was done for {stall_s:g} s\n{tell()}")
        time.sleep(0.1)


def account(site: Site, dataset_id: str, *, pilots: Iterable[Any], logs: Iterable[Path]) -> str:
    """The state of a dataset and of those who should run it, with the ends of their logs.

    Each part that cannot be told says why, for the site may be in any state.
    """
    parts: list[tuple[str, Callable[[], str]]] = [
        ("dataset", lambda: _json(site.call("dataset.get", dataset_id=dataset_id))),
        ("why", lambda: _json(site.call("dataset.why", dataset_id=dataset_id))),
        ("progress", lambda: _json(site.call("dataset.progress", dataset_id=dataset_id))),
        ("tasks", lambda: "\n".join(_tasks(site, dataset_id))),
        ("duties", lambda: asyncio.run(_duties(site))),
        ("known pilots", lambda: "\n".join(map(_json, site.call("pilot.list")["items"]))),
        ("processes", lambda: "\n".join(_processes(site))),
        ("pilots' processes", lambda: "\n".join(map(_pilot, pilots))),
        *((str(path), lambda path=path: _tail(path)) for path in logs),
    ]
    return "\n".join(f"== {name}\n{_said(part)}" for name, part in parts)


def _said(part: Callable[[], str]) -> str:
    try:
        return part()
    except Exception as exc:  # noqa: BLE001 - whatever is wrong, the other parts are to be told
        return f"({exc!r})"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _tasks(site: Site, dataset_id: str) -> Iterable[str]:
    """Those that are not over, with their attempts and what keeps them."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = site.call("task.list", dataset_id=dataset_id, limit=500, cursor=cursor)
        found += [task for task in page["items"] if task["status"] not in OVER]
        cursor = page["next"]
        if cursor is None:
            break
    for task in found[:TASKS]:
        yield _json(site.call("task.get", task_id=task["task_id"]))
        yield f"  why: {_json(site.call('task.why', task_id=task['task_id']))}"


async def _duties(site: Site) -> str:
    """Who holds them, as the store says at two moments: the holder's beat must have grown."""
    store = make_store(site.loaded())
    await store.open()
    try:
        if store.sharing is None:
            return "one process"
        before = await store.sharing.hold("duties")
        await asyncio.sleep(2.0)
        return f"{before}\n{await store.sharing.hold('duties')}"
    finally:
        await store.close()


def _processes(site: Site) -> Iterable[str]:
    """What the site's first process has started, and what the machine is doing."""
    yield f"load {psutil.getloadavg()}, {psutil.cpu_count()} cores"
    if site.process is not None:
        first = psutil.Process(site.process.pid)
        for process in (first, *first.children(recursive=True)):
            spent = process.cpu_times()
            yield (
                f"{process.pid} {process.status()} {spent.user + spent.system:.1f} s of CPU,"
                f" {' '.join(process.cmdline())[:160]}"
            )


def _pilot(pilot: Any) -> str:
    process = pilot.process
    if process is None:
        return f"{pilot.folder}: none"
    code = process.poll()
    return f"{pilot.folder}: pid {process.pid}, {'runs' if code is None else f'ended with {code}'}"


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LINES:])
