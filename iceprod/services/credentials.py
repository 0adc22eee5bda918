"""The vault: secrets for origins, of users and of the site, sealed in the store.

What goes in never comes out but to the movers.  A secret that lasts is kept as it is; what is
renewed:

* a bearer token that came with a refresh token, by OAuth 2's grant for that (RFC 6749, 6),
  at the endpoint that the settings name for the origin: before it ends, and when it is used;
* a certificate that came with the life of proxies: movers get a proxy that is made anew
  before it ends, for as long as the certificate lasts.

A proxy that was put in by itself, a password and a key are not renewed; that they are about to
end is told in time.  Whoever has a secret of their own for an origin never uses the site's
instead, not even when their own has ended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import structlog

from iceprod.clock import Clock
from iceprod.errors import AccessDenied, IceProdError, NotFoundError
from iceprod.model.file import OriginCredential
from iceprod.model.principal import Principal
from iceprod.movers.base import Credential
from iceprod.services import authorization
from iceprod.services.given_secrets import NewCredential, check
from iceprod.services.token_grants import TokenEndpoint, VaultOrigin, renew_token
from iceprod.services.vault_keys import KeyRing
from iceprod.services.x509_credentials import make_proxy, read_x509
from iceprod.store.base import AuditEntry, Store

logger = structlog.get_logger(__name__)

CACHED_S: Final = 10.0
"""How long another process shows a secret that was replaced or deleted in this one, at the most."""
WARN_S: Final = 3 * 86400.0
"""How long before its end a secret that is not renewed is told of."""
FORGET_S: Final = 30 * 86400.0
"""How long after its end it is kept."""
SOON_S: Final = 600.0
"""How long before its end a token is renewed."""
_LATE_S: Final = 60.0
"""A token with less life than this is not shown to anybody."""
_SHARE: Final = 0.25
"""A proxy is made anew when so much of its life is left."""
_MAX_CACHED: Final = 10_000


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """What may be known of a secret; ``renewal`` is ``token``, ``proxy`` or empty."""

    origin: str
    user: str
    kind: str
    created_at: float
    expires_at: float | None
    note: str
    renewal: str


@dataclass(frozen=True, slots=True)
class _Secret:
    """What is sealed."""

    secret: bytes = field(repr=False)
    login: str = ""
    refresh_token: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    proxy_s: float = 0.0

    @property
    def renewal(self) -> str:
        if self.refresh_token:
            return "token"
        return "proxy" if self.proxy_s else ""


_Key = tuple[str, str]
_decoder = msgspec.json.Decoder(_Secret)


class CredentialVault:
    """Keeps secrets, gives them to movers, and renews them."""

    def __init__(
        self,
        store: Store,
        keys: KeyRing,
        *,
        clock: Clock,
        origins: Mapping[str, VaultOrigin],
        endpoint: TokenEndpoint,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._origins = origins
        self._endpoint = endpoint
        self._cache: OrderedDict[_Key, tuple[Credential | None, float]] = OrderedDict()
        self._generation = 0
        self._locks: defaultdict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._told: dict[_Key, float] = {}
        self._proxies: dict[_Key, tuple[bytes, bytes, float, float]] = {}
        self.renewed = 0
        self.failed = 0
        self.expiring = 0
        """How many end soon and are not renewed, as of the last look."""

    # For movers

    async def credential(self, origin: str, user: str) -> Credential | None:
        """The secret of a user for an origin, else the site's own; None if there is neither.

        Raises:
            AccessDenied: it has ended, and could not be renewed.
            Unavailable: the key of the vault is not here, or the token's endpoint does not answer.
        """
        if user:
            found = await self._shown(origin, user)
            if found is not None:
                return found
        return await self._shown(origin, "")

    async def _shown(self, origin: str, user: str) -> Credential | None:
        hit = self._cache.get((origin, user))
        if hit is not None and self._clock() < hit[1]:
            return hit[0]
        generation = self._generation
        found, good_until = await self._look_up(origin, user)
        if generation == self._generation:  # what was read before a change must not outlive it
            self._cache[origin, user] = (found, min(good_until, self._clock() + CACHED_S))
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return found

    async def _look_up(self, origin: str, user: str) -> tuple[Credential | None, float]:
        """The secret as it is shown, and until when it may be."""
        record = await self._store.credentials.get(origin, user)
        if record is None:
            return None, float("inf")
        secret = await self._opened(record)
        if secret.refresh_token and self._ends_within(record, SOON_S):
            record, secret = await self._renewed(record, secret)
        if record.kind == "x509" and secret.proxy_s:
            return await self._proxy(record, secret)
        late_s = _LATE_S if secret.refresh_token else 0.0
        if self._ends_within(record, late_s):
            raise _ended(record)
        good_until = float("inf") if record.expires_at is None else record.expires_at - late_s
        return Credential(record.kind, secret.secret, secret.login), good_until

    async def _proxy(self, record: OriginCredential, secret: _Secret) -> tuple[Credential, float]:
        if self._ends_within(record, 0.0):
            raise _ended(record)
        now = self._clock()
        pem, ends_at = await self._made_proxy(record, secret, now)
        return Credential("x509", pem, secret.login), ends_at

    async def _made_proxy(self, record: OriginCredential, secret: _Secret, now: float) -> tuple[bytes, float]:
        """The proxy that is at hand, or a new one: a key takes a while to make."""
        key = (record.origin, record.user)
        async with self._locks[key]:
            known = self._proxies.get(key)
            if known is not None and known[0] == record.sealed and now < known[3]:
                return known[1], known[2]
            source = read_x509(secret.secret)
            pem, ends_at = await asyncio.to_thread(make_proxy, source, lifetime_s=secret.proxy_s, now=now)
            renew_at = ends_at - _SHARE * (ends_at - now)
            self._proxies[key] = (record.sealed, pem, ends_at, renew_at)
            self.renewed += known is not None
            return pem, ends_at

    # For callers

    async def listed(self, principal: Principal, user: str | None = None) -> list[CredentialInfo]:
        """What a user has put in; the caller's own if nobody is named, the site's for an empty name.

        Raises:
            NotFoundError: that is none of the caller's business.
        """
        user = self._holder(principal, "credential.list", user)
        return [await self._info(record) for record in await self._store.credentials.of_user(user)]

    async def put(
        self, principal: Principal, given: NewCredential, user: str | None = None
    ) -> CredentialInfo:
        """Keep a secret in place of the one for the same origin.

        Raises:
            NotFoundError: the settings name no such origin, or there is no such user.
            InputError: the secret is none of its kind, or has ended.
            AccessDenied: the refresh token is not taken.
        """
        user = self._holder(principal, "credential.put", user)
        if given.origin not in self._origins:
            raise NotFoundError("origin", given.origin)
        if user and user != principal.id and await self._store.accounts.user(user) is None:
            raise NotFoundError("user", user)
        expires_at = check(given, now=self._clock())
        secret = _Secret(
            given.secret,
            given.login,
            given.refresh_token,
            given.client_id,
            given.client_secret,
            given.proxy_s,
        )
        record = OriginCredential(given.origin, user, given.kind, b"", self._clock(), expires_at, given.note)
        if given.refresh_token and not given.secret:
            record, secret = await self._asked(record, secret)
        await self._keep(record, secret)
        await self._audit(principal, "credential.put", record)
        return await self._info(replace(record, sealed=await self._sealed(record, secret)))

    async def delete(self, principal: Principal, origin: str, user: str | None = None) -> None:
        """Forget a secret.

        Raises:
            NotFoundError: there is none of the caller's.
        """
        user = self._holder(principal, "credential.delete", user)
        record = await self._store.credentials.get(origin, user)
        if record is None or not await self._store.credentials.delete(origin, user):
            raise NotFoundError("credential", origin)
        self._changed(origin, user)
        await self._audit(principal, "credential.delete", record)

    # The duty

    async def look_after(self) -> None:
        """Renew what can be, tell what is about to end, forget what ended long ago."""
        now, expiring = self._clock(), 0
        for record in await self._store.credentials.expiring(now + WARN_S, 1000):
            ends_at = record.expires_at or now
            if ends_at < now - FORGET_S:
                await self._store.credentials.delete(record.origin, record.user)
                self._changed(record.origin, record.user)
            elif not await self._is_renewed(record):
                expiring += 1
                self._tell(record, ends_at, now)
        self.expiring = expiring

    async def _is_renewed(self, record: OriginCredential) -> bool:
        try:
            secret = await self._opened(record)
            if not secret.refresh_token:
                return False
            if self._ends_within(record, SOON_S):
                await self._renewed(record, secret)
        except IceProdError as error:
            logger.warning(
                "credential not renewed", origin=record.origin, user=record.user, error=error.message
            )
            return False
        return True

    def _tell(self, record: OriginCredential, ends_at: float, now: float) -> None:
        """Once a day."""
        key = (record.origin, record.user)
        if now - self._told.get(key, float("-inf")) >= 86400.0:
            self._told[key] = now
            what = "credential has ended" if ends_at <= now else "credential ends soon"
            logger.warning(what, origin=record.origin, user=record.user, kind=record.kind, ends_at=ends_at)

    # Renewal of tokens

    async def _renewed(self, record: OriginCredential, secret: _Secret) -> tuple[OriginCredential, _Secret]:
        """The token with a new life; the former as long as it lasts if that fails."""
        async with self._locks[record.origin, record.user]:
            latest = await self._store.credentials.get(record.origin, record.user)
            if latest is not None and latest.sealed != record.sealed:  # somebody was quicker
                return latest, await self._opened(latest)
            try:
                record, secret = await self._asked(record, secret)
            except IceProdError as error:
                self.failed += 1
                latest = await self._store.credentials.get(record.origin, record.user)
                if latest is not None and latest.sealed != record.sealed:
                    # Another process has used the refresh token up, and kept what came for it.
                    return latest, await self._opened(latest)
                if self._ends_within(record, _LATE_S):
                    raise
                logger.warning(
                    "token not renewed", origin=record.origin, user=record.user, error=error.message
                )
                return record, secret
            self.renewed += 1
            await self._keep(record, secret)
            return record, secret

    async def _asked(self, record: OriginCredential, secret: _Secret) -> tuple[OriginCredential, _Secret]:
        """What the endpoint gives for the refresh token."""
        origin = self._origins.get(record.origin, VaultOrigin())
        granted = await renew_token(
            self._endpoint,
            record.origin,
            origin,
            refresh_token=secret.refresh_token,
            client=(secret.client_id, secret.client_secret),
        )
        now = self._clock()
        expires_at = None if granted.life_s is None else now + granted.life_s
        return (
            replace(record, created_at=now, expires_at=expires_at),
            replace(secret, secret=granted.token.encode(), refresh_token=granted.refresh_token),
        )

    # Sealing

    async def _keep(self, record: OriginCredential, secret: _Secret) -> None:
        await self._store.credentials.put(replace(record, sealed=await self._sealed(record, secret)))
        self._changed(record.origin, record.user)

    async def _sealed(self, record: OriginCredential, secret: _Secret) -> bytes:
        text = msgspec.json.encode(secret)
        return await asyncio.to_thread(self._keys.seal, text, _purpose(record))

    async def _opened(self, record: OriginCredential) -> _Secret:
        text = await asyncio.to_thread(self._keys.open, record.sealed, _purpose(record))
        return _decoder.decode(text)

    async def _info(self, record: OriginCredential) -> CredentialInfo:
        renewal = "unknown"
        with suppress(IceProdError):
            renewal = (await self._opened(record)).renewal
        return CredentialInfo(
            record.origin,
            record.user,
            record.kind,
            record.created_at,
            record.expires_at,
            record.note,
            renewal,
        )

    # The rest

    def _holder(self, principal: Principal, action: str, user: str | None) -> str:
        """Whose secrets it is about."""
        scope = authorization.check(principal, action)
        if user is None:
            return principal.id
        if scope is not authorization.Scope.ANY and user != principal.id:
            raise NotFoundError("user", user)
        return user

    def _changed(self, origin: str, user: str) -> None:
        self._generation += 1
        self._cache.pop((origin, user), None)
        self._proxies.pop((origin, user), None)
        self._told.pop((origin, user), None)

    def _ends_within(self, record: OriginCredential, seconds: float) -> bool:
        return record.expires_at is not None and record.expires_at <= self._clock() + seconds

    async def _audit(self, principal: Principal, action: str, record: OriginCredential) -> None:
        detail = {"user": record.user, "kind": record.kind, "expires_at": record.expires_at}
        entry = AuditEntry(self._clock(), principal.id, action, f"origin:{record.origin}", detail)
        await self._store.audit.add(entry)


def _purpose(record: OriginCredential) -> bytes:
    """What the secret belongs to; none of the three can hold a NUL."""
    return f"iceprod.credential\0{record.origin}\0{record.user}\0{record.kind}".encode()


def _ended(record: OriginCredential) -> AccessDenied:
    whose = f"of {record.user}" if record.user else "of the site"
    return AccessDenied(
        f"the credential {whose} for origin {record.origin} has ended; put in a new one",
        origin=record.origin,
        reason="credential_ended",
    )
