"""Reports on their way to the server."""

import asyncio

import pytest

from iceprod.pilot.reporter import Journal, Report, Reporter


class Server:
    """Takes batches of calls, and remembers them."""

    def __init__(self):
        self.batches = []

    async def batch(self, calls):
        assert calls
        self.batches.append(calls)
        return [{} for _ in calls]


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
