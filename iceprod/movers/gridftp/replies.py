"""Replies of FTP servers: bytes in, replies out, and what the structured ones say.

Sources: RFC 959 section 4.2, RFC 2228 (63x replies), RFC 2389 (FEAT), GFD.20 sections 3 and 7
(restart and performance markers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from iceprod.movers.gridftp.faults import ProtocolFault

MAX_LINE: Final = 256 * 1024
"""A delegation's answer is one line of some 10 KiB; more than this is no reply."""
MAX_LINES: Final = 2000
MAX_REPLY: Final = 1 << 20

_FIRST: Final = re.compile(rb"([1-6][0-9]{2})([ -]|$)")
_PASV: Final = re.compile(r"(\d{1,3}(?:,\d{1,3}){5})")
_EPSV: Final = re.compile(r"\((.)\1\1(\d{1,5})\1\)")
_STRIPE: Final = re.compile(r"Stripe Index:\s*(\d{1,9})")
_MOVED: Final = re.compile(r"Stripe Bytes Transferred:\s*(\d{1,19})")
_RANGE: Final = re.compile(r"(\d{1,19})-(\d{1,19})")


class ReplyError(ProtocolFault):
    """These bytes are no reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``lines`` without code and separator, as far as they had them."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)

    @property
    def is_preliminary(self) -> bool:
        """Whether another reply to the same command follows."""
        return self.code < 200

    @property
    def is_good(self) -> bool:
        """Whether the command is done."""
        return 200 <= self.code < 300

    @property
    def is_more(self) -> bool:
        """Whether the server wants the next command of several."""
        return 300 <= self.code < 400

    @property
    def is_protected(self) -> bool:
        """Whether it holds another reply, enciphered (RFC 2228)."""
        return self.code in (631, 632, 633)


class ReplyParser:
    """Cuts what a server says into replies, however the network has cut it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code = b""
        self._lines: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def next(self) -> Reply | None:
        """The next reply that is complete.

        Raises:
            ReplyError: what came is none, or is larger than any.
        """
        while (end := self._buffer.find(b"\n")) >= 0:
            if end > MAX_LINE:
                break
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            if (reply := self._take(line)) is not None:
                return reply
        if len(self._buffer) > MAX_LINE:
            raise ReplyError("a line without end")
        return None

    def _take(self, line: bytes) -> Reply | None:
        self._size += len(line)
        if self._size > MAX_REPLY or len(self._lines) >= MAX_LINES:
            raise ReplyError("a reply without end")
        found = _FIRST.match(line)
        if self._code:
            ends = found is not None and found[1] == self._code and found[2] != b"-"
            text = line[4:] if line.startswith(self._code) else line
            self._lines.append(text.decode("utf-8", "surrogateescape"))
            return self._finish() if ends else None
        if found is None:
            raise ReplyError("no reply of an FTP server")
        self._code = found[1]
        self._lines.append(line[4:].decode("utf-8", "surrogateescape"))
        return None if found[2] == b"-" else self._finish()

    def _finish(self) -> Reply:
        reply = Reply(int(self._code), tuple(self._lines))
        self._code, self._lines, self._size = b"", [], 0
        return reply


def passive_address(text: str) -> tuple[str, int]:
    """Address and port of one line of PASV's or SPAS's answer.

    Raises:
        ReplyError: there is none.
    """
    found = _PASV.search(text)
    numbers = [int(one) for one in found[1].split(",")] if found else []
    if not numbers or max(numbers) > 255 or numbers[4] * 256 + numbers[5] == 0:
        raise ReplyError("no address of a data connection")
    return ".".join(map(str, numbers[:4])), numbers[4] * 256 + numbers[5]


def extended_port(text: str) -> int:
    """The port of EPSV's answer (RFC 2428).

    Raises:
        ReplyError: there is none.
    """
    found = _EPSV.search(text)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ReplyError("no port of a data connection")
    return int(found[2])


def striped_addresses(reply: Reply) -> list[tuple[str, int]]:
    """All addresses of SPAS's answer (GFD.20 section 5).

    Raises:
        ReplyError: there is none.
    """
    named = [passive_address(line) for line in reply.lines if _PASV.search(line)]
    if not named:
        raise ReplyError("no address of a data connection")
    return named


def port_argument(address: str, port: int) -> str:
    """``h1,h2,h3,h4,p1,p2`` of an IPv4 address, as PORT wants it."""
    return f"{address.replace('.', ',')},{port >> 8},{port & 255}"


def features(reply: Reply) -> dict[str, str]:
    """Name in upper case → the rest, of FEAT's answer."""
    found: dict[str, str] = {}
    for line in reply.lines[1:-1]:
        name, _, rest = line.strip().partition(" ")
        found[name.upper()] = rest
    return found


def restart_ranges(reply: Reply) -> list[tuple[int, int]]:
    """What a restart marker (111) says is stored: ranges with their ends excluded."""
    found = _RANGE.findall(reply.text) if reply.code == 111 else []
    return [(int(start), int(end)) for start, end in found if int(start) < int(end)]


def performance(reply: Reply) -> tuple[int, int] | None:
    """The stripe of a performance marker (112), and how many bytes it says to have moved."""
    stripe, count = (
        found and int(found[1]) for found in (_STRIPE.search(reply.text), _MOVED.search(reply.text))
    )
    return None if reply.code != 112 or count is None else (stripe or 0, count)
