"""The proxy that garbles calls: what befalls them is by rule, and the same every time."""

from __future__ import annotations

import gzip
import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fault_proxy import Fault, FaultProxy, Rule, Schedule
from tests.nginx_harness import Upstream

pytestmark = pytest.mark.e2e

ANSWER = json.dumps({"jsonrpc": "2.0", "id": 1, "result": "x" * 1000}).encode()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({"/jsonrpc": (200, {}, ANSWER)}) as server:
        yield server


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(int(upstream.address.rpartition(":")[2])) as made:
        yield made


def ask(
    proxy: FaultProxy, method: str, *, more: str = "", headers: dict[str, str] | None = None
) -> bytes | str:
    """The body of the answer, or what kept it from coming."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"message": more}}).encode()
    if headers:
        body = gzip.compress(body)
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    try:
        client.request("POST", "/jsonrpc", body, headers or {})
        return client.getresponse().read()
    except (http.client.HTTPException, OSError) as exc:
        return type(exc).__name__
    finally:
        client.close()


def faults(proxy: FaultProxy, fault: Fault, **more: Any) -> None:
    proxy.schedule = Schedule([Rule(fault, **more)], seed=1)


def heard(upstream: Upstream) -> list[str]:
    return [json.loads(each.body)["params"]["message"] for each in upstream.seen]


def test_calls_pass_when_no_rule_says_otherwise(proxy: FaultProxy, upstream: Upstream):
    assert ask(proxy, "site.pull") == ANSWER
    assert ask(proxy, "site.pull", headers={"Content-Encoding": "gzip"}) == ANSWER
    assert len(upstream.seen) == 2
    assert proxy.schedule.seen == {"site.pull": 2}


def test_other_requests_pass_whole(proxy: FaultProxy, upstream: Upstream):
    faults(proxy, Fault.LOSE_REQUEST)
    upstream.answers["/files/a"] = (201, {}, b"stored")
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    client.request("PUT", "/files/a", b"y" * 1_000_000)
    assert client.getresponse().read() == b"stored"
    client.close()

    assert len(upstream.requests("/files/a")[0].body) == 1_000_000


def test_requests_and_answers_get_lost(proxy: FaultProxy, upstream: Upstream):
    faults(proxy, Fault.LOSE_REQUEST)
    assert ask(proxy, "site.report") == "RemoteDisconnected"
    assert ask(proxy, "dataset.get") == ANSWER
    assert len(upstream.seen) == 1

    faults(proxy, Fault.LOSE_ANSWER)
    assert ask(proxy, "site.report") == "RemoteDisconnected"
    assert len(upstream.seen) == 2


def test_calls_come_late_twice_and_in_another_order(proxy: FaultProxy, upstream: Upstream):
    faults(proxy, Fault.DELAY, delay_s=0.3)
    before = time.monotonic()
    assert ask(proxy, "site.report", more="late") == ANSWER
    assert time.monotonic() - before > 0.3

    faults(proxy, Fault.TWICE, most=1, delay_s=0.3)
    assert ask(proxy, "site.report", more="twice") == ANSWER
    assert ask(proxy, "site.report", more="between") == ANSWER
    _wait(lambda: len(upstream.seen) == 4)

    faults(proxy, Fault.REORDER, most=1, delay_s=5.0)
    first = threading.Thread(target=ask, args=(proxy, "site.report"), kwargs={"more": "first"})
    first.start()
    _wait(lambda: proxy.schedule.done)
    ask(proxy, "site.report", more="second")
    first.join()
    assert heard(upstream) == ["late", "twice", "between", "twice", "second", "first"]


def test_bodies_are_cut_off(proxy: FaultProxy, upstream: Upstream):
    faults(proxy, Fault.TRUNCATE_ANSWER)
    answers = {ask(proxy, "site.pull") for _ in range(20)}
    assert "IncompleteRead" in answers
    assert {len(each) < len(ANSWER) for each in answers} == {True}
    assert any(isinstance(each, bytes) for each in answers)

    faults(proxy, Fault.TRUNCATE_REQUEST)
    upstream.seen.clear()
    for _ in range(20):
        ask(proxy, "site.pull", more="z" * 1000)
    assert {each.body.endswith(b"}}") for each in upstream.seen} == {False}


def test_it_ends_while_calls_wait(upstream: Upstream):
    with FaultProxy(int(upstream.address.rpartition(":")[2])) as proxy:
        faults(proxy, Fault.DELAY, delay_s=60.0)
        waiting = threading.Thread(target=ask, args=(proxy, "site.pull"))
        waiting.start()
        _wait(lambda: proxy.schedule.done)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_schedule_can_be_repeated():
    def play(seed: int) -> list[tuple[str, int, Fault]]:
        schedule = Schedule([Rule(fault, chance=0.2) for fault in Fault], seed)
        for _ in range(50):
            for name in ("site.pull", "site.report", "dataset.get"):
                schedule.verdict(name)
        return schedule.done

    assert play(1) == play(1) != play(2)
    assert {name for name, *_ in play(1)} == {"site.pull", "site.report"}


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
