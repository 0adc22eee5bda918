"""P12.cut_off: how long a child takes to tell what it has done while it was cut off.

It has finished 10 000 tasks: as many operations wait that say so, and as many that the tasks had
begun.  Both sites are whole and durable, in one process; only the way between them is memory.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.federation import SITE, STATS, lend_all
from bench.harness import Result, Rounds
from iceprod.clock import now
from iceprod.config import Settings
from iceprod.model.federation import Errand, ErrandStatus, Operation, OperationKind, Original
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.server.assembly import make_services
from iceprod.server.context import Services
from iceprod.server.process import tune_interpreter
from iceprod.site_sync.as_child.errands import operation
from iceprod.site_sync.as_child.sender import Sender
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.files.sending import Sent
from iceprod.site_sync.messages import Report, Reported
from iceprod.store.sqlite import SqliteStore

TASKS: Final = 10_000
AWAY_S: Final = 86_400.0
PARENT: Final = "parent"


class Memory:
    """A way to the parent on which every message is encoded, decoded and taken in."""

    def __init__(self, parent: Services) -> None:
        self._parent = parent
        self.messages = 0

    async def call(self, method: str, message: msgspec.Struct, answer: type[Any]) -> Any:
        """The parent's answer to a report."""
        assert method == "site.report"
        assert answer is Reported
        self.messages += 1
        told = msgspec.json.decode(msgspec.json.encode(message), type=Report)
        found = await self._parent.federation.inbox.report(Principal(PrincipalKind.SITE, SITE), told)
        return msgspec.json.decode(msgspec.json.encode(found), type=Reported)

    async def pause(self) -> None:
        """It always answers."""

    def close(self) -> None:
        """There is nothing to close."""


async def fall_behind(path: Path, held: list[tuple[str, str]]) -> None:
    """A child at ``path`` that has finished all tasks which it holds, and told nobody."""
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    errands = [_errand(place, task_id, lease_id) for place, (task_id, lease_id) in enumerate(held)]
    for start in range(0, len(errands), 1000):
        some = errands[start : start + 1000]
        await store.errands.add(some)
        await store.outbox.add([each for errand in some for each in _told(errand)])
    await store.close()


def _errand(place: int, task_id: str, lease_id: str) -> Errand:
    dataset_id = task_id.partition("-")[0]
    original = Original(dataset_id, 1, task_id, place, 0, "work", TASKS)
    return Errand(f"mirror-{place}-0", PARENT, task_id, lease_id, "", original, now() - AWAY_S)


def _told(errand: Errand) -> list[Operation]:
    at = now() - AWAY_S
    return [
        operation(errand, OperationKind.STARTED, {"hostname": "node1"}, at=at, mark="1"),
        operation(errand, OperationKind.FINISHED, {"stats": STATS}, at=at),
    ]


async def catch_up(folder: Path) -> tuple[float, int]:
    """Seconds until nothing is left to tell, and the messages that it took."""
    parent, above = await _site(folder / "parent" / "iceprod.db")
    child, below = await _site(folder / "child" / "iceprod.db")
    link = Memory(above)
    sender = Sender(
        PARENT,
        store=child,
        link=link,
        outbox=below.federation.outbox,
        settling=Settling(child, tasks=below.tasks, clock=now),
        send_file=_no_file,
        filled=asyncio.Event(),
        clock=now,
    )
    started = time.perf_counter()
    while (await child.outbox.backlog(PARENT)).waiting:
        await sender.step()
    took = time.perf_counter() - started
    assert await child.errands.counts(PARENT) == {ErrandStatus.ENDED: TASKS}
    for store, services in ((parent, above), (child, below)):
        services.accounts.close()
        services.files.close()
        await store.close()
    return took, link.messages


async def _site(path: Path) -> tuple[SqliteStore, Services]:
    store = SqliteStore(path)
    await store.open()
    settings = Settings(server={"data_dir": path.parent}, grids={}, log={"level": "error"})
    services = make_services(store, settings, grids=[])
    await services.scheduler.load()
    return store, services


async def _no_file(_: Operation) -> Sent:
    raise AssertionError("there are no files")


def measure(rounds: Rounds) -> Result:
    """Each round on copies of the same two sites."""
    tune_interpreter()
    taken, messages = [], 0
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-") as name:
        held = asyncio.run(lend_all(Path(name, "parent.db"), tasks=TASKS))
        asyncio.run(fall_behind(Path(name, "child.db"), held))
        for number in rounds:
            folder = Path(name, str(number))
            for part in ("parent", "child"):
                (folder / part).mkdir(parents=True)
                shutil.copy(Path(name, f"{part}.db"), folder / part / "iceprod.db")
            took, messages = asyncio.run(catch_up(folder))
            taken.append(took)
    return Result(
        "P12.cut_off",
        taken,
        goal=10.0,
        at_most=True,
        note=f"s until a child that was cut off has told of {TASKS} tasks that have begun and ended",
        figures={"operations/s": round(2 * TASKS / statistics.median(taken)), "messages": messages},
    )


SUBJECTS = {"P12.cut_off": measure}
