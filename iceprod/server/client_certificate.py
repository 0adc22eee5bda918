"""Who calls by a client certificate: as the proxy in front tells, or by the connection itself.

A proxy in front (`server.proxied`) has verified the certificate and overwrites the headers
X-SSL-Verify, X-SSL-Subject-DN and X-SSL-Issuer-DN; from anybody else they mean nothing.  On
the direct TLS port (`iceprod.server.tls_port`) the connection knows.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import RequestHandler

from iceprod.errors import NotAuthenticated
from iceprod.model.principal import ANONYMOUS, Principal
from iceprod.server.context import ProcessContext, Services
from iceprod.server.peer_chain import ShownChain
from iceprod.services.refusals import RefusedCertificate

SHOWN: Final = "iceprod_chain"
"""Attribute of a connection's context on the direct port: the `ShownChain` of its client."""
_SAFE: Final = ("GET", "HEAD", "OPTIONS")


async def principal_of(handler: RequestHandler) -> Principal:
    """The caller whom the certificate of this request names; anonymous without one.

    Raises:
        NotAuthenticated: the certificate does not count (any more).
    """
    if not counts(handler):
        return ANONYMOUS
    context: ProcessContext = handler.application.settings["context"]
    shown = _chain(handler.request)
    if shown is not None:
        return await _vouched_for(shown, handler, context.services)
    found = context.services.certificates.holder(*_told(handler.request.headers))
    return found if isinstance(found, Principal) else await found


async def _vouched_for(shown: ShownChain, handler: RequestHandler, services: Services) -> Principal:
    """The caller whom a chain speaks for; if it does not count (any more), that is noted."""
    try:
        found = services.certificates.authenticate(shown.identity())
        return found if isinstance(found, Principal) else await found
    except NotAuthenticated as exc:
        refused = RefusedCertificate(handler.request.remote_ip or "", exc.message, *shown.names)
        services.federation.refusals.note_certificate(refused)
        raise


def is_proxy_believed(handler: RequestHandler) -> bool:
    """Whether what only a proxy in front may say counts in this request.

    Never on the direct port: no proxy is in front of that, so the client itself would say it.
    """
    context: ProcessContext | None = handler.application.settings.get("context")
    return context is not None and context.settings.server.proxied and _chain(handler.request) is None


def counts(handler: RequestHandler) -> bool:
    """Whether a certificate was shown, and by nobody who was made to by the page of another site.

    Browsers show certificates as they send cookies: without being asked for each request.
    """
    request = handler.request
    if _chain(request) is None and not (is_proxy_believed(handler) and all(_told(request.headers))):
        return False
    return request.method in _SAFE or not _is_foreign(request)


def _chain(request: HTTPServerRequest) -> ShownChain | None:
    found: ShownChain | None = getattr(getattr(request.connection, "context", None), SHOWN, None)
    return found


def _told(headers: HTTPHeaders) -> tuple[str, str]:
    """Subject and issuer, both empty unless the proxy has verified them."""
    if _single(headers, "X-SSL-Verify") != "SUCCESS":
        return "", ""
    return _single(headers, "X-SSL-Subject-DN"), _single(headers, "X-SSL-Issuer-DN")


def _single(headers: HTTPHeaders, name: str) -> str:
    values = headers.get_list(name)
    return values[0] if len(values) == 1 else ""


def _is_foreign(request: HTTPServerRequest) -> bool:
    """Whether a browser sends this for a page that is not ours; programs send neither header."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()
