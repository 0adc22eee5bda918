"""The client against the real listener: results, errors of the right class, retries."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager

import pytest

from iceprod.errors import InputError, LeaseLost, NotAuthenticated, NotFoundError, RateLimited, Unavailable
from iceprod.rpc.client import Client, RetryPolicy, SyncClient, error_from
from iceprod.rpc.dispatch import Dispatcher
from iceprod.rpc.registry import Call, Registry
from iceprod.server.fastlane import FastLane


class Pauses:
    """Takes the place of sleeping and keeps how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@asynccontextmanager
async def client_of(dispatcher, **options):
    lane = FastLane(dispatcher)
    port = await lane.start()
    client = Client(f"http://127.0.0.1:{port}/jsonrpc", **options)
    try:
        yield client
    finally:
        client.close()
        await lane.drain(timeout_s=0.5)


def failing(error, *, times: int) -> tuple[Dispatcher, list[str]]:
    """A dispatcher whose methods raise ``error`` so often before they succeed, and the calls it gets."""
    registry = Registry()
    calls: list[str] = []

    async def method(_call: Call, *, request_id: str = "") -> str:
        """Fail at first."""
        calls.append(request_id)
        if len(calls) <= times:
            raise error
        return "done"

    for name in ("task.get", "dataset.submit"):
        registry.method(name, action=None)(method)
    return Dispatcher(registry, authenticate=str, authorize=lambda *_: None), calls


async def test_client_gives_the_result(dispatcher):
    async with client_of(dispatcher, token="iu_alice") as client:
        assert await client.call("subtract", minuend=5, subtrahend=3) == 2
        assert (await client.call("whoami"))["id"] == "alice"
        assert await client.call("large", size=2_000_000) == "x" * 2_000_000


async def test_client_sends_long_messages_compressed(dispatcher):
    async with client_of(dispatcher, token="iu_alice", pack_over=200) as client:
        assert await client.call("whoami") == {"id": "alice", "remote": "127.0.0.1"}
        for value in ("e" * 500, "é" * 400, "e" * 500):
            assert await client.call("echo", value=value) == value
        assert await client.ask("echo", {"value": "e" * 300}, timeout_s=20.0) == "e" * 300


async def test_client_may_be_closed_while_it_waits(dispatcher):
    lane = FastLane(dispatcher)
    client = Client(f"http://127.0.0.1:{await lane.start()}/jsonrpc", token="iu_alice")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = Client(f"http://127.0.0.1:{silent.getsockname()[1]}/jsonrpc")
        asked = asyncio.create_task(waiting.ask("echo", {"value": 1}, timeout_s=30.0))
        await client.call("echo", value="e")  # by now that one is under way
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        waiting.close()
        await client.call("echo", value="e")
    client.close()
    await lane.drain(timeout_s=0.5)


async def test_client_asks_once(dispatcher):
    pauses = Pauses()
    client = Client("http://127.0.0.1:9/jsonrpc", sleep=pauses)
    with pytest.raises(Unavailable):
        await client.ask("task.get", {}, timeout_s=5.0)
    client.close()
    async with client_of(dispatcher, token="iu_alice") as known:
        with pytest.raises(LeaseLost):
            await known.ask("stale", {}, timeout_s=5.0)

    assert pauses.seconds == []


@pytest.mark.parametrize(
    ("method", "params", "kind"),
    [
        ("stale", {}, LeaseLost),
        ("whoami", {}, NotAuthenticated),
        ("subtract", {"minuend": 1}, InputError),
        ("nothing", {}, InputError),
    ],
)
async def test_client_raises_the_error_of_the_server(dispatcher, method, params, kind):
    async with client_of(dispatcher) as client:
        with pytest.raises(kind) as caught:
            await client.call(method, **params)

    assert type(caught.value) is kind


async def test_client_keeps_the_details_of_an_error(dispatcher):
    async with client_of(dispatcher) as client:
        with pytest.raises(LeaseLost, match="another pilot has it") as caught:
            await client.call("stale")

    assert caught.value.detail == {"holder": "p2", "number": -32011}


