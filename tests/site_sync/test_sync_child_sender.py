"""How a child tells its parent what is in its outbox."""

from __future__ import annotations

import asyncio
import base64
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from site_harness import ADMIN, LARGE, Site
from sync_harness import Fault, Pair, make_parent, open_pair

from iceprod.errors import InputError, TooLarge, Unavailable
from iceprod.model.federation import ErrandStatus, Operation, OperationKind
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal
from iceprod.model.task import Task
from iceprod.site_sync.as_child.errands import operation
from iceprod.site_sync.as_child.logs import MOST_PACKED, shortened
from iceprod.site_sync.as_child.sender import SendFile
from iceprod.site_sync.as_parent.keeping import GRACE_S
from iceprod.site_sync.files.sending import Result, Sent


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child, which holds three tasks of one job each."""
    async with open_pair(tmp_path) as made:
        await made.north.submit(njobs=3)
        await made.take()
        yield made


async def running(pair: Pair, tasks: int = 3) -> tuple[Principal, list[Task]]:
    """A pilot that runs so many tasks."""
    pilot = await pair.south.pilot()
    claimed = await pair.south.claim(pilot, LARGE, max_tasks=tasks)
    return pilot, [one.task for one in claimed]


async def keep_log(site: Site, pilot: Principal, held: Task, text: bytes, name: str = "stdout") -> None:
    data = base64.b64encode(zlib.compress(text)).decode()
    await site.services.logs.put(pilot, held.task_id, held.lease_id, name=name, data=data)


async def waiting(pair: Pair) -> int:
    return (await pair.south.store.outbox.backlog("north")).waiting


async def log_of(pair: Pair, held: Task) -> str:
    """What the parent has of a log."""
    found = await pair.south.store.errands.of_tasks([held.task_id])
    errand = found[held.task_id]
    return (await pair.north.services.logs.read(ADMIN, errand.parent_task_id, "stdout")).text


def reports(pair: Pair) -> list[list[str]]:
    """The kinds of statements, message by message."""
    messages = [message for method, message in pair.wire.said if method == "site.report"]
    return [[each["kind"] for each in message["operations"]] for message in messages]


async def test_a_message_that_is_lost_on_either_way_is_sent_again(pair: Pair) -> None:
    pilot, (held, *_) = await running(pair)
    await pair.south.finish(pilot, held)
    pair.wire.then("site.report", Fault.LOST, Fault.UNANSWERED, Fault.TWICE)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await pair.parent.sender.step()
    await pair.parent.sender.step()
    assert await waiting(pair) == 0
    assert pair.parent.sender.results == {(OperationKind.FINISHED, "repeated"): 1}
    assert (await pair.errands())[ErrandStatus.ENDED] == 1


async def test_a_report_of_a_lease_that_is_lost_is_dropped_and_counted(pair: Pair) -> None:
    pilot, (held, *_) = await running(pair)
    await pair.south.finish(pilot, held)
    (errand,) = (await pair.south.store.errands.of_tasks([held.task_id])).values()
    await pair.north.services.tasks.evict([(errand.parent_task_id, errand.lease_id)], "too late")
    await pair.tell()
    assert (await pair.north.task(errand.parent_task_id)).status is TaskStatus.WAITING
    assert pair.parent.sender.results == {(OperationKind.FINISHED, "lost"): 1}
    assert pair.south.services.federation.parents.means.settling.lost == {"north": 1}
    assert (await pair.errands())[ErrandStatus.LOST] == 1
    assert (await pair.south.task(held.task_id)).status is TaskStatus.COMPLETE


@pytest.mark.expects_logs
async def test_a_statement_that_makes_no_sense_holds_up_no_other(pair: Pair) -> None:
    pilot, tasks = await running(pair)
    (errand,) = (await pair.south.store.errands.of_tasks([tasks[0].task_id])).values()
    bad = operation(errand, OperationKind.FINISHED, {"stats": {"time_used": "long"}}, at=1.0, mark="bad")
    await pair.south.services.federation.outbox.add(bad)
    for held in tasks[1:]:
        await pair.south.finish(pilot, held)
    await pair.tell()
    assert reports(pair) == [["finished"] * 3]
    assert (await pair.errands()) == {ErrandStatus.OPEN: 1, ErrandStatus.ENDED: 2}
    (letter,) = (await pair.south.store.outbox.dead("north", Page(10))).items
    assert letter.operation.operation_id == bad.operation_id
    assert letter.reason


class Fussy:
    """A way to a parent that refuses whole messages, for their length or for one of their statements."""

    def __init__(self, pair: Pair, *, most: int = 1000, poison: str = "") -> None:
        self._wire = pair.wire
        self._most = most
        self._poison = poison
        self.lengths: list[int] = []

    async def call(self, method: str, message: Any, answer: Any) -> Any:
        """See `Calls`."""
        if method == "site.report":
            self.lengths.append(len(message.operations))
            if len(message.operations) > self._most:
                raise TooLarge("too long")
            if any(each.id == self._poison for each in message.operations):
                raise InputError("what is this?")
        return await self._wire.call(method, message, answer)

    async def pause(self) -> None:
        """See `Calls`."""

    def close(self) -> None:
        """See `Calls`."""


async def test_messages_get_shorter_until_the_parent_takes_them(pair: Pair) -> None:
    pilot, tasks = await running(pair)
    for held in tasks:
        await pair.south.finish(pilot, held)
    link = Fussy(pair, most=1)
    pair.parent = make_parent(pair.south, link, pair.room)
    await pair.tell()
    assert link.lengths == [3, 1, 2, 1, 1]
    assert (await pair.errands()) == {ErrandStatus.ENDED: 3}


@pytest.mark.expects_logs
async def test_the_one_that_spoils_a_message_is_found_and_put_aside(pair: Pair) -> None:
    pilot, tasks = await running(pair)
    for held in tasks:
        await pair.south.finish(pilot, held)
    poison = (await pair.south.store.outbox.next("north", 0, 10))[1].operation.operation_id
    pair.parent = make_parent(pair.south, Fussy(pair, poison=poison), pair.room)
    await pair.tell()
    assert (await pair.errands()) == {ErrandStatus.OPEN: 1, ErrandStatus.ENDED: 2}
    (letter,) = (await pair.south.store.outbox.dead("north", Page(10))).items
    assert letter.operation.operation_id == poison


async def test_a_log_is_told_as_it_is_when_it_is_sent(pair: Pair) -> None:
    pilot, (held, *_) = await running(pair)
    await keep_log(pair.south, pilot, held, b"one\n")
    pair.south.advance(1.0)
    await keep_log(pair.south, pilot, held, b"one\ntwo\n")
    await pair.tell()
    assert reports(pair) == [["log"]]
    assert await log_of(pair, held) == "one\ntwo\n"


async def test_a_log_that_grows_while_it_is_sent_is_sent_again(pair: Pair) -> None:
    pilot, (held, *_) = await running(pair)
    await keep_log(pair.south, pilot, held, b"one\n")

    class Slow(Fussy):
        async def call(self, method: str, message: Any, answer: Any) -> Any:
            found = await super().call(method, message, answer)
            if len(self.lengths) == 1:
                pair.south.advance(1.0)
                await keep_log(pair.south, pilot, held, b"one\ntwo\n")
            return found

    pair.parent = make_parent(pair.south, Slow(pair), pair.room)
    await pair.tell()
    assert reports(pair) == [["log"], ["log"]]
    assert await log_of(pair, held) == "one\ntwo\n"


async def test_a_log_that_is_gone_is_passed_over(pair: Pair) -> None:
    _, (held, *_) = await running(pair)
    await pair.south.services.federation.errands.logged(held.task_id, 1, "stdout")
    await pair.tell()
    assert reports(pair) == []


def test_a_long_log_loses_its_middle() -> None:
    text = b"start " + base64.b64encode(os.urandom(3 * MOST_PACKED)) + b" end"
    short = zlib.decompress(shortened(zlib.compress(text)))
    assert short.startswith(b"start ")
    assert short.endswith(b" end")
    assert b"bytes are left out here" in short
    assert len(short) < MOST_PACKED
    assert shortened(zlib.compress(b"short")) == zlib.compress(b"short")


class Files:
    """Sends files as it is told to."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.sent: list[str] = []

    async def __call__(self, told: Operation) -> Sent:
        self.sent.append(told.body["path"])
        instead = None
        if self.result is Result.REFUSED:
            body = {"error": {"kind": "transfer", "summary": "no room"}}
            instead = replace(
                told,
                operation_id=f"{told.lease_id}/failed",
                kind=OperationKind.FAILED,
                body=body,
            )
        return Sent(self.result, "no room", instead)


