"""Client certificates as credentials: whose they are, and who may say so.

A certificate is known by the names of its subject and its issuer, so a renewed one goes on
to be known; the same subject of another issuer is somebody else.  Who calls with it is the
same principal as of a token of that kind, with the same rights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, InputError, NotAuthenticated, NotFoundError
from iceprod.model import names
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.user import Token
from iceprod.services import authorization
from iceprod.services.accounts import Accounts
from iceprod.services.client_chain import ClientIdentity, end_entity
from iceprod.store.base import AuditEntry, Store

logger = structlog.get_logger(__name__)

CACHED_S: Final = 10.0
"""How long another process knows a certificate that was revoked in this one, at the most."""
_MAX_CACHED: Final = 20_000
_KINDS: Final = (PrincipalKind.USER, PrincipalKind.PILOT, PrincipalKind.SITE)
_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def certificate_id(token: Token) -> str:
    """The name by which a certificate is listed and revoked."""
    return token.digest.partition(":")[2][:16]


def names_of(token: Token) -> tuple[str, str]:
    """Subject and issuer of a certificate that the store keeps."""
    subject, _, issuer = token.certificate.partition("\n")
    return subject, issuer


class Certificates:
    """Whose certificate is whose."""

    def __init__(self, store: Store, accounts: Accounts, *, clock: Clock) -> None:
        self._store = store
        self._accounts = accounts
        self._clock = clock
        self._cache: dict[tuple[str, str], tuple[Principal, float]] = {}
        self._generation = 0

    # Who is calling

    def authenticate(self, identity: ClientIdentity) -> Principal | Awaitable[Principal]:
        """Who calls with a chain; a plain value, not an awaitable, where it is known already.

        The certificate may be nobody's: then the caller is anonymous, and says so.

        Raises (or the awaitable does):
            NotAuthenticated: the chain has ended meanwhile, or its proxy is too limited.
        """
        if not identity.begins_at <= self._clock() < identity.ends_at:
            raise NotAuthenticated("the certificate, or a proxy made with it, has expired")
        found = self.holder(identity.subject, identity.issuer)
        if isinstance(found, Principal):
            return _within_limits(found, identity)
        return self._later(found, identity)

    async def _later(self, found: Awaitable[Principal], identity: ClientIdentity) -> Principal:
        return _within_limits(await found, identity)

    def holder(self, subject: str, issuer: str) -> Principal | Awaitable[Principal]:
        """Whose certificate is of these names, as OpenSSL and nginx spell them; anonymous if nobody's.

        What was changed here counts at once, what another process changed when its news arrive,
        and in any case within `CACHED_S`.
        """
        if self._accounts.generation != self._generation:
            self._cache.clear()
            self._generation = self._accounts.generation
        hit = self._cache.get((subject, issuer))
        if hit is not None and hit[1] > self._clock():
            return hit[0]
        return self._look_up(subject, issuer)

    async def _look_up(self, subject: str, issuer: str) -> Principal:
        generation = self._accounts.generation
        principal = await self._find(subject, issuer)
        # What was read before a change must not outlive it.
        if generation == self._accounts.generation:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[subject, issuer] = (principal, self._clock() + CACHED_S)
        return principal

    async def _find(self, subject: str, issuer: str) -> Principal:
        stranger = Principal(PrincipalKind.ANONYMOUS, certificate=subject[: names.LONGEST_NAME])
        try:
            if not (subject.isascii() and issuer.isascii()):
                raise InputError("in which encoding, nobody says")  # noqa: TRY301 - told like the others
            text = _joined(names.parse_rfc4514(subject).text, names.parse_rfc4514(issuer).text)
        except InputError:
            logger.warning("a certificate's name cannot be read", subject=subject[:200], issuer=issuer[:200])
            return stranger
        token = await self._store.accounts.token(_digest(text))
        if token is None or token.certificate != text:
            return stranger
        try:
            return await self._accounts.holder(token)
        except NotAuthenticated:
            return stranger

    # Saying whose

    async def add(
        self,
        principal: Principal,
        *,
        kind: PrincipalKind,
        name: str,
        pem: str = "",
        subject: str = "",
        issuer: str = "",
        label: str = "",
    ) -> Token:
        """Let a certificate speak for the user, pilot or site of that name.

        It is given itself (``pem``), or by both names in any spelling.

        Raises:
            AlreadyExists: it speaks for somebody already.
            InputError: the certificate or a name cannot be read, or will not do.
            NotFoundError: there is no such user or pilot.
        """
        authorization.check(principal, "certificate.add")
        text = _joined(*_names(pem, subject, issuer))
        await self._check_holder(kind, name)
        if len(label) > 200:
            raise _field_error("label", "a label has at most 200 characters")
        known = await self._store.accounts.token(_digest(text))
        if known is not None:
            raise AlreadyExists(
                f"this certificate speaks for the {known.kind} {known.subject}",
                certificate_id=certificate_id(known),
            )
        token = Token(_digest(text), kind, name, self._clock(), None, label, certificate=text)
        await self._store.accounts.add_token(token)
        self._accounts.changed(name)
        await self._audit(principal, "certificate.add", token)
        return token

    async def enrol(self, site: str, pem: str) -> None:
        """Let a certificate speak for a site that joins; whether it may is for the caller to ask.

        Raises:
            AlreadyExists: it speaks for somebody else.
            InputError: the certificate cannot be read, or will not do.
        """
        text = _joined(*end_entity(pem))
        known = await self._store.accounts.token(_digest(text))
        if known is not None and (known.kind, known.subject) != (PrincipalKind.SITE, site):
            raise AlreadyExists("this certificate speaks for somebody else")
        if known is None:
            await self._store.accounts.add_token(
                Token(_digest(text), PrincipalKind.SITE, site, self._clock(), None, certificate=text)
            )
        self._accounts.changed(site)

    async def _check_holder(self, kind: PrincipalKind, name: str) -> None:
        if kind not in _KINDS:
            raise _field_error(
                "kind", f"a certificate speaks for a user, a pilot or a site, not for a {kind}"
            )
        if kind is PrincipalKind.SITE and not _SITE.fullmatch(name):
            raise _field_error("name", "1 to 64 letters, digits, '.', '_' and '-' name a site")
        if kind is PrincipalKind.USER and await self._store.accounts.user(name) is None:
            raise NotFoundError("user", name)
        if kind is PrincipalKind.PILOT and await self._store.pilots.get(name) is None:
            raise NotFoundError("pilot", name)

    async def certificates(self, principal: Principal, page: Page) -> Slice[Token]:
        """The certificates that the caller may see, by name: a user's own, an administrator's all."""
        scope = authorization.check(principal, "certificate.list")
        if scope is authorization.Scope.ANY:
            return await self._store.accounts.certificates(page)
        found = await self._store.accounts.tokens(PrincipalKind.USER, principal.id)
        own = sorted((token for token in found if token.certificate), key=lambda token: token.certificate)
        return Slice(tuple(own), None)

    async def revoke(self, principal: Principal, identifier: str) -> None:
        """Let a certificate, by its `certificate_id`, speak for nobody any more.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        authorization.check(principal, "certificate.revoke")
        page = Page(limit=500)
        while True:
            found = await self.certificates(principal, page)
            for token in found.items:
                if certificate_id(token) == identifier:
                    await self._drop(principal, token)
                    return
            if found.next is None:
                raise NotFoundError("certificate", identifier)
            page = Page(limit=500, cursor=found.next)

    async def _drop(self, principal: Principal, token: Token) -> None:
        await self._store.accounts.drop_tokens([token.digest])
        self._accounts.changed(token.subject)
        await self._audit(principal, "certificate.revoke", token)

    async def _audit(self, principal: Principal, action: str, token: Token) -> None:
        subject, issuer = names_of(token)
        detail = {"kind": str(token.kind), "name": token.subject, "subject": subject, "issuer": issuer}
        entry = AuditEntry(self._clock(), principal.id, action, certificate_id(token), detail)
        await self._store.audit.add(entry)


def _within_limits(principal: Principal, identity: ClientIdentity) -> Principal:
    """Let a limited proxy speak for a pilot alone: it must not reach what submits work."""
    if identity.is_limited and principal.kind not in (PrincipalKind.PILOT, PrincipalKind.ANONYMOUS):
        raise NotAuthenticated(f"a limited proxy does not speak for a {principal.kind}")
    return principal


def _names(pem: str, subject: str, issuer: str) -> tuple[str, str]:
    if pem:
        if subject or issuer:
            raise _field_error("pem", "a certificate names itself: give it or its names, not both")
        return end_entity(pem)
    if not subject or not issuer:
        raise _field_error("issuer", "both the subject and the issuer make a certificate's identity")
    return names.parse(subject).text, names.parse(issuer).text


def _joined(subject: str, issuer: str) -> str:
    """Both names in one text; neither has a line break, for their spelling escapes it."""
    return f"{subject}\n{issuer}"


def _digest(text: str) -> str:
    # The prefix sets it apart from every digest of a secret: no token opens what a certificate does.
    return f"x509:{hashlib.sha256(text.encode()).hexdigest()}"


def _field_error(field: str, message: str) -> InputError:
    return InputError(message, fields=[{"path": f"/{field}", "message": message}])
