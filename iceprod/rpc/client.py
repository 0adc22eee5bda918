"""A client for this server's JSON-RPC: jsonrpcclient over Tornado's curl HTTP client.

An error of the server comes out as the same class of `iceprod.errors` that it was there.
A call is repeated, with growing random pauses, only where that is harmless: if it never
reached the server, if the server refused it for its rate, or if it changes nothing when
it is done twice (see `Client.call`).
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonrpcclient
import msgspec
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from iceprod._version import __version__
from iceprod.errors import IceProdError, InputError, RateLimited, TooLarge, Unavailable
from iceprod.rpc.packing import CODING, pack

_NEVER_SENT: Final = frozenset({5, 6, 7})  # libcurl: no proxy, no such host, no connection
PROTOCOL_SLUGS: Final = frozenset({"parse_error", "invalid_request", "method_not_found"})
"""Errors by which a server says that it did not understand so much as the call itself."""
_LONGEST_RETRY_AFTER_S: Final = 60.0

# What reads, or is made harmless to repeat by the lease or the value that it names.
_REPEATABLE: Final = re.compile(
    r"(?!pilot\.log$)(?:echo$|rpc\.discover$|public_|stillrunning$|(.+\.)?(get|list|config|progress|why|logs?|health)$"
    r"|pilot\.(register|processing|heartbeat|finish|fail|release)$"
    r"|.+\.(suspend|resume|priority|truncate|extend)$)"
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``attempts`` in all; pauses double from ``first_s`` up to ``longest_s``, times a random part."""

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 10.0

    def pause_s(self, attempt: int, error: IceProdError) -> float:
        """The pause after failure number ``attempt`` (from 0); the server may ask for a longer one."""
        own: float = min(self.longest_s, self.first_s * 2.0**attempt) * random.uniform(0.5, 1.0)  # noqa: S311
        wanted = error.detail.get("retry_after_s")
        if isinstance(wanted, int | float) and not isinstance(wanted, bool):
            return max(own, min(float(wanted), _LONGEST_RETRY_AFTER_S))
        return own


class _Quiet(CurlAsyncHTTPClient):
    """Tornado's client, which does not come back to a transfer that its end has cut off."""

    _is_ending = False

    def close(self) -> None:
        """End what is under way, too."""
        self._is_ending = True
        super().close()

    def _set_timeout(self, msecs: int) -> None:
        # Libcurl asks for a last look as each transfer ends, at handles that are gone by then.
        if not self._is_ending:
            super()._set_timeout(msecs)


