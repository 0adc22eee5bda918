"""What all handlers share: who calls, whether they may, and how errors are told."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeGuard

import msgspec
import structlog
from tornado.web import HTTPError, RequestHandler

from iceprod.errors import (
    AccessDenied,
    IceProdError,
    InputError,
    LeaseLost,
    NotAuthenticated,
    NotFoundError,
)
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.server import client_certificate, errors, security
from iceprod.server.context import ProcessContext, Services
from iceprod.services import authorization

logger = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(r"[0-9a-f]{12,64}")


async def session_principal(handler: RequestHandler) -> Principal | None:
    """The caller whom the session cookie names; None without one, or if it is worth nothing any more."""
    secret = handler.get_cookie(security.SESSION_COOKIE)
    if not secret:
        return None
    context: ProcessContext = handler.application.settings["context"]
    try:
        found = context.services.accounts.authenticate(secret)
        return found if isinstance(found, Principal) else await found
    except NotAuthenticated:
        return None


def bearer_of(handler: RequestHandler) -> str | None:
    """The token in the request's Authorization header, if there is one."""
    scheme, _, token = handler.request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def request_id_of(handler: RequestHandler) -> str:
    """An id by which the log finds this request: that of the web server in front, if there is one."""
    known: str | None = getattr(handler.request, "iceprod_id", None)
    if known is None:
        given = handler.request.headers.get("X-Request-Id", "")
        # Without a web server in front it would be the client's own word.
        is_told = _REQUEST_ID.fullmatch(given) and client_certificate.is_proxy_believed(handler)
        known = given if is_told else secrets.token_hex(6)
        handler.request.iceprod_id = known  # type: ignore[attr-defined]
    return known


def logged_path(path: str) -> str:
    """A path as it may stand in a log: without the secret that it may hold."""
    head, sign, _secret = path.partition("/iup_")
    return (f"{head}/…" if sign else path)[:300]


def _is_refusal(error: BaseException | None) -> TypeGuard[IceProdError]:
    """Whether somebody wanted what is none of his, and not only what is not there."""
    if isinstance(error, NotFoundError):
        return error.detail.get("kind") == "file area"
    return isinstance(error, AccessDenied | LeaseLost | NotAuthenticated)


class BaseHandler(RequestHandler):
    """Identifies the caller and checks the route's action before anything else happens.

    ``actions`` (HTTP method → action of the authorization table) comes from the route.
    Errors are not caught in handlers; what they raise is answered here.
    """

    principal: Principal = ANONYMOUS

    def initialize(self, *, actions: Mapping[str, str], **given: str) -> None:
        """Take what the route passes on."""
        self.actions = actions
        self.given = given

    @property
    def context(self) -> ProcessContext:
        """What lives as long as the process."""
        found: ProcessContext = self.application.settings["context"]
        return found

    @property
    def services(self) -> Services:
        """The use cases."""
        return self.context.services

    @property
    def request_id(self) -> str:
        """An id by which the log finds this request."""
        return request_id_of(self)

    @property
    def is_secure(self) -> bool:
        """Whether the browser came by https."""
        return self.request.protocol == "https" or self.context.settings.server.url.startswith("https:")

    def set_default_headers(self) -> None:
        """Send the security headers with every answer, errors included."""
        for name, value in security.HEADERS.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Ask for the proof against forged forms, except from callers who send a token themselves.

        A client certificate does not count for what another site's page has sent, so it needs
        no proof either.
        """
        if self.credential() is None and not self._is_by_certificate():
            super().check_xsrf_cookie()

    async def prepare(self) -> None:
        """Find out who calls, and refuse who may never do this."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        action = self.actions.get("GET" if self.request.method == "HEAD" else self.request.method or "")
        if action is None:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        self.principal = await self._identify()
        if self.principal.id:
            structlog.contextvars.bind_contextvars(caller=f"{self.principal.kind}:{self.principal.id}")
        authorization.check(self.principal, action)

    def _is_by_certificate(self) -> bool:
        return not self.get_cookie(security.SESSION_COOKIE) and client_certificate.counts(self)

    def credential(self) -> str | None:
        """The token that the request itself carries; without one a session cookie counts."""
        return bearer_of(self)

    async def _identify(self) -> Principal:
        token = self.credential()
        if token is None:
            return await session_principal(self) or await client_certificate.principal_of(self)
        found = self.services.accounts.authenticate(token)
        known = found if isinstance(found, Principal) else await found
        return await self._as_shown(known) if known.kind is PrincipalKind.TASK else known

    async def _as_shown(self, task: Principal) -> Principal:
        """A task with the site that shows its token, where sites come with their certificates."""
        by = await client_certificate.principal_of(self)
        if by.kind is PrincipalKind.SITE:
            return replace(task, shown_by=by.id)
        return replace(task, shown_by="") if self.request.protocol == "https" else task

    def argument(self, name: str, default: str = "") -> str:
        """A single query or form value, trimmed.

        Raises:
            InputError: it is no text.
        """
        try:
            return self.get_argument(name, default)
        except HTTPError as exc:
            raise InputError(f"{name}: {exc.log_message or 'cannot be read'}") from None

    def write_json(self, value: Any) -> None:
        """Answer with ``value`` as JSON."""
        self.set_header("Content-Type", "application/json")
        self.write(msgspec.json.encode(value))

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with the status that the error has in our table."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        super().send_error(errors.status_of(error) or status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell a program what went wrong."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self.note_error(error)
        self.write_json(errors.describe(error, status=status_code, request_id=self.request_id))
        self.finish()

    def note_error(self, error: BaseException | None) -> None:
        """Set the headers that go with an error."""
        wait = errors.retry_after(error)
        if wait:
            self.set_header("Retry-After", wait)
        if _is_refusal(error):
            action = self.actions.get(self.request.method or "", self.request.path)
            self.services.federation.refusals.note_call(self.principal, action, error)
        if isinstance(error, NotAuthenticated):
            self.set_header("WWW-Authenticate", 'Bearer realm="iceprod"')

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log a fault of ours with its traceback, what callers did wrong in one line."""
        if isinstance(value, HTTPError | IceProdError):
            code = value.code if isinstance(value, IceProdError) else value.status_code
            logger.info("request refused", code=code, reason=str(value))
        else:
            path = logged_path(self.request.path)
            logger.error("request failed", path=path, exc_info=(typ, value, tb))
