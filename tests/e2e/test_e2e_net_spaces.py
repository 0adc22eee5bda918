"""Networks of the tests: they reach each other, come apart one way or both, and leave nothing behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.net_spaces import NAMES, NetSpaces, Space, spaces_or_skip

pytestmark = pytest.mark.e2e

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
    port.bind(("0.0.0.0", 7))
    print("ready", flush=True)
    while True:
        text, sender = port.recvfrom(100)
        print(text.decode(), flush=True)
        port.sendto(text, sender)
"""


@pytest.fixture
def net() -> Iterator[NetSpaces]:
    with spaces_or_skip() as made:
        yield made


def echoing(space: Space) -> subprocess.Popen[str]:
    """Something that repeats what it is told, and prints it."""
    process = subprocess.Popen(
        [*space.command, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def told(space: Space | None, address: str, text: str) -> str:
    """What comes back from the echo at an address; nothing if nothing does."""

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
            port.settimeout(0.3)
            port.sendto(text.encode(), (address, 7))
            try:
                found.append(port.recv(100).decode())
            except TimeoutError:
                found.append("")

    def ask_there() -> None:
        with space.entered():
            ask()

    found: list[str] = []
    thread = threading.Thread(target=ask if space is None else ask_there)
    thread.start()
    thread.join()
    return found[0]


def test_sites_come_apart_one_way_and_both(net: NetSpaces):
    one, other = net.add("one"), net.add("other")
    process = echoing(other)
    heard = process.stdout

    assert told(one, other.address, "a") == "a"
    assert told(None, other.address, "b") == "b"
    net.cut("other", "one")
    assert told(one, other.address, "c") == ""
    net.part("one", "other")
    assert told(one, other.address, "d") == ""
    assert told(None, other.address, "e") == "e"
    net.mend()
    assert told(one, other.address, "f") == "f"

    # What was cut one way arrived, and was not answered; what was parted never arrived.
    assert [heard.readline().strip() for _ in range(5)] == ["a", "b", "c", "e", "f"]
    process.kill()
    process.wait()
    heard.close()


def test_nothing_is_left_of_a_network(net: NetSpaces):
    space = net.add("one")
    process = subprocess.Popen([*space.command, "sleep", "60"])
    deadline = time.monotonic() + 10
    while process.pid not in space.pids():
        assert time.monotonic() < deadline
    number = net.number

    # Processes that were not asked to end are ended, too.
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    net.__exit__()
    reaper.join()

    assert not list(NAMES.glob(f"iceprod{number}-*"))
    with pytest.raises(FileNotFoundError), space.entered():
        pass


def test_each_test_has_a_network_of_its_own(net: NetSpaces):
    with NetSpaces() as other:
        assert other.number != net.number
        assert other.add("one").address != net.add("one").address