async def stored(pair: Pair, files: SendFile) -> Task:
    """A task that has stored a file and is complete; files are sent by ``files``."""
    pilot, (held, *_) = await running(pair)
    pair.parent = make_parent(pair.south, pair.wire, pair.room, send_file=files)
    (errand,) = (await pair.south.store.errands.of_tasks([held.task_id])).values()
    told = operation(errand, OperationKind.FILE, {"path": "out.i3"}, at=1.0, mark="out.i3")
    await pair.south.services.tasks.processing(pilot, held.task_id, held.lease_id)
    await pair.south.services.federation.outbox.add(told)
    await pair.south.finish(pilot, held)
    return held


async def test_a_file_is_sent_before_what_is_told_behind_it(pair: Pair) -> None:
    gate = asyncio.Event()

    async def slowly(told: Operation) -> Sent:
        await gate.wait()
        assert reports(pair) == [["started"]]
        return Sent(Result.APPLIED)

    await stored(pair, slowly)
    await pair.parent.sender.step()
    assert reports(pair) == [["started"]]
    gate.set()
    await pair.tell()
    assert reports(pair) == [["started"], ["finished"]]


@pytest.mark.expects_logs
async def test_without_its_file_a_task_has_failed(pair: Pair) -> None:
    held = await stored(pair, Files(Result.REFUSED))
    await pair.tell()
    assert reports(pair) == [["started"], ["failed"]]
    (errand,) = (await pair.south.store.errands.of_tasks([held.task_id])).values()
    assert errand.status is ErrandStatus.ENDED
    (attempt,) = await pair.north.store.tasks.attempts(errand.parent_task_id)
    assert (attempt.failure_class, attempt.summary) == ("transfer", "no room")
    assert (await pair.south.store.outbox.backlog("north")).dead == 1


