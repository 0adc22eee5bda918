"""Files on their way to a parent: several at once, each before what is told behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from iceprod.errors import Unavailable
from iceprod.model.federation import Operation, OperationKind, Queued
from iceprod.site_sync.files.queue import AT_ONCE, FIRST_S, FileQueue


class Sending:
    """Sends files until told that they have arrived, and counts them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.arrivals: dict[int, asyncio.Future[None]] = {}

    async def __call__(self, queued: Queued) -> None:
        self.begun.append(queued.number)
        self.arrivals[queued.number] = asyncio.get_running_loop().create_future()
        await self.arrivals[queued.number]

    async def arrive(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self.arrivals[number].set_result(None)
        else:
            self.arrivals[number].set_exception(error)
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def sending() -> Sending:
    return Sending()


@pytest.fixture
async def files(sending: Sending) -> AsyncIterator[FileQueue]:
    made = FileQueue(sending)
    yield made
    await made.close()


def file(number: int, task: str, path: str, area: str = "job_temp") -> Queued:
    """A file of a task, which has a lease of its own."""
    return queued(number, task, OperationKind.FILE, area=area, path=path)


def queued(number: int, task: str, kind: OperationKind, **body: str) -> Queued:
    return Queued(number, Operation(f"{number}", "top", kind, task, f"lease of {task}", 1.0, body))


def finished(number: int, task: str) -> Queued:
    return queued(number, task, OperationKind.FINISHED)


async def test_what_is_behind_a_file_of_its_own_lease_waits(files: FileQueue, sending: Sending):
    begun = queued(1, "d-0-0", OperationKind.STARTED)
    outbox = [begun, file(2, "d-0-0", "a"), finished(3, "d-0-0"), finished(4, "d-1-0")]

    free = files.go_on(outbox)

    assert free == [begun, outbox[3]]
    await turns()
    await sending.arrive(2)
    assert files.go_on([outbox[2]]) == [outbox[2]]
    files.check()


async def test_so_many_go_at_once(files: FileQueue, sending: Sending):
    outbox = [file(number, f"d-{number}-0", "a") for number in range(AT_ONCE + 2)]

    files.go_on(outbox)
    await turns()
    files.go_on(outbox)
    await turns()
    assert sending.begun == list(range(AT_ONCE))

    await sending.arrive(3)
    files.go_on(outbox)  # it was read before that one had left it
    await turns()
    assert sending.begun == list(range(AT_ONCE + 1))


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        (("d-0-0", "a"), ("d-0-0", "a"), [1]),
        (("d-0-0", "a"), ("d-0-1", "a"), [1]),
        (("d-0-0", "a"), ("d-1-0", "a"), [1, 2]),
        (("d-0-0", "a"), ("d-0-0", "b"), [1, 2]),
        (("d-0-0", "a", "dataset_temp"), ("d-1-0", "a", "dataset_temp"), [1]),
        (("d-0-0", "a", "dataset_temp"), ("e-0-0", "a", "dataset_temp"), [1, 2]),
        (("d-0-0", "a", "dataset_temp"), ("d-0-0", "a"), [1, 2]),
    ],
)
async def test_files_of_one_place_go_one_after_the_other(
    files: FileQueue, sending: Sending, one: tuple[str, ...], other: tuple[str, ...], order: list[int]
):
    outbox = [file(1, *one), file(2, *other)]

    files.go_on(outbox)
    await turns()
    assert sending.begun == order

    await sending.arrive(1)
    files.go_on(outbox[1:])
    await turns()
    assert sending.begun == [1, 2]


async def test_a_failure_is_told_once_and_the_file_is_tried_again_after_a_while(sending: Sending):
    now = 0.0
    files = FileQueue(sending, steady=lambda: now)
    outbox = [file(1, "d-0-0", "a"), finished(2, "d-0-0")]
    files.go_on(outbox)
    await turns()

    await sending.arrive(1, Unavailable("away"))

    with pytest.raises(Unavailable):
        files.check()
    files.check()
    assert files.go_on(outbox) == []
    await turns()
    assert sending.begun == [1]
    now = FIRST_S
    assert files.go_on(outbox) == []
    await turns()
    assert sending.begun == [1, 1]
    await files.close()


async def test_waiting_ends_with_a_file_with_news_and_in_the_end(files: FileQueue, sending: Sending):
    filled = asyncio.Event()
    files.go_on([file(1, "d-0-0", "a")])
    await files.wait(filled, at_most_s=0.01)
    filled.set()
    await files.wait(filled, at_most_s=60)
    filled.clear()
    waiting = asyncio.create_task(files.wait(filled, at_most_s=60))
    await turns()

    await sending.arrive(1)

    async with asyncio.timeout(10):
        await waiting


async def test_what_is_under_way_at_the_end_is_broken_off(sending: Sending):
    files = FileQueue(sending)
    files.go_on([file(1, "d-0-0", "a")])
    await turns()

    await files.close()

    assert sending.arrivals[1].cancelled()
    files.check()