class _Lost(Exception):
    """No answer came; ``was_sent`` says whether the server may have seen the call."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class Client:
    """Calls methods of the server at ``url`` (with ``/jsonrpc``).

    ``token`` goes into the header Authorization; certificates are verified, against
    ``ca_file`` where one is given.  ``cert_file`` holds a client certificate, its key and the
    rest of its chain (PEM), as a proxy file does.  ``timeout_s`` bounds one attempt.  Messages of
    more than ``pack_over`` bytes are sent compressed.  ``sleep`` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        timeout_s: float = 60.0,
        ca_file: str | None = None,
        cert_file: str | None = None,
        policy: RetryPolicy | None = None,
        max_connections: int = 10,
        pack_over: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._policy = policy or RetryPolicy()
        self._max_connections = max_connections
        self._pack_over = pack_over
        self._sleep = sleep
        self._http: AsyncHTTPClient | None = None
        self._headers = {"Content-Type": "application/json", "User-Agent": f"iceprod/{__version__}"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    async def call(self, method: str, /, **params: Any) -> Any:
        """The result of ``method``.

        It is repeated after a failure on the way if its name tells that it only reads or
        may be done twice, or if ``params`` hold a ``request_id`` by which the server knows
        a repetition.  Raises the error that the server answered with, or Unavailable.
        """
        message = jsonrpcclient.request(method, params=params)
        repeatable = "request_id" in params or _REPEATABLE.match(method) is not None
        return await self._deliver(message, repeatable=repeatable, judge=_single)

    async def ask(self, method: str, params: dict[str, Any], *, timeout_s: float) -> Any:
        """As `call`, but once: the answer has to come within ``timeout_s``, and nothing is repeated."""
        body = msgspec.json.encode(jsonrpcclient.request(method, params=params))
        try:
            return _single(await self._post(body, timeout_s=timeout_s))
        except _Lost as exc:
            raise Unavailable(f"{self._url}: {exc}") from None

    async def batch(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """The results of ``calls`` in order; an error takes the place of its result, unraised."""
        if not calls:
            return []
        messages = [jsonrpcclient.request(method, params=params) for method, params in calls]
        repeatable = all(
            "request_id" in params or _REPEATABLE.match(method) is not None for method, params in calls
        )
        answers = await self._deliver(messages, repeatable=repeatable, judge=_several)
        return [answers.get(message["id"], _unanswered()) for message in messages]

    async def notify(self, method: str, /, **params: Any) -> None:
        """Call ``method`` without asking for its result; raises Unavailable if it can't be sent."""
        message = jsonrpcclient.notification(method, params=params)
        await self._deliver(message, repeatable=False, judge=_nothing)

    def close(self) -> None:
        """Close the connections that are kept."""
        if self._http is not None:
            self._http.close()
            self._http = None

    async def _deliver(self, message: Any, *, repeatable: bool, judge: Callable[[bytes], Any]) -> Any:
        """Send ``message`` until an answer comes that ``judge`` accepts, or patience ends."""
        body = msgspec.json.encode(message)
        for attempt in range(self._policy.attempts):
            try:
                return judge(await self._post(body))
            except _Lost as exc:
                may_repeat = repeatable or not exc.was_sent
                error: IceProdError = Unavailable(f"{self._url}: {exc}")
            except RateLimited as exc:
                may_repeat, error = True, exc
            except IceProdError as exc:
                may_repeat, error = repeatable and exc.retryable, exc
            if not may_repeat or attempt + 1 == self._policy.attempts:
                raise error
            await self._sleep(self._policy.pause_s(attempt, error))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _post(self, body: bytes, *, timeout_s: float | None = None) -> bytes:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        headers = self._headers
        if self._pack_over is not None and len(body) > self._pack_over:
            body, headers = pack(body), {**headers, "Content-Encoding": CODING}
        request = HTTPRequest(
            self._url,
            method="POST",
            body=body,
            headers=headers,
            request_timeout=timeout_s,
            connect_timeout=min(10.0, timeout_s),
            follow_redirects=False,
            validate_cert=True,
            ca_certs=self._ca_file,
            client_cert=self._cert_file,
            client_key=self._cert_file,
        )
        try:
            response = await self._client().fetch(request, raise_error=False)
        except HTTPClientError as exc:
            raise _lost(exc) from None
        if response.error is not None and response.code == 599:
            raise _lost(response.error)
        if response.code not in {200, 204}:
            raise _http_error(response)
        return response.body

    def _client(self) -> AsyncHTTPClient:
        if self._http is None:
            self._http = _Quiet(force_instance=True, max_clients=self._max_connections)
        return self._http


class SyncClient:
    """`Client` for code without an event loop, such as the command line; a context manager."""

    def __init__(self, url: str, **options: Any) -> None:
        """``options`` are those of `Client`."""
        self._runner = asyncio.Runner()
        self._client = Client(url, **options)

    def call(self, method: str, /, **params: Any) -> Any:
        """See `Client.call`."""
        return self._runner.run(self._client.call(method, **params))

    def batch(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """See `Client.batch`."""
        return self._runner.run(self._client.batch(calls))

    def notify(self, method: str, /, **params: Any) -> None:
        """See `Client.notify`."""
        self._runner.run(self._client.notify(method, **params))

    def close(self) -> None:
        """Close the connections and the loop."""

        async def close() -> None:
            self._client.close()

        self._runner.run(close())
        self._runner.close()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _lost(exc: BaseException) -> _Lost:
    was_sent = not (isinstance(exc, CurlError) and exc.errno in _NEVER_SENT)
    return _Lost(str(exc), was_sent=was_sent)


def _http_error(response: HTTPResponse) -> IceProdError:
    """What an HTTP status other than that of an answer means."""
    message = f"the server answered HTTP {response.code}"
    if response.code == 413:
        return TooLarge(message)
    if response.code == 429:
        after = response.headers.get("Retry-After", "")
        return RateLimited(message, **({"retry_after_s": float(after)} if after.isdigit() else {}))
    if response.code in {408, 502, 503, 504}:
        return Unavailable(message)
    return IceProdError(message, http_status=response.code)


def _single(body: bytes) -> Any:
    answer = _outcome(_parsed(body))
    if isinstance(answer, IceProdError):
        raise answer
    return answer


def _several(body: bytes) -> dict[Any, Any]:
    """Outcomes by id; an error about the batch as a whole is raised."""
    answers = _parsed(body)
    if not isinstance(answers, list):
        raise _outcome(answers)
    return {answer.id: _outcome(answer) for answer in answers}


def _nothing(_body: bytes) -> None:
    return None


def _parsed(body: bytes) -> Any:
    """An Ok or Error of jsonrpcclient, or a list of them."""
    try:
        answer = jsonrpcclient.parse(msgspec.json.decode(body))
        return answer if isinstance(answer, jsonrpcclient.Ok | jsonrpcclient.Error) else list(answer)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IceProdError("the server's answer is no JSON-RPC") from None


def _outcome(answer: Any) -> Any:
    """The result in ``answer``, or its error, unraised."""
    if isinstance(answer, jsonrpcclient.Ok):
        return answer.result
    return error_from(answer.code, answer.message, answer.data)


def error_from(number: int, message: str, data: Any) -> IceProdError:
    """The error of `iceprod.errors` that a server's error object stands for.

    ``data.code`` decides; a slug that this version does not know keeps its details.
    """
    detail = dict(data) if isinstance(data, dict) else {}
    slug = str(detail.pop("code", "internal"))
    detail.pop("retryable", None)
    kind = InputError if slug in PROTOCOL_SLUGS else _CLASSES.get(slug, IceProdError)
    if slug not in _CLASSES:
        detail["slug"] = slug
    # Some classes write their message themselves; this one has been written.
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.message = message
    error.detail = {**detail, "number": number}
    return error


def _unanswered() -> IceProdError:
    return IceProdError("the server left a call of the batch unanswered")


def _classes() -> dict[str, type[IceProdError]]:
    """Slug → the most general class with it."""
    found: dict[str, type[IceProdError]] = {}
    level: list[type[IceProdError]] = [IceProdError]
    while level:
        for kind in level:
            found.setdefault(kind.code, kind)
        level = [child for kind in level for child in kind.__subclasses__()]
    return found


_CLASSES: Final = _classes()
