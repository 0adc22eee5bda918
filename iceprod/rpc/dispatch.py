"""From the bytes of a message to the bytes of its answer: find, admit, bind, call, encode.

No I/O happens here.  What happens for one call, in this order: the method is looked up;
the caller is identified by the credential of the message or of the call; the caller's
right to the method's action is checked; the parameters are bound; the method runs.  So
nobody learns what a method takes who may not call it.

Whatever can be done at once is: `Dispatcher.begin` gives the answer itself where no
method had to wait, and a `Pending` otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from iceprod.errors import IceProdError, NotAuthenticated, TooLarge
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.rpc import protocol
from iceprod.rpc.codes import CODES, INTERNAL_ERROR, METHOD_NOT_FOUND
from iceprod.rpc.legacy import place_args, unpack
from iceprod.rpc.protocol import Limits, Malformed, Message, Request
from iceprod.rpc.registry import Call, Entry, Origin, Registry

logger = logging.getLogger("iceprod.rpc")

Authenticate = Callable[[str], "Principal | Awaitable[Principal]"]
"""Who holds this credential; raises NotAuthenticated.  Gives an awaitable if it has to look it up."""

Authorize = Callable[[Principal, str], None]
"""May this caller do this action at all?  Raises AccessDenied or NotAuthenticated."""

_Later = Callable[[], Coroutine[Any, Any, "bytes | None"]]


class Pending(msgspec.Struct, frozen=True):
    """An answer that is not there yet: await ``run()``, once, for it.

    ``cancellable`` says that this may be cancelled when the caller has gone; anything
    else must be left to finish.
    """

    run: _Later
    cancellable: bool = False


class _Visit(msgspec.Struct):
    """One message being answered; ``room`` is how many bytes its results may still take."""

    origin: Origin
    room: int
    principal: Principal | None = None
    otherwise: Principal = ANONYMOUS
    refused: Exception | None = None


class Dispatcher:
    """Answers messages with the methods of a registry.

    ``services`` is passed to every method in its `Call`.  ``calls`` counts calls by
    method, ``errors`` error answers by slug.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        authenticate: Authenticate,
        authorize: Authorize,
        services: Any = None,
        limits: Limits | None = None,
    ) -> None:
        self.registry = registry
        self.limits = limits or Limits()
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._authenticate = authenticate
        self._authorize = authorize
        self._services = services
        self._find = registry.get

    async def handle(
        self,
        body: bytes,
        *,
        bearer: str | None = None,
        remote: str = "",
        principal: Principal | None = None,
        otherwise: Principal = ANONYMOUS,
        request_id: str = "",
    ) -> bytes | None:
        """The answer to the message in ``body``, or none where nothing is to be sent.

        ``bearer`` is the credential of the transport; ``principal`` a caller whom the
        transport has identified already (a session); ``otherwise`` is who calls if no
        credential says so (a client certificate).
        """
        answer = self.begin(
            body,
            bearer=bearer,
            remote=remote,
            principal=principal,
            otherwise=otherwise,
            request_id=request_id,
        )
        return await answer.run() if isinstance(answer, Pending) else answer

    def begin(
        self,
        body: bytes,
        *,
        bearer: str | None = None,
        remote: str = "",
        principal: Principal | None = None,
        otherwise: Principal | Awaitable[Principal] = ANONYMOUS,
        request_id: str = "",
    ) -> bytes | Pending | None:
        """Like `handle`, but without a coroutine where no method has to wait."""
        message = protocol.parse(body, self.limits)
        visit = _Visit(Origin(remote, request_id), self.limits.answer_bytes, principal)
        if isinstance(otherwise, Principal):
            visit.otherwise = otherwise
        elif bearer is None and principal is None:
            run = partial(self._identified, message, visit, otherwise, "otherwise")
            return Pending(run, self._is_cancellable(message))
        if bearer is not None and principal is None:
            try:
                found = self._authenticate(bearer)
            except Exception as exc:  # noqa: BLE001  # every member is answered with it
                visit.refused = exc
            else:
                if not isinstance(found, Principal):
                    run = partial(self._identified, message, visit, found, "principal")
                    return Pending(run, self._is_cancellable(message))
                visit.principal = found
        return self._answer(message, visit)

    async def _identified(
        self, message: Message | list[Message], visit: _Visit, found: Awaitable[Principal], place: str
    ) -> bytes | None:
        """Answer once the holder of the transport's credential is known, who has that place in ``visit``."""
        try:
            setattr(visit, place, await found)
        except Exception as exc:  # noqa: BLE001
            visit.refused = exc
        answer = self._answer(message, visit)
        return await answer.run() if isinstance(answer, Pending) else answer

    def _is_cancellable(self, message: Message | list[Message]) -> bool:
        """Whether whatever a message asks for may be cancelled: it is one call of such a method."""
        entry = self._find(message.method) if isinstance(message, Request) else None
        return entry is not None and entry.cancellable

    def _answer(self, message: Message | list[Message], visit: _Visit) -> bytes | Pending | None:
        if not isinstance(message, list):
            return self._member(message, visit)
        answers: list[bytes | Pending | None] = [self._member(member, visit) for member in message]
        waiting = [n for n, answer in enumerate(answers) if isinstance(answer, Pending)]
        if waiting:
            return Pending(partial(self._finish_batch, answers, waiting))
        return protocol.join(answers)  # type: ignore[arg-type]  # nothing is pending

    async def _finish_batch(self, answers: list[Any], waiting: list[int]) -> bytes | None:
        """Run the pending members, a few at a time, and put each answer in its place."""
        places = iter(waiting)

        async def work() -> None:
            for place in places:
                answers[place] = await answers[place].run()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.limits.concurrency, len(waiting))):
                group.create_task(work())
        return protocol.join(answers)

    def _member(self, message: Message, visit: _Visit) -> bytes | Pending | None:
        """The answer to one call, or what has to be awaited for it."""
        if isinstance(message, Malformed):
            self.errors[message.slug] += 1
            return protocol.malformed(message)
        entry = self._find(message.method)
        if entry is None:
            return self._unknown(message)
        self.calls[entry.name] += 1
        try:
            principal, params = self._identify(entry, message.params, visit)
            if not isinstance(principal, Principal):
                run = partial(self._late, entry, message, visit, principal, params)
                return Pending(run, entry.cancellable)
            return self._run(entry, message, visit, principal, params)
        except Exception as exc:  # noqa: BLE001  # the last line of defence, see _failed
            return self._failed(exc, message, visit)

    def _identify(
        self, entry: Entry, params: bytes, visit: _Visit
    ) -> tuple[Principal | Awaitable[Principal], bytes]:
        """Who calls, and the parameters without the credential that may be among them."""
        if visit.refused is not None:
            raise visit.refused
        if not entry.legacy:
            return visit.principal or visit.otherwise, params
        if visit.principal is not None:
            return visit.principal, place_args(params, entry.names)
        reserved = unpack(params, entry.names, method=entry.name)
        if not reserved.passkey:
            return _of_site(visit.otherwise, reserved.site_id), reserved.params
        found = self._authenticate(reserved.passkey)
        if isinstance(found, Principal):
            return _of_site(found, reserved.site_id), reserved.params
        return _await_site(found, reserved.site_id), reserved.params

    async def _late(
        self, entry: Entry, request: Request, visit: _Visit, principal: Awaitable[Principal], params: bytes
    ) -> bytes | None:
        try:
            answer = self._run(entry, request, visit, await principal, params)
        except Exception as exc:  # noqa: BLE001
            return self._failed(exc, request, visit)
        return await answer.run() if isinstance(answer, Pending) else answer

    def _run(
        self, entry: Entry, request: Request, visit: _Visit, principal: Principal, params: bytes
    ) -> bytes | Pending | None:
        if entry.action is not None:
            self._authorize(principal, entry.action)
        arguments = entry.bind(params)
        call = Call(principal, self._services, visit.origin)
        if entry.is_async:
            return Pending(partial(self._await, entry, request, visit, call, arguments), entry.cancellable)
        return self._succeeded(entry.function(call, **arguments), request, visit)

    async def _await(
        self, entry: Entry, request: Request, visit: _Visit, call: Call, arguments: dict[str, Any]
    ) -> bytes | None:
        try:
            return self._succeeded(await entry.function(call, **arguments), request, visit)
        except Exception as exc:  # noqa: BLE001
            return self._failed(exc, request, visit)

    def _succeeded(self, result: Any, request: Request, visit: _Visit) -> bytes | None:
        if not request.id:
            return None
        text = protocol.encode(result)
        visit.room -= len(text)
        if visit.room < 0:
            visit.room += len(text)
            raise TooLarge("the result is too large for one answer", limit_bytes=self.limits.answer_bytes)
        return protocol.success(text, request.id)

    def _failed(self, exc: Exception, request: Request, visit: _Visit) -> bytes | None:
        """The answer to a call that raised ``exc``; a fault of ours is logged here, once."""
        if not isinstance(exc, IceProdError) or exc.code not in CODES or CODES[exc.code] == INTERNAL_ERROR:
            return self._bug(exc, request, visit)
        self.errors[exc.code] += 1
        if not request.id:
            return None
        data = {**exc.detail, "code": exc.code, "retryable": exc.retryable}
        return protocol.failure(request.id, CODES[exc.code], exc.message, data)

    def _bug(self, exc: Exception, request: Request, visit: _Visit) -> bytes | None:
        incident = secrets.token_hex(6)
        logger.error(
            "rpc method failed",
            exc_info=exc,
            extra={
                "incident": incident,
                "method": request.method,
                "remote": visit.origin.remote,
                "request_id": visit.origin.request_id,
            },
        )
        self.errors["internal"] += 1
        if not request.id:
            return None
        data = {"code": "internal", "retryable": False, "incident": incident}
        return protocol.failure(request.id, INTERNAL_ERROR, "Internal error", data)

    def _unknown(self, request: Request) -> bytes | None:
        self.errors["method_not_found"] += 1
        if not request.id:
            return None
        data = {"code": "method_not_found", "retryable": False, "method": request.method[:80]}
        return protocol.failure(request.id, METHOD_NOT_FOUND, "Method not found", data)


def _of_site(principal: Principal, site_id: str) -> Principal:
    """``principal``, unless it is a site that calls itself by another's id."""
    if site_id and principal.kind is PrincipalKind.SITE and principal.id != site_id:
        raise NotAuthenticated("this credential does not belong to that site")
    return principal


async def _await_site(found: Awaitable[Principal], site_id: str) -> Principal:
    return _of_site(await found, site_id)
