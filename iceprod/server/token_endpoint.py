"""Asking the endpoint of an authorization server for a token."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus, urlencode

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from iceprod.errors import Unavailable

_TIMEOUT_S: Final = 20.0
_MAX_BYTES: Final = 256 * 1024


class HttpTokenEndpoint:
    """Posts forms; follows no redirect, so that a secret goes where the settings say and nowhere else.

    An answer may take ``timeout_s``.
    """

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s

    async def ask(
        self, url: str, form: Mapping[str, str], *, client: tuple[str, str] | None, ca_path: str | None
    ) -> tuple[int, bytes]:
        """See `iceprod.services.token_grants.TokenEndpoint`."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if client is not None:
            # RFC 6749, 2.3.1: encoded like a form, then as HTTP's basic scheme says.
            pair = ":".join(quote_plus(part) for part in client)
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        request = HTTPRequest(
            url,
            method="POST",
            headers=headers,
            body=urlencode(form),
            connect_timeout=self._timeout_s,
            request_timeout=self._timeout_s,
            follow_redirects=False,
            ssl_options=_trust(ca_path) if url.startswith("https:") else None,
        )
        http = SimpleAsyncHTTPClient(force_instance=True, max_body_size=_MAX_BYTES)
        try:
            answer = await http.fetch(request, raise_error=False)
        except (OSError, HTTPError, ValueError) as error:
            # What the error says may name the address, but not what was sent there.
            raise Unavailable(f"the endpoint for tokens does not answer: {type(error).__name__}") from None
        finally:
            http.close()
        if answer.code == 599:
            raise Unavailable("the endpoint for tokens does not answer")
        return answer.code, answer.body or b""


def _trust(ca_path: str | None) -> ssl.SSLContext:
    if ca_path is None:
        return ssl.create_default_context()
    is_folder = Path(ca_path).is_dir()
    return ssl.create_default_context(
        cafile=None if is_folder else ca_path, capath=ca_path if is_folder else None
    )
