"""A small JSON-RPC 2.0 client on the standard library: one kept-alive connection.

`RpcClient` blocks and belongs to one thread at a time; `Caller` gives it a thread and
repeats what may be repeated.  Every call of a pilot that changes something names a lease,
so that doing it twice is the same as doing it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from iceprod.errors import Unavailable

Call = tuple[str, dict[str, Any]]

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# A proxy speaks for a server that is away or busy, and not in the words of JSON-RPC.
_PASSING = frozenset({408, 429, 502, 503, 504})


class RpcError(Exception):
    """The server's error object; ``slug`` is its stable code (`iceprod.errors`)."""

    def __init__(self, error: dict[str, Any]) -> None:
        data = error.get("data")
        detail = data if isinstance(data, dict) else {}
        super().__init__(str(error.get("message", "error"))[:500])
        self.slug = str(detail.get("code", error.get("code", "internal")))
        self.may_retry = bool(detail.get("retryable", False))
        self.retry_after_s = float(detail.get("retry_after_s") or 0.0)


def back_off_s(attempt: int, *, at_least_s: float = 0.0) -> float:
    """How long to wait before try number ``attempt`` + 1: doubling, with full jitter in its upper half."""
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * float(1 << min(attempt, 16)))
    return max(at_least_s, longest * (0.5 + random.random() / 2))  # noqa: S311 - spreads load, hides nothing


class RpcClient:
    """Calls to one server over one connection, opened when first needed.

    Without a ``token`` the pilot is known by the certificate in ``cert_file`` (PEM, with its
    key and the rest of its chain), which is read again for each connection.
    """

    def __init__(self, base_url: str, token: str, *, cert_file: str = "", timeout_s: float = 60.0) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the server's address must be http:// or https://, not {base_url[:200]!r}")
        self._parts = parts
        self._path = parts.path.rstrip("/") + "/jsonrpc"
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._cert_file = cert_file
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, params: dict[str, Any], *, timeout_s: float = 0.0) -> Any:
        """The result of one call.

        Raises:
            RpcError: the server answered with an error.
            Unavailable: no proper answer came.
        """
        result = self.batch([(method, params)], timeout_s=timeout_s)[0]
        if isinstance(result, RpcError):
            raise result
        return result

    def batch(self, calls: Sequence[Call], *, timeout_s: float = 0.0) -> list[Any]:
        """The results of ``calls`` in order, an `RpcError` in the place of each that failed.

        Raises:
            Unavailable: no proper answer came.
        """
        requests = [
            {"jsonrpc": "2.0", "method": method, "params": params, "id": next(self._ids)}
            for method, params in calls
        ]
        body = json.dumps(requests if len(requests) > 1 else requests[0]).encode()
        answers = self._exchange(body, timeout_s or self._timeout_s)
        if isinstance(answers, dict):
            answers = [answers]
        by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
        if len(answers) == 1 and None in by_id:  # the message as a whole was refused
            return [_outcome(by_id[None])] * len(calls)
        return [_outcome(by_id.get(request["id"])) for request in requests]

    def abort(self) -> None:
        """Break off a call that another thread waits in."""
        connection = self._connection
        sock = connection.sock if connection else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, body: bytes, timeout_s: float) -> Any:
        try:
            return json.loads(self._post(body, timeout_s))
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            raise Unavailable(f"no answer from {self._parts.netloc}: {exc or type(exc).__name__}") from exc

    def _post(self, body: bytes, timeout_s: float) -> bytes:
        connection = self._open(timeout_s)
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES)
        is_answer = data.startswith((b"{", b"[")) and response.status not in _PASSING
        if response.status != 200 and not is_answer:
            raise http.client.HTTPException(f"HTTP status {response.status}")
        if response.will_close or not response.isclosed():
            self.close()
        return data

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._connection is not None and not _is_stale(self._connection):
            assert self._connection.sock is not None  # noqa: S101 - told to the type checker
            self._connection.sock.settimeout(timeout_s)
            return self._connection
        self.close()
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            if self._cert_file:
                context.load_cert_chain(self._cert_file)
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection


def _is_stale(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed ``connection`` since the last answer.

    An idle connection has nothing to read; if it has, that is its end.
    """
    sock = connection.sock
    if sock is None:
        return True
    try:
        sock.settimeout(0)
        return bool(sock.recv(1)) or True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def _outcome(answer: dict[str, Any] | None) -> Any:
    if answer is None:
        return RpcError({"message": "the server gave no answer to this call", "data": {"retryable": True}})
    error = answer.get("error")
    return RpcError(error) if isinstance(error, dict) else answer.get("result")


class Caller:
    """One connection with its own thread, used from the event loop."""

    def __init__(self, base_url: str, token: str, *, name: str, cert_file: str = "") -> None:
        self._client = RpcClient(base_url, token, cert_file=cert_file)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """As `RpcClient.batch`, once."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._client.batch(calls))

    async def once(self, method: str, params: dict[str, Any], *, timeout_s: float = 60.0) -> Any:
        """As `RpcClient.call`, once."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: self._client.call(method, params, timeout_s=timeout_s)
        )

    async def insist(
        self,
        method: str,
        params: dict[str, Any],
        *,
        timeout_s: float = 60.0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Any:
        """The result of a call, tried again for as long as the failure may pass.

        ``give_up`` is asked after each failure whether that is too long; then the failure is raised.
        """
        for attempt in itertools.count():
            try:
                return await self.once(method, params, timeout_s=timeout_s)
            except RpcError as exc:
                if not exc.may_retry or give_up():
                    raise
                delay_s = back_off_s(attempt, at_least_s=exc.retry_after_s)
            except Unavailable:
                if give_up():
                    raise
                delay_s = back_off_s(attempt)
            await asyncio.sleep(delay_s)
        raise AssertionError  # an endless count does not end

    def close(self) -> None:
        """End the thread, breaking off what it waits for."""
        self._client.abort()
        self._thread.shutdown(wait=False, cancel_futures=True)
