"""A load generator for one request repeated over many connections: raw sockets and epoll.

It is far cheaper per request than any server measured here, so that the server is what is
busy.  ``python -m bench.load ADDRESS CONNECTIONS SECONDS`` reads the request from standard
input and prints ``requests seconds``; addresses are those of `bench.wire`.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from bench import wire
from bench.harness import ROOT, cpu_s, pin


@dataclass(frozen=True)
class Load:
    """What one run did: answered requests, wall seconds, CPU seconds of the server."""

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.requests * 1e6


def run(pid: int, address: int | str, request: bytes, *, connections: int = 64, seconds: float = 1.5) -> Load:
    """Load the server ``pid`` at ``address`` from a process of its own on the second core."""
    before = cpu_s(pid)
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", str(address), str(connections), str(seconds)],
        cwd=ROOT,
        input=request,
        stdout=subprocess.PIPE,
        check=True,
    )
    requests, took = done.stdout.split()
    return Load(int(requests), float(took), cpu_s(pid) - before)


def post(body: bytes, token: str = "") -> bytes:
    credential = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /jsonrpc HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n{credential}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answer_length(connection: socket.socket, request: bytes) -> int:
    """Send ``request`` once and read its answer, which must be a result; the whole length in bytes."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += wire.receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += wire.receive(connection)
    if b" 200 " not in head or b'"error"' in body or b'"result"' not in body:
        raise SystemExit(f"the server does not echo: {data[:300]!r}")
    return len(head) + 4 + length


def main() -> None:
    pin(1)
    address, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    request = sys.stdin.buffer.read()
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()
    for _ in range(count):
        connection = wire.connect(address)
        size = answer_length(connection, request)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    print(*drive(poll, sockets, request, size=size, seconds=seconds))


def drive(
    poll: select.epoll, sockets: dict[int, socket.socket], request: bytes, *, size: int, seconds: float
) -> tuple[int, float]:
    """Keep one request under way on each connection for ``seconds``; how many, in what time."""
    missing = dict.fromkeys(sockets, size)
    for connection in sockets.values():
        connection.sendall(request)
    answered = 0
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        for number, _ in poll.poll(1.0):
            received = len(wire.receive(sockets[number]))
            if not received:
                raise SystemExit("the server closed a connection")
            missing[number] -= received
            if missing[number] == 0:
                answered += 1
                missing[number] = size
                sockets[number].sendall(request)
    return answered, time.perf_counter() - start


if __name__ == "__main__":
    main()
