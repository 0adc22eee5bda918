"""The controller: grids, pilots' records and waiting work brought together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from iceprod.errors import GridUnavailable, InputError
from iceprod.grids.base import (
    Grid,
    GridDescription,
    GridJobId,
    GridReport,
    GridSettings,
    GridSpec,
    GridState,
)
from iceprod.grids.local import LocalGrid
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.resources import Offer, Requirements, Resources
from iceprod.services import grids as module
from iceprod.services.events import Event, EventKind
from iceprod.services.grid_keeper import LIST_S, START_S, STRAY_S, Backoff
from iceprod.services.grids import GridController
from iceprod.services.slots import Slots

STAND_IN = Path(__file__).parent.parent / "fakes" / "stand_in_pilot.py"
NODE = Resources(cpu=4, gpu=0, memory=8, disk=20, time_h=24)
SMALL = Requirements(resources=Resources(cpu=1, gpu=0, memory=1, disk=1, time_h=1))
START = 1_000_000.0


class Demand(NamedTuple):
    requirements: Requirements
    waiting: int


class Book:
    """Pilots' records in memory, as the pilots' service keeps them."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.records: dict[str, Pilot] = {}
        self.gone_for: dict[str, str] = {}

    async def create(self, *, grid: str, offer: Offer) -> tuple[str, str]:
        pilot_id = f"p{len(self.records) + 1}"
        self.put(Pilot(pilot_id, PilotStatus.QUEUED, START, START, grid=grid, offer=offer))
        return pilot_id, "ip_hush"

    async def submitted(self, pilot_id: str, grid_job_id: str) -> None:
        self.change(pilot_id, grid_job_id=grid_job_id)

    async def gone(self, pilot_id: str, reason: str) -> None:
        self.gone_for[pilot_id] = reason
        self.change(pilot_id, status=PilotStatus.ENDED, reason=reason)

    async def get(self, pilot_id: str) -> Pilot | None:
        return self.records.get(pilot_id)

    def put(self, pilot: Pilot) -> None:
        self.records[pilot.pilot_id] = pilot
        self._slots.put(pilot)

    def change(self, pilot_id: str, **fields: object) -> None:
        self.put(replace(self.records[pilot_id], **fields))

    def register(self, pilot_id: str, **fields: object) -> None:
        self.change(pilot_id, status=PilotStatus.RUNNING, hostname="node7", **fields)


class Queue(Grid):
    """A batch system in memory that does what the test says."""

    poll_s = 0.0

    def __init__(self, name: str = "queue") -> None:
        self.name = name
        self.reports: dict[GridJobId, GridReport] = {}
        self.pilots: dict[GridJobId, str] = {}
        self.cancelled: list[GridJobId] = []
        self.calls = 0
        self.error: Exception | None = None
        self.refusal: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def submit(self, spec: GridSpec) -> GridJobId:
        if self.refusal:
            raise self.refusal
        job_id = GridJobId(f"{self.name}.{len(self.pilots) + 1}")
        self.pilots[job_id] = spec.pilot_id
        self.reports[job_id] = GridReport(GridState.QUEUED)
        return job_id

    async def jobs(self) -> Mapping[GridJobId, str]:
        return {job_id: self.pilots[job_id] for job_id in self.reports}

    async def poll(self, ids: Collection[GridJobId]) -> Mapping[GridJobId, GridReport]:
        self.calls += 1
        await self.gate.wait()
        if self.error:
            raise self.error
        return {job_id: self.reports[job_id] for job_id in ids if job_id in self.reports}

    async def cancel(self, job_id: GridJobId) -> None:
        self.cancelled.append(job_id)

    async def describe(self) -> GridDescription:
        return GridDescription(self.name, "queue", Offer(NODE), None, len(self.reports))

    def all(self, state: GridState, reason: str = "") -> None:
        self.reports = dict.fromkeys(self.reports, GridReport(state, reason))


class Site:
    """A controller over some grids, with its clock and its waiting work."""

    def __init__(self, *grids: Grid, settings: GridSettings | None = None) -> None:
        self.now = START
        self.waiting: list[Demand] = []
        self.slots = Slots()
        self.book = Book(self.slots)
        self.controller = self.make(*grids, settings=settings)

    def make(self, *grids: Grid, settings: GridSettings | None = None) -> GridController:
        settings = settings or GridSettings(name="", max_pilots=6, max_queued=3)
        return GridController(
            [(grid, replace(settings, name=grid.name)) for grid in grids],
            pilots=self.book,
            records=self.book.get,
            slots=self.slots,
            demand=lambda: self.waiting,
            clock=lambda: self.now,
            url="http://127.0.0.1:1/",
        )

    async def step(self, after_s: float = 0.0) -> None:
        self.now += after_s
        await self.controller.step(self.now)