async def test_client_sorts_the_answers_of_a_batch(dispatcher):
    async with client_of(dispatcher) as client:
        found = await client.batch(
            [("sum", {"a": 1}), ("stale", {}), ("subtract", {"minuend": 3, "subtrahend": 1})]
        )

        assert await client.batch([]) == []

    assert (found[0], type(found[1]), found[2]) == (1, LeaseLost, 2)


async def test_client_notifies(dispatcher):
    async with client_of(dispatcher) as client:
        await client.notify("sum", a=1)

    assert dispatcher.calls["sum"] == 1


@pytest.mark.parametrize(
    ("method", "params", "attempts"),
    [("task.get", {}, 3), ("dataset.submit", {"request_id": "r1"}, 3), ("dataset.submit", {}, 1)],
)
async def test_client_repeats_only_what_may_be_repeated(method, params, attempts):
    dispatcher, calls = failing(Unavailable("later"), times=2)
    pauses = Pauses()
    async with client_of(dispatcher, sleep=pauses) as client:
        if attempts == 1:
            with pytest.raises(Unavailable, match="later"):
                await client.call(method, **params)
        else:
            assert await client.call(method, **params) == "done"

    assert (len(calls), len(pauses.seconds)) == (attempts, attempts - 1)


async def test_client_waits_as_long_as_the_server_asks():
    dispatcher, calls = failing(RateLimited("slowly", retry_after_s=7), times=1)
    pauses = Pauses()
    async with client_of(dispatcher, sleep=pauses) as client:
        assert await client.call("dataset.submit") == "done"

    assert (len(calls), pauses.seconds) == (2, [7.0])


async def test_client_gives_up_in_the_end():
    dispatcher, calls = failing(Unavailable("later"), times=99)
    pauses = Pauses()
    async with client_of(
        dispatcher, sleep=pauses, policy=RetryPolicy(attempts=4, first_s=1, longest_s=2)
    ) as client:
        with pytest.raises(Unavailable, match="later"):
            await client.call("task.get")

    assert len(calls) == 4
    assert all(
        low <= pause <= high
        for pause, (low, high) in zip(pauses.seconds, [(0.5, 1), (1, 2), (1, 2)], strict=True)
    )


async def test_client_repeats_any_call_that_never_reached_the_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pauses = Pauses()
    client = Client(f"http://127.0.0.1:{port}/jsonrpc", sleep=pauses, policy=RetryPolicy(attempts=3))

    with pytest.raises(Unavailable):
        await client.call("dataset.submit")

    assert len(pauses.seconds) == 2
    client.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "no JSON-RPC"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "no JSON-RPC"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "HTTP 502"),
    ],
)
async def test_client_says_what_is_wrong_with_an_answer(answer, kind):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/jsonrpc", policy=RetryPolicy(attempts=1))

    with pytest.raises(Exception, match=kind):
        await client.call("echo")

    client.close()
    server.close()


def test_error_whose_class_writes_its_own_message_is_restored():
    error = error_from(
        -32004, "no task 'x'", {"code": "not_found", "retryable": False, "kind": "task", "id": "x"}
    )

    assert type(error) is NotFoundError
    assert (str(error), error.detail["kind"]) == ("no task 'x'", "task")


def test_error_of_an_unknown_slug_keeps_it():
    assert error_from(-32050, "odd", {"code": "novel", "retryable": True}).detail["slug"] == "novel"


def test_sync_client_needs_no_loop(dispatcher):
    ready = threading.Event()
    stop = asyncio.Event()
    found: dict[str, object] = {}

    async def serve() -> None:
        lane = FastLane(dispatcher)
        found["port"] = await lane.start()
        found["loop"] = asyncio.get_running_loop()
        ready.set()
        await stop.wait()
        await lane.drain(timeout_s=1)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(60)
    with SyncClient(f"http://127.0.0.1:{found['port']}/jsonrpc", token="iu_alice") as client:
        assert client.call("subtract", minuend=5, subtrahend=3) == 2
        assert client.batch([("sum", {"a": 1})]) == [1]
        client.notify("sum")
    found["loop"].call_soon_threadsafe(stop.set)
    thread.join(60)
