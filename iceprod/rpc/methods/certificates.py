"""Methods about client certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from iceprod.errors import AlreadyExists, NotFoundError
from iceprod.model.paging import MAX_PAGE, Page
from iceprod.model.principal import PrincipalKind
from iceprod.model.user import Token
from iceprod.rpc.registry import Call, Registry
from iceprod.services.certificates import certificate_id, names_of

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Pem = Annotated[str, msgspec.Meta(max_length=65536)]
Dn = Annotated[str, msgspec.Meta(max_length=4096)]


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A client certificate, and for whom (``kind``, ``name``) it speaks."""

    certificate_id: str
    kind: str
    name: str
    subject: str
    issuer: str
    label: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CertificateList:
    """Some certificates; ``next`` is the cursor of what follows."""

    items: list[CertificateView]
    next: str | None


def _view(token: Token) -> CertificateView:
    subject, issuer = names_of(token)
    return CertificateView(
        certificate_id=certificate_id(token),
        kind=str(token.kind),
        name=token.subject,
        subject=subject,
        issuer=issuer,
        label=token.label,
        created_at=token.created_at,
    )


@METHODS.method("certificate.list", action="certificate.list", idempotent=True)
async def certificate_list(call: Call, *, cursor: str | None = None, limit: Limit = 50) -> CertificateList:
    """Certificates by name: users see their own, administrators all."""
    found = await call.services.certificates.certificates(call.principal, Page(limit, cursor))
    return CertificateList([_view(token) for token in found.items], found.next)


@METHODS.method("certificate.add", action="certificate.add", errors=(AlreadyExists, NotFoundError))
async def certificate_add(
    call: Call,
    *,
    kind: Literal["user", "pilot", "site"],
    name: Name,
    certificate: Pem = "",
    subject: Dn = "",
    issuer: Dn = "",
    label: str = "",
) -> CertificateView:
    """Let a certificate speak for a user, a pilot or a site.

    Give the ``certificate`` in PEM, or both of its names: as OpenSSL writes them with
    ``-nameopt RFC2253``, or with a slash before each part.
    """
    made = await call.services.certificates.add(
        call.principal,
        kind=PrincipalKind(kind),
        name=name,
        pem=certificate,
        subject=subject,
        issuer=issuer,
        label=label,
    )
    return _view(made)


@METHODS.method("certificate.revoke", action="certificate.revoke", errors=(NotFoundError,))
async def certificate_revoke(call: Call, *, certificate_id: str) -> None:
    """Let a certificate speak for nobody any more, from now on."""
    await call.services.certificates.revoke(call.principal, certificate_id)
