"""Secrets as they are put into the vault, and whether they are what they are said to be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from iceprod.errors import InputError
from iceprod.services.x509_credentials import read_x509

_LAST: Final = 1e11  # an instant some thousand years ahead
_MAX_SECRET: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A secret as it is put in; see `movers.base.Credential` for ``kind``, ``secret``, ``login`` (its user).

    ``proxy_s`` is the life of proxies that are made with a certificate, 0 for none.
    """

    origin: str
    kind: str
    secret: bytes = field(repr=False)
    login: str = ""
    expires_at: float | None = None
    note: str = ""
    refresh_token: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    proxy_s: float = 0.0


def check(given: NewCredential, *, now: float) -> float | None:
    """When a secret ends; None if it lasts, or nobody says.

    Raises:
        InputError: it is none of its kind, or has ended; the message has nothing of it.
    """
    expires_at = _CHECKS.get(given.kind, _no_kind)(given)
    if given.refresh_token and given.kind != "token":
        raise _field_error("refresh_token", "only tokens are renewed by a refresh token")
    if given.proxy_s and given.kind != "x509":
        raise _field_error("proxy_s", "proxies are made with a certificate")
    if len(given.note) > 200 or not given.note.isprintable():
        raise _field_error("note", "a note has at most 200 characters, in one line")
    if expires_at is not None and expires_at <= now and not given.refresh_token:
        raise _field_error("secret", "it has ended already")
    return expires_at


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a text is; an empty one if it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_token(text: str) -> bool:
    """Whether it can stand in a header."""
    return 0 < len(text) <= _MAX_SECRET and all("!" <= letter <= "~" for letter in text)


def _check_token(given: NewCredential) -> float | None:
    text = given.secret.decode("latin-1")
    if given.refresh_token and not is_token(given.refresh_token + given.client_id + given.client_secret):
        raise _field_error("refresh_token", "it has characters that no token has")
    if not text and given.refresh_token:
        return None
    if not is_token(text):
        raise _field_error("secret", "a token is visible ASCII without spaces")
    return _end_of_jwt(text) if given.expires_at is None else given.expires_at


def _end_of_jwt(token: str) -> float | None:
    """When a token ends that says so itself (RFC 7519); what others say is for others to check."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json_object(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    ends_at = claims.get("exp")
    return float(ends_at) if isinstance(ends_at, int | float) and 0 < ends_at < _LAST else None


def _check_login(given: NewCredential) -> None:
    if not given.login or len(given.login) > 200 or not given.login.isprintable() or ":" in given.login:
        raise _field_error("login", "it takes the name to sign in with")


def _check_password(given: NewCredential) -> float | None:
    _check_login(given)
    try:
        text = given.secret.decode()
    except UnicodeDecodeError:
        raise _field_error("secret", "the password is no text") from None
    if not text or len(text) > 1024 or not text.isprintable():
        raise _field_error("secret", "a password has 1 to 1024 characters and no line breaks")
    return given.expires_at


def _check_x509(given: NewCredential) -> float | None:
    if len(given.secret) > _MAX_SECRET:
        raise _field_error("secret", "it is too long")
    found = read_x509(given.secret)
    if given.proxy_s and not 600 <= given.proxy_s <= 7 * 86400:
        raise _field_error("proxy_s", "proxies live from ten minutes to seven days")
    return found.ends_at


def _check_ssh(given: NewCredential) -> float | None:
    _check_login(given)
    try:
        serialization.load_ssh_private_key(given.secret[:_MAX_SECRET], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _field_error("secret", "it takes a private key of OpenSSH without a password") from None
    return given.expires_at


def _no_kind(given: NewCredential) -> float | None:
    raise _field_error("kind", f"a credential is one of {', '.join(_CHECKS)}, not {given.kind[:20]!r}")


_CHECKS: Final[dict[str, Callable[[NewCredential], float | None]]] = {
    "token": _check_token,
    "password": _check_password,
    "x509": _check_x509,
    "ssh": _check_ssh,
}


def _field_error(field_name: str, message: str) -> InputError:
    return InputError(message, fields=[{"path": f"/{field_name}", "message": message}])
