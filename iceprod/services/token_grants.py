"""New bearer tokens for refresh tokens: OAuth 2 as RFC 6749, section 6, and OpenID Connect use it.

The endpoint is one that the settings name, never one that a user gives: refresh tokens are
sent to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from iceprod.errors import AccessDenied, InputError, Unavailable
from iceprod.services.given_secrets import is_token, json_object

_LONGEST_S: Final = 10 * 366 * 86400.0
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz_")


class TokenEndpoint(Protocol):
    """Whoever asks the endpoint of an authorization server."""

    async def ask(
        self, url: str, form: Mapping[str, str], *, client: tuple[str, str] | None, ca_path: str | None
    ) -> tuple[int, bytes]:
        """Post a form, with the client's id and secret if it has one; status and body of the answer.

        Raises:
            Unavailable: it does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class VaultOrigin:
    """What the vault knows of an origin: where its tokens are renewed."""

    token_endpoint: str = ""
    ca_path: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, how long it lives (None: nobody says), and what renews it next time."""

    token: str = field(repr=False)
    life_s: float | None
    refresh_token: str = field(repr=False)


async def renew_token(
    endpoint: TokenEndpoint,
    name: str,
    origin: VaultOrigin,
    *,
    refresh_token: str,
    client: tuple[str, str],
) -> Granted:
    """A new token for the origin of that name; ``client`` is an id and a secret, or empty texts.

    Raises:
        InputError: the settings name no endpoint.
        AccessDenied: the refresh token is not taken.
        Unavailable: the endpoint fails.
    """
    if not origin.token_endpoint:
        raise InputError(f"the settings name no token_endpoint for origin {name}")
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if client[0] and not client[1]:
        form["client_id"] = client[0]
    status, body = await endpoint.ask(
        origin.token_endpoint, form, client=client if client[1] else None, ca_path=origin.ca_path
    )
    answer = json_object(body)
    token, life, rotated = (answer.get(key) for key in ("access_token", "expires_in", "refresh_token"))
    if status != 200 or not isinstance(token, str) or not is_token(token):
        reason = str(answer.get("error", ""))[:40]
        # Of the answer nothing but the code: what else it says may quote what it was asked.
        told = reason if reason and not set(reason) - _LETTERS else f"status {status}"
        if status >= 500:
            raise Unavailable(f"the endpoint for tokens of origin {name} fails: {told}")
        raise AccessDenied(f"the token for origin {name} is not renewed: {told}", origin=name)
    life_s = float(life) if isinstance(life, int | float) and 0 < life < _LONGEST_S else None
    return Granted(token, life_s, rotated if isinstance(rotated, str) and rotated else refresh_token)
