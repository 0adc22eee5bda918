"""Pilots as cheap as they can be: raw sockets that claim and finish tasks as fast as answers come.

``python -m bench.pilot_load ADDRESS TOKENS_FILE SECONDS [MOST]`` claims for that long (or that
many), then finishes everything it claimed, and prints one JSON object with the number of
calls and seconds of each phase.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bench import wire
from bench.harness import ROOT, pin

OFFER = {"cpu": 1, "gpu": 0, "memory": 8, "disk": 100, "time": 100}
CLAIM = json.dumps({"jsonrpc": "2.0", "method": "pilot.claim", "params": {"offer": OFFER}, "id": 1}).encode()


def run(data_dir: Path, address: int | str, seconds: float, most: int = 0) -> dict[str, float]:
    """Claim and finish from a process of its own."""
    command = [sys.executable, "-m", "bench.pilot_load", str(address), str(data_dir / "bench.json")]
    done = subprocess.run([*command, str(seconds), str(most)], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


class Pilots:
    """Connections with a credential each, one call under way on every one."""

    def __init__(self, address: str, tokens: list[str]) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._heads: dict[int, bytes] = {}
        self._parts: dict[int, bytes] = {}
        for token in tokens:
            connection = wire.connect(address)
            number = connection.fileno()
            self._sockets[number] = connection
            self._heads[number] = (
                "POST /jsonrpc HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "
            ).encode()
            self._parts[number] = b""
            self._poll.register(number, select.EPOLLIN)

    def drive(
        self, next_body: Callable[[int], bytes | None], take: Callable[[int, bytes], None]
    ) -> tuple[int, float]:
        """Send what ``next_body`` gives until it gives None; the number of answers, and the seconds."""
        started = time.perf_counter()
        under_way = sum(self._send(number, next_body(number)) for number in self._sockets)
        answers = 0
        while under_way:
            for number, _ in self._poll.poll(10.0):
                body = self._receive(number)
                if body is None:
                    continue
                answers += 1
                take(number, body)
                under_way += self._send(number, next_body(number)) - 1
        return answers, time.perf_counter() - started

    def _send(self, number: int, body: bytes | None) -> int:
        if body is None:
            return 0
        self._sockets[number].sendall(b"%b%d\r\n\r\n%b" % (self._heads[number], len(body), body))
        return 1

    def _receive(self, number: int) -> bytes | None:
        data = self._parts[number] + wire.receive(self._sockets[number])
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
            if len(body) >= length:
                self._parts[number] = b""
                return body
        self._parts[number] = data
        return None


def main() -> None:
    pin(1)
    seconds = float(sys.argv[3])
    most = int(sys.argv[4]) or sys.maxsize
    pilots = Pilots(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())["tokens"])
    held: dict[int, deque[tuple[bytes, bytes]]] = {}
    sent = 0
    end = time.perf_counter() + seconds

    def claim(_: int) -> bytes | None:
        nonlocal sent
        sent += 1
        return CLAIM if time.perf_counter() < end and sent <= most else None

    def keep(number: int, body: bytes) -> None:
        task, lease = _between(body, b'"task_id":"'), _between(body, b'"lease_id":"')
        held.setdefault(number, deque()).append((task, lease))

    def finish(number: int) -> bytes | None:
        if not held.get(number):
            return None
        task, lease = held[number].popleft()
        return (
            b'{"jsonrpc":"2.0","method":"pilot.finish","params":{"task_id":"%b","lease_id":"%b",'
            b'"stats":{"hostname":"bench","time_used":12.5,"resources":{"memory":1.1}}},"id":1}'
        ) % (task, lease)

    claims, claim_s = pilots.drive(claim, keep)
    finishes, finish_s = pilots.drive(finish, _expect_result)
    figures = {"claims": claims, "claim_s": claim_s, "finishes": finishes, "finish_s": finish_s}
    print(json.dumps(figures))


def _between(body: bytes, start: bytes) -> bytes:
    if start not in body:
        raise SystemExit(f"no task was handed out: {body[:300]!r}")
    return body.split(start, 1)[1].split(b'"', 1)[0]


def _expect_result(_: int, body: bytes) -> None:
    if b'"error"' in body:
        raise SystemExit(f"not finished: {body[:300]!r}")


if __name__ == "__main__":
    main()
