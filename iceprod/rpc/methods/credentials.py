"""Methods about secrets for origins: they go in, and never come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from iceprod.errors import NotFoundError, Unavailable
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView
from iceprod.services.credentials import CredentialInfo
from iceprod.services.given_secrets import NewCredential

METHODS = Registry()

OriginName = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Text = Annotated[str, msgspec.Meta(max_length=200)]
Secret = Annotated[str, msgspec.Meta(max_length=65536)]
Instant = Annotated[float, msgspec.Meta(gt=0, lt=1e11)]
Hours = Annotated[float, msgspec.Meta(ge=0, le=168)]


@dataclass(frozen=True, slots=True)
class CredentialView:
    """A credential without its secret; ``user`` is empty for the site's own.

    ``renewal`` tells what is made anew before it ends: ``token``, ``proxy``, or nothing;
    ``unknown`` where this server has not the key that it is sealed with.
    """

    origin: str
    user: str
    kind: str
    created_at: float
    expires_at: float | None
    note: str
    renewal: str


def _view(found: CredentialInfo) -> CredentialView:
    return CredentialView(
        found.origin, found.user, found.kind, found.created_at, found.expires_at, found.note, found.renewal
    )


@METHODS.method("credential.list", action="credential.list", errors=(NotFoundError,), idempotent=True)
async def credential_list(call: Call, *, user: Text | None = None) -> ListView[CredentialView]:
    """The caller's credentials for origins.

    An administrator may name a user, or the site by an empty name.
    """
    found = await call.services.vault.listed(call.principal, user)
    return ListView([_view(one) for one in found], None)


@METHODS.method(
    "credential.put", action="credential.put", errors=(NotFoundError, Unavailable), idempotent=True
)
async def credential_put(
    call: Call,
    *,
    origin: OriginName,
    kind: Literal["token", "password", "x509", "ssh"],
    secret: Secret = "",
    login: Text = "",
    note: Text = "",
    expires_at: Instant | None = None,
    refresh_token: Secret = "",
    client_id: Text = "",
    client_secret: Text = "",
    proxy_hours: Hours = 0,
    user: Text | None = None,
) -> CredentialView:
    """Keep a credential for an origin, in place of the caller's former one.

    ``secret`` is a bearer token, a password, PEM text of a certificate with its key and chain,
    or a private key of OpenSSH; ``login`` is the name that goes with a password or key.  With
    a refresh token the token is renewed where the settings say for the origin; with
    ``proxy_hours`` the origin is shown proxies of that life, made with the certificate.  An
    administrator may name a user, or the site by an empty name.
    """
    given = NewCredential(
        origin=origin,
        kind=kind,
        secret=secret.encode(),
        login=login,
        expires_at=expires_at,
        note=note,
        refresh_token=refresh_token,
        client_id=client_id,
        client_secret=client_secret,
        proxy_s=proxy_hours * 3600.0,
    )
    return _view(await call.services.vault.put(call.principal, given, user))


@METHODS.method("credential.delete", action="credential.delete", errors=(NotFoundError,))
async def credential_delete(call: Call, *, origin: OriginName, user: Text | None = None) -> None:
    """Forget a credential for an origin."""
    await call.services.vault.delete(call.principal, origin, user)
