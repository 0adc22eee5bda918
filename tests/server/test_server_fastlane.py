"""The fast lane over real loopback sockets: what it answers, what it refuses, and when."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from rpc_samples import (
    CHUNKED,
    ECHO,
    ECHOED,
    HEAD,
    NOTIFICATION,
    SMUGGLING,
    STRICTER,
    Gates,
    call,
    converse,
    request,
    sample_dispatcher,
    statuses,
    until,
)

from iceprod.errors import StoreUnavailable
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.rpc.dispatch import Dispatcher, Pending
from iceprod.rpc.packing import pack
from iceprod.server.fastlane import FastLane
from iceprod.server.fastlane_request import FastLaneLimits, Head, KnownHeads

LAST = b"Connection: close\r\n"
SMALL = FastLaneLimits(head_bytes=1024, body_bytes=4096, in_flight=4, linger_s=0.2)


@asynccontextmanager
async def running(gates=None, **options):
    lane = FastLane(sample_dispatcher(gates), **options)
    port = await lane.start()
    try:
        yield lane, port
    finally:
        await lane.drain(timeout_s=0.5)


@pytest.fixture
async def lane():
    async with running(limits=SMALL) as found:
        yield found


async def test_call_is_answered(lane):
    answer = await converse(lane[1], request(extra=LAST))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert body == ECHOED


@pytest.mark.parametrize("kind", [b"application/json-rpc", b"Application/JSON; charset=UTF-8", b""])
async def test_content_types_of_old_clients_are_taken(lane, kind):
    assert statuses(await converse(lane[1], request(extra=LAST + b"Content-Type: " + kind + b"\r\n"))) == [
        200
    ]


async def test_notification_is_answered_with_204(lane):
    assert statuses(await converse(lane[1], request(NOTIFICATION, LAST))) == [204]


async def test_fault_in_the_message_is_still_200(lane):
    answer = await converse(lane[1], request(b"nonsense", LAST))

    assert statuses(answer) == [200]
    assert b"-32700" in answer


async def test_missing_credential_is_an_rpc_error(lane):
    answer = await converse(lane[1], request(extra=LAST, head=b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\n"))

    assert statuses(answer) == [200]
    assert b"-32001" in answer


async def test_chunked_body_is_joined_and_trailers_are_ignored(lane):
    pieces = b"".join(b"%x\r\n%s\r\n" % (1, ECHO[n : n + 1]) for n in range(len(ECHO)))
    data = (
        HEAD + LAST + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nAuthorization: Bearer x\r\n\r\n"
    )

    assert (await converse(lane[1], data)).endswith(b"\r\n\r\n" + ECHOED)


async def test_request_may_arrive_byte_by_byte(lane):
    reader, writer = await asyncio.open_connection("127.0.0.1", lane[1])
    for byte in request(extra=LAST):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)

    assert (await reader.read()).endswith(ECHOED)
    writer.close()


async def test_client_that_expects_continue_gets_it(lane):
    reader, writer = await asyncio.open_connection("127.0.0.1", lane[1])
    writer.write(HEAD + LAST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(ECHO))

    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(ECHO)
    assert (await reader.read()).endswith(ECHOED)
    writer.close()


async def test_a_compressed_message_is_read(lane):
    packed, coded = pack(ECHO), b"Content-Encoding: gzip\r\n"
    damaged = packed[:-9] + b"x" * 9

    answer = await converse(
        lane[1],
        request(packed, coded) * 2 + request() + request(damaged, coded) + request(ECHO, coded + LAST),
    )

    assert statuses(answer) == [200] * 5
    assert answer.count(ECHOED) == 3
    assert answer.count(b"-32700") == 2
    assert lane[0].held == 0
    twice = await converse(lane[1], request(packed, coded * 2))
    assert statuses(twice) == [400]


async def test_http_1_0_gets_one_answer(lane):
    answer = await converse(lane[1], request(head=HEAD.replace(b"1.1", b"1.0")) * 2)

    assert statuses(answer) == [200]


async def test_client_that_half_closes_gets_its_answer():
    gates = Gates()
    async with running(gates) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(call("wait", name="a")))
        writer.write_eof()
        await gates.started.get()
        await asyncio.sleep(0)
        gates.gate("a").set()

        assert (await reader.read()).endswith(b'"result":"a","id":1}')
        writer.close()


@pytest.mark.parametrize("data", [*SMUGGLING.values(), *STRICTER.values()], ids=[*SMUGGLING, *STRICTER])
async def test_ambiguous_request_is_refused_and_nothing_behind_it_is_read(lane, data):
    answer = await converse(lane[1], data + request())

    assert statuses(answer) == [400]
    assert ECHOED not in answer


REFUSED = {
    "other path": (request(head=b"POST /other HTTP/1.1\r\nHost: x\r\n"), 404),
    "other method": (b"GET /jsonrpc HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "tunnel": (b"CONNECT /jsonrpc HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "upgrade": (request(extra=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), 400),
    "form": (request(extra=b"Content-Type: application/x-www-form-urlencoded\r\n"), 415),
    "long body": (HEAD + b"Content-Length: 4097\r\n\r\n", 413),
    "very long body": (HEAD + b"Content-Length: 9223372036854775807\r\n\r\n", 413),
    "long chunk": (CHUNKED + b"2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n", 413),
    "many chunks": (CHUNKED + b"10\r\n0123456789abcdef\r\n" * 300, 413),
    "long header": (HEAD + b"X: " + b"x" * 1100 + b"\r\n\r\n", 431),
    "many headers": (request(extra=b"X:\r\n" * 70), 431),
    "header without end": (HEAD + b"X: " + b"x" * 2_000_000, 431),
    "target without end": (b"POST /" + b"x" * 2_000_000, 431),
    "chunk extension without end": (CHUNKED + b"1;" + b"x" * 2_000_000, 431),
    "trailer without end": (CHUNKED + b"0\r\nX: " + b"x" * 2_000_000, 431),
    "unknown expectation": (request(extra=b"Expect: more\r\n"), 417),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_request_that_is_not_for_this_listener_is_refused(lane, data, status):
    assert statuses(await converse(lane[1], data)) == [status]
    assert lane[0].held == 0


async def test_pipelined_requests_are_answered_in_order():
    gates = Gates()
    async with running(gates) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        bodies = [call("wait", name="a"), ECHO, call("wait", name="b")]
        writer.write(b"".join(map(request, bodies)) + b"NONSENSE\r\n\r\n")
        await gates.started.get()
        await gates.started.get()
        gates.gate("b").set()
        await asyncio.sleep(0)
        gates.gate("a").set()

        answer = await reader.read()
        writer.close()

    assert statuses(answer) == [200, 200, 200, 400]
    places = [answer.index(text) for text in (b'"a"', b'"e"', b'"b"')]
    assert places == sorted(places)


async def test_only_so_many_requests_of_a_connection_run_at_a_time():
    gates = Gates()
    async with running(gates, limits=SMALL) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(call("wait", name="a")) * 30 + request(extra=LAST))
        for _ in range(4):
            await gates.started.get()
        gates.gate("a").set()

        assert statuses(await reader.read()) == [200] * 31
        writer.close()

    assert gates.most_running == 4


async def test_only_so_many_requests_of_all_connections_are_begun_per_turn():
    gates = Gates()
    async with running(gates, limits=replace(SMALL, per_turn=2)) as (lane, port):
        begun, run = [0], lane.run

        def counting(pending):
            begun[-1] += 1
            return run(pending)

        def turn():
            if begun[-1]:
                begun.append(0)
            asyncio.get_running_loop().call_soon(turn)

        lane.run = counting
        turn()
        gates.gate("a").set()
        sent = request(call("wait", name="a")) * 3 + request(extra=LAST)
        answers = await asyncio.gather(*(converse(port, sent) for _ in range(10)))

        assert [statuses(answer) for answer in answers] == [[200] * 4] * 10
        assert sum(begun) == 30
        assert max(begun) == 2


async def test_client_that_takes_no_answers_is_not_served_further():
    async with running() as (lane, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request(call("large", size=1_000_000)) * 100)
        await writer.drain()
        for _ in range(200):
            await asyncio.sleep(0)
        served = lane.requests
        answers = 0
        while answers < 100:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            answers += 1
        writer.close()

        assert served < 30
        assert lane.requests == 100


async def test_long_poll_ends_with_its_client_and_other_calls_do_not():
    gates = Gates()
    async with running(gates) as (_, port):
        for method in ("poll", "wait"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(call(method, name=method)))
            await gates.started.get()
            writer.transport.abort()
        await until(lambda: bool(gates.ended))
        gates.gate("wait").set()

    assert gates.ended == ["poll cancelled", "wait"]


CERTIFICATE = (
    b"POST /jsonrpc HTTP/1.1\r\nHost: here\r\n"
    b"X-SSL-Verify: SUCCESS\r\nX-SSL-Subject-DN: CN=a\r\nX-SSL-Issuer-DN: CN=b\r\n"
)


async def test_long_poll_ends_with_a_client_whose_certificate_had_to_be_looked_up():
    async def holder(*_):
        return Principal(PrincipalKind.PILOT, "p")

    gates = Gates()
    async with running(gates, is_proxied=True, holder=holder) as (_, port):
        for method in ("poll", "wait"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(call(method, name=method), head=CERTIFICATE))
            await gates.started.get()
            writer.transport.abort()
        await until(lambda: bool(gates.ended))
        gates.gate("wait").set()

    assert gates.ended == ["poll cancelled", "wait"]


async def test_it_is_told_when_nobody_can_say_whose_a_certificate_is():
    async def holder(*_):
        raise StoreUnavailable("no datastore", retry_after_s=2.0)

    async with running(is_proxied=True, holder=holder) as (_, port):
        answer = await converse(port, request(call("whoami"), extra=LAST, head=CERTIFICATE))

    assert b'"code":"unavailable"' in answer


@pytest.mark.parametrize(
    ("field", "data", "expected"),
    [
        ("header_s", b"POST /jsonrpc HTTP/1.1\r\nHost:", [408]),
        ("header_s", b"", []),
        ("body_s", HEAD + b"Content-Length: 10\r\n\r\n{", [408]),
        ("idle_s", request(), [200]),
        ("linger_s", b"NONSENSE\r\n\r\n", [400]),
    ],
)
async def test_slow_client_is_dropped(monkeypatch, field, data, expected):
    monkeypatch.setattr("iceprod.server.fastlane._TICK_S", 0.02)
    async with running(limits=replace(FastLaneLimits(), **{field: 0.05})) as (lane, port):
        assert statuses(await converse(port, data)) == expected
        await until(lambda: not lane.connections)


async def test_busy_client_is_not_taken_for_a_slow_one(monkeypatch):
    monkeypatch.setattr("iceprod.server.fastlane._TICK_S", 0.01)
    gates = Gates()
    limits = FastLaneLimits(header_s=0.02, body_s=0.02, idle_s=0.02)
    async with running(gates, limits=limits) as (_, port):
        asyncio.get_running_loop().call_later(0.1, gates.gate("a").set)

        assert statuses(await converse(port, request(call("wait", name="a"), LAST))) == [200]


async def test_connection_over_the_limit_is_told_so():
    async with running(limits=FastLaneLimits(connections=1)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert statuses(await converse(port, request())) == [503]
        writer.close()


async def test_bodies_of_all_connections_together_are_bounded():
    async with running(limits=FastLaneLimits(held_bytes=3000)) as (lane, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 2000)
        await until(lambda: lane.held >= 2000)

        assert statuses(await converse(port, HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 2000)) == [503]
        writer.close()
        await until(lambda: not lane.held)


@pytest.mark.parametrize(
    ("is_proxied", "header", "expected"),
    [
        (False, b"X-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n", "127.0.0.1"),
        (True, b"X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4"),
        (True, b"X-Forwarded-For: 9.9.9.9, 1.2.3.4\r\n", "1.2.3.4"),
        (True, b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 10.1.1.1\r\n", "10.1.1.1"),
        (True, b"X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 2001:db8::1\r\n", "2001:db8::1"),
        (True, b"X-Real-IP: 1.2.3.4\r\nX-Real-IP: 9.9.9.9\r\n", "127.0.0.1"),
        (True, b"X-Forwarded-For: nonsense\r\n", "127.0.0.1"),
        (True, b"", "127.0.0.1"),
    ],
)
async def test_only_a_proxy_tells_the_address_of_its_client(is_proxied, header, expected):
    async with running(is_proxied=is_proxied) as (_, port):
        answer = await converse(port, request(call("whoami"), LAST + header))

    assert f'["alice","{expected}"]'.encode() in answer


async def test_drain_finishes_what_runs_and_closes_what_is_idle():
    gates = Gates()
    lane = FastLane(sample_dispatcher(gates))
    port = await lane.start()
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
    busy_writer.write(request(call("wait", name="a")))
    await gates.started.get()

    draining = asyncio.create_task(lane.drain(timeout_s=5))
    assert await idle.read() == b""
    gates.gate("a").set()
    answer = await busy.read()
    await draining

    assert statuses(answer) == [200]
    assert b"\r\nConnection: close\r\n" in answer
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    idle_writer.close()
    busy_writer.close()


@pytest.mark.expects_logs
async def test_drain_cuts_off_what_takes_too_long():
    gates = Gates()
    lane = FastLane(sample_dispatcher(gates))
    port = await lane.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(call("wait", name="a")))
    await gates.started.get()

    await lane.drain(timeout_s=0.01)

    assert await reader.read() == b""
    assert gates.ended == ["a cancelled"]
    writer.close()


async def _ask(reader, writer, data, answers=1):
    """The bodies of so many answers to what is written in one piece."""
    writer.write(data)
    found = []
    for _ in range(answers):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(await reader.readexactly(length))
    return found


async def test_head_that_came_before_means_the_same_again(lane):
    first = call("echo", value="one")
    reader, writer = await asyncio.open_connection("127.0.0.1", lane[1])
    stranger = HEAD.replace(b"iu_alice", b"iu_nobdy")

    assert await _ask(reader, writer, request(first)) == [b'{"jsonrpc":"2.0","result":"one","id":1}']
    assert b'"two"' in (await _ask(reader, writer, request(call("echo", value="two"))))[0]
    assert b'"longer"' in (await _ask(reader, writer, request(call("echo", value="longer"))))[0]
    assert b"unknown token" in (await _ask(reader, writer, request(first, head=stranger)))[0]
    writer.close()


async def test_known_head_ends_neither_too_early_nor_too_late(lane):
    one, two = (request(call("echo", value=value)) for value in ("one", "two"))
    reader, writer = await asyncio.open_connection("127.0.0.1", lane[1])
    await _ask(reader, writer, one)

    pipelined = await _ask(reader, writer, two + one + two, answers=3)
    writer.write(one[:-5])
    await asyncio.sleep(0)
    halved = await _ask(reader, writer, one[-5:] + two, answers=2)

    assert [b"one" in answer for answer in pipelined] == [False, True, False]
    assert [b"one" in answer for answer in halved] == [True, False]
    writer.close()


async def test_known_heads_are_bounded():
    heads = KnownHeads()
    head = Head(FastLaneLimits())
    head.fields = {b"content-length": b"0"}
    datas = [b"X: %d\r\n\r\n" % number for number in range(20_000)]

    for data in [*datas, b"X: " + b"x" * 2000 + b"\r\n\r\n"]:
        heads.learn(data, head, b"")

    known = [data for data in datas if heads.split(data) is not None]
    assert 0 < len(known) <= 16_384
    assert heads.split(datas[-1]) == (head, b"", "")
    assert heads.split(b"X: " + b"x" * 2000 + b"\r\n\r\n") is None


ID, OTHER_ID = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2


@pytest.mark.parametrize("is_proxied", [True, False])
async def test_a_head_is_known_whatever_id_its_request_has(is_proxied):
    heads = KnownHeads(is_proxied=is_proxied)
    head = Head(FastLaneLimits())
    head.fields = {b"content-length": b"1"}
    first, second = (b"POST x\r\nX-Request-Id: %b\r\nA: b\r\n\r\n1" % each for each in (ID, OTHER_ID))

    heads.learn(first, head, b"1")

    assert heads.split(second) == ((head, b"1", OTHER_ID.decode()) if is_proxied else None)
    for odd in (OTHER_ID[1:], b"!" * 32, OTHER_ID + b"0", OTHER_ID + b" "):
        assert heads.split(second.replace(OTHER_ID, odd)) is None


@pytest.mark.parametrize(
    ("is_proxied", "told", "expected"),
    [
        (True, b"X-Request-Id: %b\r\n" % ID, True),
        (True, b"X-Request-Id: <b>\r\n", False),
        (False, b"X-Request-Id: %b\r\n" % ID, False),
    ],
)
async def test_only_a_proxy_names_requests(is_proxied, told, expected, monkeypatch):
    seen = []
    dispatcher = sample_dispatcher(None)
    begin = dispatcher.begin

    def note(body, **given):
        seen.append(given["request_id"])
        return begin(body, **given)

    monkeypatch.setattr(dispatcher, "begin", note)
    lane = FastLane(dispatcher, is_proxied=is_proxied)
    port = await lane.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        # The first goes through the parser, the second is known.
        for value in ("one", "two"):
            await _ask(reader, writer, request(call("echo", value=value), told))
    finally:
        writer.close()
        await lane.drain(timeout_s=0.5)

    assert len(seen) == 2
    assert [each == ID.decode() for each in seen] == [expected, expected]


async def known_later(credential):
    return Principal(PrincipalKind.PILOT, credential)


@pytest.mark.parametrize(
    ("body", "expected"),
    [(call("poll"), True), (call("wait"), False), (b"[%s]" % call("poll"), False), (b"{", False)],
)
@pytest.mark.parametrize("given", ["token", "certificate"])
async def test_who_calls_is_looked_up_as_cancellably_as_what_is_called(body, expected, given):
    methods = sample_dispatcher(Gates()).registry
    dispatcher = Dispatcher(methods, authenticate=known_later, authorize=lambda *_: None)
    shown = {"bearer": "t"} if given == "token" else {"otherwise": known_later("c")}

    answer = dispatcher.begin(body, **shown)
    assert isinstance(answer, Pending)
    assert answer.cancellable is expected
    await answer.run()
