"""The small JSON-RPC client against a server that misbehaves."""

import pytest
from pilot_harness import TOKEN, refused

from iceprod.errors import Unavailable
from iceprod.pilot.client import LONGEST_DELAY_S, RpcClient, RpcError, back_off_s


@pytest.fixture
def client(server):
    made = RpcClient(server.url, TOKEN)
    yield made
    made.close()


def test_answers_of_a_batch_keep_the_order_of_its_calls(client, server):
    server.faults["pilot.log"] = [refused("lease_lost")]
    calls = [("pilot.bye", {}), ("pilot.log", {}), ("pilot.heartbeat", {"tasks": []})]
    first, second, third = client.batch(calls)
    assert first == {}
    assert isinstance(second, RpcError)
    assert second.slug == "lease_lost"
    assert third["lost"] == []


def test_an_error_tells_whether_and_when_to_try_again(client, server):
    server.faults["pilot.bye"] = [refused("rate_limited", retryable=True, retry_after_s=3)]
    with pytest.raises(RpcError) as caught:
        client.call("pilot.bye", {})
    assert caught.value.may_retry
    assert caught.value.retry_after_s == 3


@pytest.mark.parametrize("fault", [500, 502, 503, "lose"])
def test_no_proper_answer_is_unavailable_and_the_next_call_connects_anew(client, server, fault):
    server.faults["pilot.bye"] = [fault]
    with pytest.raises(Unavailable):
        client.call("pilot.bye", {})
    assert client.call("pilot.bye", {}) == {}


def test_a_connection_that_the_server_closed_is_replaced_unnoticed(client, server):
    client.call("pilot.bye", {})
    server.stop()
    server.start()
    assert client.call("pilot.bye", {}) == {}


def test_one_connection_serves_many_calls(client, server):
    for _ in range(20):
        client.call("pilot.bye", {})
    assert len(server.connections) == 1


@pytest.mark.parametrize("url", ["", "ftp://x", "host:80", "http://"])
def test_only_http_addresses_are_taken(url):
    with pytest.raises(ValueError, match="address"):
        RpcClient(url, TOKEN)


def test_back_off_grows_to_a_bound_and_respects_the_server():
    assert all(back_off_s(n) <= LONGEST_DELAY_S for n in range(0, 2000, 50))
    assert back_off_s(0) <= 0.25
    assert back_off_s(0, at_least_s=5) == 5
