"""The Tornado application: routes, templates, and one line in the log per request."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.template import Loader
from tornado.web import Application as TornadoApplication
from tornado.web import OutputTransform, RequestHandler

from iceprod.server import client_certificate, security, static
from iceprod.server.context import ProcessContext
from iceprod.server.handlers.base import logged_path, session_principal
from iceprod.server.handlers.pages.base import MissingPage
from iceprod.server.routes import url_specs
from iceprod.server.ui import UI_MODULES

logger = structlog.get_logger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
_QUIET = ("/static/", "/healthz", "/readyz", "/metrics")


class Application(TornadoApplication):
    """Tornado's application, which knows what is under way.

    ``is_leaving``: each answer is the last of its connection, and others take new ones;
    ``is_stopping``: nobody does.
    """

    def __init__(self, context: ProcessContext, **settings: Any) -> None:
        self.is_leaving = False
        self.is_stopping = False
        super().__init__(url_specs(context), **{"context": context, **settings})
        self._context = context
        self._under_way: weakref.WeakSet[HTTPServerRequest] = weakref.WeakSet()
        self._changed = asyncio.Event()
        # Tornado calls it with the request, as it would a class.
        self.add_transform(cast(type[OutputTransform], partial(_Goodbye, self)))

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Note that a request has come."""
        self._under_way.add(request)
        return super().find_handler(request, **kwargs)

    def log_request(self, handler: RequestHandler) -> None:
        """Note that a request was answered, and log it as one event."""
        request = handler.request
        self._under_way.discard(request)
        self._changed.set()
        seconds = request.request_time()
        self._context.metrics.request_done(handler.get_status(), seconds)
        if self._context.settings.log.access and not request.path.startswith(_QUIET):
            logger.info(
                "request",
                method=request.method,
                path=logged_path(request.path),
                status=handler.get_status(),
                ms=round(seconds * 1000, 1),
                remote=request.remote_ip,
            )

    async def drained(self, timeout_s: float) -> None:
        """Wait until nothing is under way, but not for ever."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._under_way:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            logger.warning("requests cut off", count=len(self._under_way))


class _Goodbye(OutputTransform):
    """Says with the answers of a process that leaves that nothing may be asked after them."""

    def __init__(self, application: Application, request: HTTPServerRequest) -> None:
        super().__init__(request)
        self._application = application

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, include_footers: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Add the header."""
        del include_footers
        if self._application.is_leaving:
            headers["Connection"] = "close"
        return status_code, headers, chunk


def make_application(context: ProcessContext) -> Application:
    """The application that serves pages, files, events and, for browsers, JSON-RPC."""
    secure = context.settings.server.url.startswith("https:")
    return Application(
        context,
        authenticate_session=session_principal,
        authenticate_certificate=client_certificate.principal_of,
        default_handler_class=MissingPage,
        template_loader=Loader(str(TEMPLATES), whitespace="single"),
        ui_modules=UI_MODULES,
        static_build=static.build_id(),
        **security.xsrf_settings(secure=secure),
    )
