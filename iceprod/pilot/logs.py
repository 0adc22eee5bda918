"""What a task writes: kept in files of bounded size, and packed for the server."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import time
import zlib
from io import FileIO
from pathlib import Path

HEAD_BYTES = 256 * 1024
TAIL_BYTES = 768 * 1024
TRIM_AT_BYTES = 32 * 1024 * 1024
LIVE_BYTES = 64 * 1024

_SMALL_BYTES = 4096  # a text for which packing in small memory is as good, and a tenth of the work
_SMALL_WINDOW, _SMALL_MEMORY = 12, 5  # of 15 and 9: what has to be cleared before packing


class CappedLog:
    """A file that programs append to, and whose middle is dropped when it grows too long.

    The file is opened for appending, so after it was cut short writers go on at its new
    end.  What they write faster than `trim` is called stays on disk until then.
    """

    def __init__(self, path: str | Path) -> None:
        self.file = FileIO(path, "a+")
        self._head = b""
        self._cut_bytes = 0  # removed from the file so far, the head included
        self._sent_bytes = 0

    def size_bytes(self) -> int:
        """All that was ever written."""
        return self._cut_bytes + os.fstat(self.file.fileno()).st_size

    def trim(self) -> None:
        """Drop the middle, if there is too much of it."""
        size = os.fstat(self.file.fileno()).st_size
        if size <= TRIM_AT_BYTES:
            return
        if not self._cut_bytes:
            self._head = self._read(0, HEAD_BYTES)
        self.file.truncate(0)
        self._cut_bytes += size

    def text(self) -> bytes:
        """All of it, or its head and its tail with a note of what lies between."""
        size = os.fstat(self.file.fileno()).st_size
        total = self._cut_bytes + size
        if total <= HEAD_BYTES + TAIL_BYTES and not self._cut_bytes:
            return self._read(0, size)
        head = self._head if self._cut_bytes else self._read(0, HEAD_BYTES)
        tail = self._read(max(0, size - TAIL_BYTES), TAIL_BYTES)
        left_out = total - len(head) - len(tail)
        return head + b"\n[... %d bytes left out ...]\n" % left_out + tail

    def tail(self, limit: int) -> bytes:
        """The last ``limit`` bytes."""
        size = os.fstat(self.file.fileno()).st_size
        return self._read(max(0, size - limit), limit)

    def news(self) -> bytes | None:
        """The tail for a reader of the running task, or nothing if it has not grown."""
        total = self.size_bytes()
        if total == self._sent_bytes:
            return None
        self._sent_bytes = total
        return self.tail(LIVE_BYTES)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self.file.fileno(), length, offset)


class TaskLogs:
    """The three logs of a task: its programs' stdout and stderr, and the pilot's account of it."""

    def __init__(self, directory: Path) -> None:
        self.stdout = CappedLog(f"{directory}/stdout")
        self.stderr = CappedLog(f"{directory}/stderr")
        self._account: list[str] = []
        self._sent_lines = 0

    def say(self, line: str) -> None:
        """Add a line to the pilot's account."""
        now = time.time()
        self._account.append(f"{_stamp(int(now))}.{int(now * 1000) % 1000:03d}Z {line}\n")

    @property
    def account(self) -> str:
        """The pilot's account so far."""
        return "".join(self._account)

    def trim(self) -> None:
        """Keep the files within their bounds."""
        self.stdout.trim()
        self.stderr.trim()

    def news(self) -> dict[str, str]:
        """What is new for a reader of the running task: packed tails by log name."""
        found = {"stdout": self.stdout.news(), "stderr": self.stderr.news()}
        packed = {name: pack(text) for name, text in found.items() if text is not None}
        if len(self._account) > self._sent_lines:
            self._sent_lines = len(self._account)
            packed["stdlog"] = pack(self.account.encode())
        return packed

    def complete(self) -> dict[str, str]:
        """The packed logs at the end; an empty one is left out."""
        texts = {
            "stdlog": self.account.encode(),
            "stderr": self.stderr.text(),
            "stdout": self.stdout.text(),
        }
        return {name: pack(text) for name, text in texts.items() if text}

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):
            self.stdout.close()
            self.stderr.close()


@functools.lru_cache(maxsize=4)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def pack(text: bytes) -> str:
    """base64(zlib(text)), as the RPC contract has it."""
    if len(text) > _SMALL_BYTES:
        packed = zlib.compress(text, 1)
    else:
        packer = zlib.compressobj(1, zlib.DEFLATED, _SMALL_WINDOW, _SMALL_MEMORY)
        packed = packer.compress(text) + packer.flush()
    return base64.b64encode(packed).decode()