@pytest.fixture
async def queue() -> Queue:
    return Queue()


@pytest.fixture
async def site(queue: Queue) -> AsyncIterator[Site]:
    site = Site(queue)
    yield site
    await site.controller.close()


async def until(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


async def test_waiting_work_starts_pilots_up_to_the_limits_and_then_rests(site, queue):
    site.waiting = [Demand(SMALL, 3)]

    for _ in range(3):
        await site.step(1)

    assert sorted(queue.pilots.values()) == ["p1", "p2", "p3"]
    assert {pilot.grid_job_id for pilot in site.book.records.values()} == set(queue.reports)
    assert site.slots.grids[0].offer.resources == NODE


async def test_the_limit_on_all_pilots_holds_however_much_work_waits(site, queue):
    site.waiting = [Demand(SMALL, 1000)]

    for _ in range(4):
        await site.step(1)
        queue.all(GridState.RUNNING)
        for pilot_id in queue.pilots.values():
            offer = site.book.records[pilot_id].offer
            site.book.register(pilot_id, claimed=offer.resources)

    assert len(queue.pilots) == 6


async def test_a_pilot_whose_grid_job_has_ended_is_gone_at_once(site, queue):
    site.waiting = [Demand(SMALL, 1)]
    await site.step()
    site.book.register("p1", finished=4)
    site.waiting = []
    queue.all(GridState.FAILED, "node failure")

    await site.step(1)

    assert site.book.gone_for == {"p1": "node failure"}


async def test_a_pilot_that_its_grid_has_forgotten_is_gone(site, queue):
    site.waiting = [Demand(SMALL, 1)]
    await site.step()
    site.book.register("p1", finished=1)
    site.waiting = []
    queue.reports.clear()

    await site.step(1)

    assert site.book.gone_for == {"p1": "no longer known to its grid"}


@pytest.mark.expects_logs
async def test_a_grid_job_that_outlasts_its_pilot_is_cancelled(site, queue):
    site.waiting = [Demand(SMALL, 1)]
    await site.step()
    site.waiting = []
    site.book.change("p1", status=PilotStatus.ENDED)
    queue.all(GridState.RUNNING)

    await site.step(1)
    assert queue.cancelled == []
    await site.step(STRAY_S)

    assert queue.cancelled == ["queue.1"]


@pytest.mark.expects_logs
async def test_a_job_of_ours_that_nobody_knows_is_found_and_cancelled(site, queue):
    queue.pilots[GridJobId("old")] = "px"
    queue.reports[GridJobId("old")] = GridReport(GridState.RUNNING)

    await site.step()
    await site.step(STRAY_S)

    assert queue.cancelled == ["old"]


@pytest.mark.expects_logs
async def test_a_pilot_that_never_reports_is_cancelled(site, queue):
    site.waiting = [Demand(SMALL, 1)]
    await site.step()
    queue.all(GridState.RUNNING)
    await site.step(1)

    await site.step(START_S)

    assert queue.cancelled == ["queue.1"]


async def test_the_next_server_takes_over_what_was_submitted_but_not_recorded(site, queue):
    site.waiting = [Demand(SMALL, 2)]
    await site.step()
    site.book.change("p1", grid_job_id="")
    later = site.make(queue)

    await later.step(site.now + LIST_S)

    assert site.book.records["p1"].grid_job_id == "queue.1"
    assert site.book.gone_for == {}
    assert len(queue.pilots) == 2


async def test_a_pilot_started_by_hand_is_left_in_peace(site, queue):
    by_hand = Pilot("hand", PilotStatus.QUEUED, START, START, grid="queue", offer=Offer(NODE))
    site.book.put(by_hand)
    site.waiting = [Demand(SMALL, 1)]

    await site.step(1)
    assert sorted(queue.pilots.values()) == ["p2"]
    site.book.register("hand")
    queue.reports.clear()
    site.book.register("p2", finished=1)
    await site.step(1)

    assert list(site.book.gone_for) == ["p2"]
    assert len(queue.pilots) == 1


@pytest.mark.expects_logs
async def test_a_grid_whose_pilots_die_is_left_alone_for_longer_and_longer(site, queue):
    site.waiting = [Demand(SMALL, 1000)]
    await site.step()
    queue.all(GridState.FAILED, "no such file")
    await site.step(1)
    submitted = len(queue.pilots)

    await site.step(1)
    status = site.controller.status()[0]
    assert len(queue.pilots) == submitted == 3
    assert status.reason == "pilot p3 ended before it reported: no such file"
    assert status.backed_off_until == site.now - 1 + 10

    await site.step(10)
    assert len(queue.pilots) == submitted + 1
    queue.all(GridState.FAILED, "no such file")
    await site.step(1)
    assert site.controller.status()[0].backed_off_until == site.now + 20


@pytest.mark.expects_logs
async def test_a_grid_that_works_again_is_trusted_again(site, queue):
    site.waiting = [Demand(SMALL, 1000)]
    await site.step()
    queue.all(GridState.FAILED)
    await site.step(1)
    await site.step(10)
    queue.all(GridState.RUNNING)
    site.book.register("p4", finished=1, claimed=NODE)

    await site.step(1)
    await site.step(1)

    assert site.controller.status()[0].reason == "pilot p3 ended before it reported"
    assert len(queue.pilots) == 5
    site.book.register("p5", finished=1, claimed=NODE)
    queue.all(GridState.RUNNING)
    await site.step(1)
    assert site.controller.status()[0].reason == ""
    assert len(queue.pilots) == 8


@pytest.mark.expects_logs
async def test_a_pilot_on_which_everything_fails_speaks_against_its_grid(site, queue):
    site.waiting = [Demand(SMALL, 3)]
    await site.step()
    for pilot_id in queue.pilots.values():
        site.book.register(pilot_id, failed=5)
    site.waiting = []
    queue.all(GridState.ENDED)

    await site.step(1)

    assert site.controller.status()[0].reason == "all 5 tasks of pilot p3 on node7 failed"


async def test_an_idle_pilot_that_ends_is_no_reason_for_anything(site, queue):
    site.waiting = [Demand(SMALL, 3)]
    await site.step()
    for pilot_id in queue.pilots.values():
        site.book.register(pilot_id)
    site.waiting = []
    queue.all(GridState.ENDED)

    await site.step(1)

    assert site.controller.status()[0].reason == ""


@pytest.mark.expects_logs
async def test_a_grid_that_does_not_answer_is_asked_more_and_more_rarely(site, queue):
    site.waiting = [Demand(SMALL, 1)]
    queue.error = GridUnavailable("no answer in 10 s")

    asked_at = []
    for second in range(31):
        before = queue.calls
        await site.step(1)
        if queue.calls > before:
            asked_at.append(second)

    assert asked_at == [0, 2, 6, 14, 30]
    assert site.controller.status()[0].reason == "no answer in 10 s"
    queue.error = None
    await site.step(32)
    assert site.controller.status()[0].reason == ""
    assert len(queue.pilots) == 1


@pytest.mark.expects_logs
@pytest.mark.parametrize(
    ("refusal", "wait_s"), [(GridUnavailable("busy"), 2), (InputError("no such partition"), 300)]
)
async def test_a_refused_pilot_leaves_no_queued_record(site, queue, refusal, wait_s):
    site.waiting = [Demand(SMALL, 3)]
    queue.refusal = refusal

    await site.step()

    assert site.book.gone_for == {"p1": f"not submitted: {refusal}"}
    assert site.controller.status()[0].backed_off_until == site.now + wait_s


@pytest.mark.expects_logs
async def test_an_adapters_mistake_stops_no_other_grid(queue):
    broken = Queue("broken")
    broken.error = KeyError("JobId")
    site = Site(broken, queue)
    site.waiting = [Demand(SMALL, 1)]

    await site.step()

    assert list(queue.pilots.values()) == ["p1"]


async def test_a_slow_grid_holds_up_no_other(queue, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    slow = Queue("slow")
    slow.gate.clear()
    site = Site(slow, queue)
    site.waiting = [Demand(SMALL, 1)]

    await site.step()
    assert list(queue.pilots.values()) == ["p1"]
    await site.step(1)
    assert slow.calls == 1

    slow.gate.set()
    await until(lambda: site.controller.status()[0].description)
    site.waiting = [Demand(SMALL, 2)]
    await site.step(1)
    assert list(slow.pilots.values()) == ["p2"]
    await site.controller.close()


async def test_a_failure_costs_twice_the_former_and_a_success_half_a_failure():
    backoff = Backoff(base_s=10, longest_s=60, tolerated=1)
    waits = []
    for _ in range(5):
        backoff.failed(0.0, "x")
        waits.append(backoff.until)

    assert waits == [0, 10, 20, 40, 60]
    for _ in range(8):
        backoff.worked()
    assert not backoff.is_doubtful


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[tuple[Site, asyncio.Task[None]]]:
    """A running controller over a local grid with stand-in pilots, which end with the test."""
    settings = GridSettings(name="local", cpu=2, gpu=0, memory=4, disk=10)
    command = (sys.executable, "-I", "-S", str(STAND_IN), "wait")
    site = Site(LocalGrid(settings, directory=tmp_path, command=command), settings=settings)
    task = asyncio.create_task(site.controller.run())
    yield site, task
    task.cancel()
    assert await site.controller.end_pilots(timeout_s=5) == 0
    await site.controller.close()


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_also_if_it_is_woken_at_that_very_moment(site, turns):
    running = asyncio.create_task(site.controller.run())
    await asyncio.sleep(2 * module.GAP_S)

    site.controller.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()

    done, _ = await asyncio.wait((running,), timeout=5)
    assert done
    assert running.cancelled()


@pytest.mark.slow
async def test_the_first_pilot_starts_at_once_when_work_appears(machine):
    site, _ = machine
    await until(lambda: site.controller.status()[0].description)

    site.waiting = [Demand(SMALL, 100)]
    site.controller.on_event(Event(EventKind.WORK_READY))
    await until(lambda: site.controller.status()[0].pilots)

    assert site.controller.status()[0].pilots == 1


@pytest.mark.slow
async def test_a_pilot_that_ends_is_gone_and_replaced_without_a_poll(machine, tmp_path):
    site, _ = machine
    site.waiting = [Demand(SMALL, 100)]
    site.controller.wake()
    await until((tmp_path / "p1" / "work" / "given.json").exists)
    site.book.register("p1", finished=1)

    await site.controller._keepers[0].cancel_all()
    await until(lambda: "p2" in site.book.records)

    assert site.book.gone_for == {"p1": "cancelled"}


# -- several processes, of which one takes care of the grids ---------------------------------


async def test_pilots_on_the_machine_of_a_former_holder_are_left_alone_and_take_no_place(site, queue):
    queue.is_machine_bound = True
    for number in range(6):  # as many as there may be
        elsewhere = Pilot(f"e{number}", PilotStatus.RUNNING, START, START, grid="queue", offer=Offer(NODE))
        full = replace(elsewhere, grid_job_id=f"other.{number}", claimed=NODE)
        site.book.put(full)
    site.waiting = [Demand(SMALL, 1)]

    for _ in range(3):
        await site.step(LIST_S)

    assert site.book.gone_for == {}, "they run, for all that is known here"
    assert len(queue.pilots) == 1


async def test_who_has_the_grids_again_finds_its_own_pilots_again(site, queue):
    queue.is_machine_bound = True
    site.waiting = [Demand(SMALL, 2)]
    await site.step()
    assert len(queue.pilots) == 2
    await site.controller.close()
    queue.all(GridState.RUNNING)

    for pilot_id in queue.pilots.values():
        site.book.register(pilot_id, finished=1)
    await site.step(1)

    assert site.controller.status()[0].pilots == 2
    assert len(queue.pilots) == 2
    site.waiting = []
    queue.all(GridState.ENDED, "out of time")
    await site.step(1)
    assert site.book.gone_for == dict.fromkeys(queue.pilots.values(), "out of time")


async def test_who_has_lost_the_duties_meanwhile_starts_no_pilot(queue):
    site = Site()
    on_duty = [False]
    site.controller = GridController(
        [(queue, GridSettings(name="queue"))],
        pilots=site.book,
        records=site.book.get,
        slots=site.slots,
        demand=lambda: site.waiting,
        clock=lambda: site.now,
        is_on_duty=lambda: on_duty[0],
    )
    site.waiting = [Demand(SMALL, 3)]
    await site.step()
    assert not queue.pilots
    on_duty[0] = True
    await site.step(1)
    assert queue.pilots
    await site.controller.close()


async def test_how_the_grids_are_is_told_by_who_takes_care_of_them(site, queue):
    await site.step()
    other = Site(Queue())
    other.controller._is_on_duty = lambda: False
    other.controller.cared_for_elsewhere(site.controller.status())
    assert other.controller.status() == site.controller.status()
    assert other.slots.grids == site.slots.grids
    site.controller.cared_for_elsewhere([])
    assert site.controller.status(), "who has the duties knows better"
