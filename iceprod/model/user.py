"""People and the credentials that the site has given out."""

from __future__ import annotations

from dataclasses import dataclass

from iceprod.model.principal import PrincipalKind


@dataclass(frozen=True, slots=True)
class User:
    """A local account; ``password_hash`` is Argon2's encoded form."""

    name: str
    password_hash: str
    created_at: float
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset({"users"})
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A credential as the store keeps it: never the secret, only its digest.

    ``kind`` and ``subject`` say who calls with it; ``session`` marks a browser's.
    ``certificate`` is empty but for a client certificate, which has no secret: then it holds
    the subject's and the issuer's name, a line each, and the digest is that of the two.
    """

    digest: str
    kind: PrincipalKind
    subject: str
    created_at: float
    expires_at: float | None
    label: str = ""
    session: bool = False
    certificate: str = ""