async def test_a_file_that_nobody_wants_ends_its_errand(pair: Pair) -> None:
    held = await stored(pair, Files(Result.LOST))
    await pair.parent.sender.step()
    await pair.parent.sender.step()
    (errand,) = (await pair.south.store.errands.of_tasks([held.task_id])).values()
    assert errand.status is ErrandStatus.LOST


async def test_what_waits_is_told_with_every_message(pair: Pair) -> None:
    pilot, tasks = await running(pair)
    for held in tasks:
        await pair.south.finish(pilot, held)
    pair.south.advance(90.0)
    pair.parent.sender._most = 2
    await pair.parent.sender.step()
    (message,) = [message for method, message in pair.wire.said if method == "site.report"]
    assert (message["waiting"], message["lag_s"]) == (1, 90.0)
    assert [each["age_s"] for each in message["operations"]] == [90.0, 90.0]


@pytest.mark.expects_logs
async def test_who_discards_how_a_task_ended_lets_the_parent_have_it_back(pair: Pair) -> None:
    pilot, tasks = await running(pair)
    await pair.south.finish(pilot, tasks[0])
    poison = (await pair.south.store.outbox.next("north", 0, 10))[0].operation.operation_id
    pair.parent = make_parent(pair.south, Fussy(pair, poison=poison), pair.room)
    await pair.tell()
    (letter,) = (await pair.south.store.outbox.dead("north", Page(10))).items
    pair.north.advance(GRACE_S + 1)
    await pair.renew()
    dataset_id = letter.operation.task_id.partition("-")[0]
    dataset = await pair.north.dataset(dataset_id)
    assert set(await pair.north.statuses(dataset)) == {TaskStatus.PROCESSING}  # it may be told still
    assert await pair.south.services.federation.outbox.discard(letter, now=1.0)
    await pair.renew()
    assert sorted(await pair.north.statuses(dataset)) == ["processing", "processing", "waiting"]


async def test_files_that_cannot_be_sent_hold_up_nothing_else(pair: Pair) -> None:
    pilot, tasks = await running(pair)

    async def is_away(told: Operation) -> Sent:
        raise Unavailable("the file store is away")

    pair.parent = make_parent(pair.south, pair.wire, pair.room, send_file=is_away)
    (errand,) = (await pair.south.store.errands.of_tasks([tasks[0].task_id])).values()
    files = [
        operation(errand, OperationKind.FILE, {"area": "job_temp", "path": str(i)}, at=1.0, mark=str(i))
        for i in range(2500)
    ]
    await pair.south.services.federation.outbox.add(*files)
    await pair.south.finish(pilot, tasks[0])
    await pair.south.finish(pilot, tasks[1])
    with suppress(Unavailable):
        await pair.parent.sender.step()
    assert reports(pair) == [["finished"]]
    assert await waiting(pair) == 2501
    await pair.parent.sender.close()
