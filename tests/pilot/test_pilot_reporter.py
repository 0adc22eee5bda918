"""Reports on their way to the server."""

import asyncio

import pytest

from iceprod.errors import Unavailable
from iceprod.pilot.client import RpcError
from iceprod.pilot.reporter import MOST_REPORTS, Journal, Report, Reporter


class Server:
    """Takes batches of calls, and remembers them; `fault` is raised at the next one."""

    def __init__(self):
        self.batches = []
        self.fault = None
        self.answers = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def batch(self, calls):
        assert calls
        self.batches.append(calls)
        await self.may_answer.wait()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return [self.answers.get(method, {}) for method, _ in calls]


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def settled():
    return []


@pytest.fixture
async def reporter(server, settled, tmp_path):
    made = Reporter(server, Journal(tmp_path / "outbox"), settled.append)
    running = asyncio.create_task(made.run())
    yield made
    assert not running.done(), "reports are sent for as long as the pilot lives"
    running.cancel()


def report(lease_id):
    return Report(lease_id, (("pilot.finish", {"lease_id": lease_id}),))


async def test_a_report_that_is_dropped_before_it_was_sent_stops_no_other(reporter, server, settled):
    reporter.add(report("lost"))
    reporter.drop("lost")
    async with asyncio.timeout(5):
        await reporter.flushed()
        reporter.add(report("held"))
        await reporter.flushed()

    assert settled == ["held"]
    assert server.batches == [[("pilot.finish", {"lease_id": "held"})]]


CLAIM = ("pilot.claim", {"wait_s": 0})


def finish(lease_id):
    return ("pilot.finish", {"lease_id": lease_id})


async def test_a_claim_goes_along_with_the_next_batch(reporter, server, settled):
    server.may_answer.clear()
    server.answers["pilot.claim"] = {"tasks": [1]}
    reporter.add(report("a"))
    await asyncio.sleep(0)
    asked = asyncio.create_task(reporter.along(lambda: CLAIM))
    await asyncio.sleep(0)
    reporter.add(report("b"))
    assert reporter.is_sending
    server.may_answer.set()
    async with asyncio.timeout(5):
        assert await asked == {"tasks": [1]}
        await reporter.flushed()
    assert server.batches == [[finish("a")], [finish("b"), CLAIM]]
    assert settled == ["a", "b"]
    assert not reporter.is_sending


async def test_a_claim_for_which_no_batch_follows_is_given_back(reporter, server):
    server.may_answer.clear()
    reporter.add(report("a"))
    await asyncio.sleep(0)
    asked = asyncio.create_task(reporter.along(lambda: CLAIM))
    await asyncio.sleep(0)
    server.may_answer.set()
    async with asyncio.timeout(5):
        assert await asked is None
    assert server.batches == [[finish("a")]]


@pytest.mark.expects_logs
@pytest.mark.parametrize("fault", [Unavailable("away"), RpcError({"data": {"code": "access_denied"}})])
async def test_what_becomes_of_a_claim_is_told(reporter, server, settled, fault):
    if isinstance(fault, Unavailable):
        server.fault = fault
    else:
        server.answers["pilot.claim"] = fault
    asked = asyncio.create_task(reporter.along(lambda: CLAIM))
    await asyncio.sleep(0)
    reporter.add(report("a"))
    async with asyncio.timeout(5):
        with pytest.raises(type(fault)):
            await asked
        await reporter.flushed()
    assert settled == ["a"]


@pytest.mark.expects_logs
async def test_no_claim_goes_along_while_the_server_is_away(reporter, server):
    server.fault = Unavailable("away")
    reporter.add(report("a"))
    async with asyncio.timeout(5):
        while not server.batches or server.fault:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reporter.is_sending
        await reporter.flushed()


async def test_who_asks_and_goes_away_harms_no_report(reporter, server, settled):
    asked = asyncio.create_task(reporter.along(lambda: CLAIM))
    await asyncio.sleep(0)
    asked.cancel()
    reporter.add(report("a"))
    async with asyncio.timeout(5):
        await reporter.flushed()
    assert settled == ["a"]


async def test_reports_without_a_hurry_go_together_a_moment_later(reporter, server, settled):
    for name in "abc":
        reporter.add(report(name), in_a_hurry=False)
        await asyncio.sleep(0)
    assert server.batches == []
    async with asyncio.timeout(5):
        await reporter.flushed()
    assert server.batches == [[finish(name) for name in "abc"]]
    assert settled == ["a", "b", "c"]


async def test_one_in_a_hurry_takes_the_others_along(reporter, server):
    reporter.add(report("a"), in_a_hurry=False)
    reporter.add(report("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert server.batches == [[finish("a"), finish("b")]]


async def test_what_comes_without_a_hurry_while_others_are_sent_is_sent_too(reporter, server, settled):
    server.may_answer.clear()
    reporter.add(report("a"))
    await asyncio.sleep(0)
    reporter.add(report("b"), in_a_hurry=False)
    server.may_answer.set()
    async with asyncio.timeout(5):
        await reporter.flushed()
    assert server.batches == [[finish("a")], [finish("b")]]
    assert settled == ["a", "b"]


async def test_more_than_one_batch_can_take_goes_in_several(reporter, server, settled):
    for number in range(MOST_REPORTS + 1):
        reporter.add(report(str(number)), in_a_hurry=False)
    async with asyncio.timeout(5):
        await reporter.flushed()
    assert [len(batch) for batch in server.batches] == [MOST_REPORTS, 1]
    assert len(settled) == MOST_REPORTS + 1


async def test_nobody_hurries_while_a_claim_is_on_its_way(reporter, server):
    server.may_answer.clear()
    asked = asyncio.create_task(reporter.along(lambda: CLAIM))
    await asyncio.sleep(0)
    reporter.add(report("a"))
    await asyncio.sleep(0)
    reporter.add(report("b"))
    server.may_answer.set()
    await asked
    await asyncio.sleep(0)
    assert server.batches == [[finish("a"), CLAIM]]
    reporter.hurry()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert server.batches == [[finish("a"), CLAIM], [finish("b")]]
