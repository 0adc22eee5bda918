"""People, and the credentials by which they, pilots and tasks are known.

The store keeps digests of secrets only, and of passwords only their Argon2 hashes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, IceProdError, InputError, NotAuthenticated, NotFoundError
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.user import Token, User
from iceprod.services import authorization, task_tokens
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.passwords import Passwords
from iceprod.services.task_tokens import TaskTokens
from iceprod.services.throttle import Throttle, network_of
from iceprod.store.base import AuditEntry, Store

logger = structlog.get_logger(__name__)

_SIGNING_KEY: Final = "signing-key"
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,31}")
_ROLES: Final = frozenset({"admin"})
_CACHED_S: Final = 10.0
_MAX_CACHED: Final = 20_000
_PREFIXES: Final = {PrincipalKind.USER: "iu", PrincipalKind.PILOT: "ip", PrincipalKind.SITE: "is"}
_SITE_PREFIX: Final = f"{_PREFIXES[PrincipalKind.SITE]}_"
_LONGEST_SECRET: Final = 512
_SESSION_PREFIX: Final = "iw"


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret at the only moment that it is known, and what the store keeps of it."""

    secret: str
    token: Token


def token_id(token: Token) -> str:
    """The name by which a stored token is listed and revoked; tells nothing of its secret."""
    return token.digest[:16]


class Accounts:
    """Users, sessions, tokens, and who is calling."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        passwords: Passwords,
        session_s: float = 7 * 86400.0,
        events: Events | None = None,
        on_refused_site: Callable[[IceProdError], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._passwords = passwords
        self._session_s = session_s
        self._events = events
        self._on_refused_site = on_refused_site
        self._throttle = Throttle(clock)
        # Many people may share an address; a name at an address is one of them.
        self._addresses = Throttle(clock, free=50)
        self._cache: dict[str, tuple[Principal, float]] = {}
        self._generation = 0
        self._task_tokens: TaskTokens | None = None

    async def open(self) -> None:
        """Fetch the site's signing key, or make it at the first start."""
        key = await self._store.values.put_new(_SIGNING_KEY, secrets.token_hex(32))
        self._task_tokens = TaskTokens(bytes.fromhex(key))

    def close(self) -> None:
        """Let the hashing threads end."""
        self._passwords.close()

    # Who is calling

    def authenticate(self, credential: str) -> Principal | Awaitable[Principal]:
        """Who calls with ``credential``; a plain value, not an awaitable, where it is known already.

        A token that was revoked here is refused at once, one revoked by another process when
        its news arrive, and in any case within ten seconds.

        Raises (or the awaitable does):
            NotAuthenticated: the credential is unknown, has expired, or its user is disabled.
        """
        hit = self._cache.get(credential)
        if hit is not None and hit[1] > self._clock():
            return hit[0]
        if credential.startswith(task_tokens.PREFIX):
            return self._tasks().verify(credential)
        return self._look_up(credential)

    async def _look_up(self, credential: str) -> Principal:
        if not credential.isascii() or len(credential) > _LONGEST_SECRET:
            raise NotAuthenticated("the token is not valid")
        generation = self._generation
        token = await self._store.accounts.token(ids.digest(credential))
        now = self._clock()
        if token is None or (token.expires_at is not None and token.expires_at <= now):
            error = NotAuthenticated(f"the token {'is not valid' if token is None else 'has expired'}")
            if credential.startswith(_SITE_PREFIX):
                self._on_refused_site(error)
            raise error
        principal = await self.holder(token)
        # A revocation that came in between must not be outlived by what was read before it.
        if generation == self._generation:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[credential] = (principal, min(now + _CACHED_S, token.expires_at or now + _CACHED_S))
        return principal

    @property
    def generation(self) -> int:
        """Grows whenever somebody who is known may have become somebody else, or nobody."""
        return self._generation

    async def holder(self, token: Token) -> Principal:
        """Who calls with a credential of the store.

        Raises:
            NotAuthenticated: its user's account is closed.
        """
        if token.kind is not PrincipalKind.USER:
            return Principal(token.kind, token.subject)
        user = await self._store.accounts.user(token.subject)
        if user is None or user.disabled:
            raise NotAuthenticated("the token is not valid")
        return principal_of(user)

    def changed(self, subject: str) -> None:
        """Have every process ask the store again for the credentials of ``subject``."""
        self.forget(subject)
        if self._events is not None:
            self._events.publish(Event(EventKind.CREDENTIALS_REVOKED, subject))

    def forget_all(self) -> None:
        """Ask the store again for every credential."""
        self._generation += 1
        self._cache.clear()

    def forget(self, subject: str) -> None:
        """Ask the store again for every credential of ``subject``; others stay at hand."""
        self._generation += 1
        for credential in [key for key, (known, _) in self._cache.items() if known.id == subject]:
            del self._cache[credential]

    # Sessions

    async def sign_in(
        self, name: str, password: str, *, address: str, former: str | None = None
    ) -> Credential:
        """Begin a session; that of the cookie sent along (``former``) ends.

        Raises:
            NotAuthenticated: wrong name or password; which of them, or whether the account is
                disabled, is not told.
            RateLimited: too many failures for this name from this address.
        """
        network = network_of(address)
        who = f"{name[:64]}@{network}"
        self._throttle.check(who)
        self._addresses.check(network)
        user = await self._store.accounts.user(name) if _NAME.fullmatch(name) else None
        matches = await self._passwords.verify(user.password_hash if user else None, password)
        if user is None or not matches or user.disabled:
            self._throttle.failed(who)
            self._addresses.failed(network)
            logger.info("sign-in refused", user=name[:64], address=address)
            raise NotAuthenticated("the name or the password is wrong")
        self._throttle.succeeded(who)
        if former:
            await self.sign_out(former)
        await self._audit(name, "session.begin", name, address=address)
        return await self._issue(
            PrincipalKind.USER, name, expires_at=self._clock() + self._session_s, session=True
        )

    async def sign_out(self, session: str) -> None:
        """End a session; one that is no more is no error."""
        digest = ids.digest(session)
        token = await self._store.accounts.token(digest)
        await self._store.accounts.drop_tokens([digest])
        if token is not None:
            self.changed(token.subject)

    # Tokens

    async def create_token(
        self, principal: Principal, *, label: str = "", lifetime_s: float | None = None
    ) -> Credential:
        """Make an API token with the caller's own rights; its secret is known only now."""
        authorization.check(principal, "token.create")
        if len(label) > 200:
            raise _field_error("label", "a label has at most 200 characters")
        if lifetime_s is not None and not 0 < lifetime_s <= 10 * 366 * 86400:
            raise _field_error("lifetime_s", "a token lives for more than 0 s and at most ten years")
        expires_at = None if lifetime_s is None else self._clock() + lifetime_s
        made = await self._issue(PrincipalKind.USER, principal.id, expires_at=expires_at, label=label)
        await self._audit(principal.id, "token.create", token_id(made.token), label=label)
        return made

    async def tokens(self, principal: Principal) -> list[Token]:
        """The caller's own API tokens, newest first."""
        authorization.check(principal, "token.list")
        found = await self._store.accounts.tokens(PrincipalKind.USER, principal.id)
        return [token for token in found if not token.session and not token.certificate]

    async def revoke_token(self, principal: Principal, identifier: str) -> None:
        """Revoke one of the caller's own tokens by its `token_id`.

        Raises:
            NotFoundError: the caller has no such token.
        """
        authorization.check(principal, "token.revoke")
        for token in await self.tokens(principal):
            if token_id(token) == identifier:
                await self._store.accounts.drop_tokens([token.digest])
                self.changed(principal.id)
                await self._audit(principal.id, "token.revoke", identifier)
                return
        raise NotFoundError("token", identifier)

    async def issue_pilot_token(self, pilot_id: str, *, lifetime_s: float = 30 * 86400.0) -> str:
        """Make the passkey of a pilot; who may have it is for the caller of this to ask."""
        made = await self._issue(PrincipalKind.PILOT, pilot_id, expires_at=self._clock() + lifetime_s)
        return made.secret

    async def revoke_pilot_tokens(self, pilot_id: str) -> None:
        """Make every passkey of a pilot worthless."""
        await self._drop_all(PrincipalKind.PILOT, pilot_id)

    async def issue_site_token(self, site: str) -> str:
        """Make the token of a site that shows no certificate; who may have it is for the caller to ask."""
        return (await self._issue(PrincipalKind.SITE, site, expires_at=None)).secret

    async def revoke_site(self, site: str) -> None:
        """Make every credential of a site worthless: tokens, certificates and invitations."""
        await self._drop_all(PrincipalKind.SITE, site)

    def make_task_token(self, task_id: str, lease_id: str) -> str:
        """The token for the payload of one attempt of a task."""
        return self._tasks().make(task_id, lease_id)

    def _tasks(self) -> TaskTokens:
        if self._task_tokens is None:
            raise RuntimeError("the accounts were not opened")
        return self._task_tokens

    async def _issue(
        self,
        kind: PrincipalKind,
        subject: str,
        *,
        expires_at: float | None,
        label: str = "",
        session: bool = False,
    ) -> Credential:
        secret = ids.new_secret(_SESSION_PREFIX if session else _PREFIXES[kind])
        token = Token(
            digest=ids.digest(secret),
            kind=kind,
            subject=subject,
            created_at=self._clock(),
            expires_at=expires_at,
            label=label,
            session=session,
        )
        await self._store.accounts.add_token(token)
        return Credential(secret, token)

    async def _drop_all(self, kind: PrincipalKind, subject: str) -> None:
        found = await self._store.accounts.tokens(kind, subject)
        # A certificate of a user is no secret that leaks with a password; a closed account has no holder.
        kept = {token.digest for token in found if token.certificate and kind is PrincipalKind.USER}
        await self._store.accounts.drop_tokens([each.digest for each in found if each.digest not in kept])
        self.changed(subject)

    # Users

    async def create_user(
        self,
        principal: Principal,
        name: str,
        password: str,
        *,
        roles: Iterable[str] = (),
        groups: Iterable[str] = ("users",),
    ) -> User:
        """Add an account.

        Raises:
            AlreadyExists: the name is taken.
            InputError: the name, the password or a role will not do.
        """
        authorization.check(principal, "user.create")
        user = await self._new_user(name, password, roles=frozenset(roles), groups=frozenset(groups))
        await self._audit(principal.id, "user.create", name, roles=sorted(user.roles))
        return user

    async def create_first_admin(self, name: str = "admin") -> str | None:
        """Add an administrator with a random password and return it; None if there are users already."""
        if (await self._store.accounts.users(Page(limit=1))).items:
            return None
        password = secrets.token_urlsafe(15)
        await self._new_user(name, password, roles=_ROLES, groups=frozenset({"users"}))
        await self._audit("", "user.create", name, roles=["admin"])
        return password

    async def _new_user(
        self, name: str, password: str, *, roles: frozenset[str], groups: frozenset[str]
    ) -> User:
        if not _NAME.fullmatch(name):
            raise _field_error(
                "name",
                "a name has 1 to 32 lower-case letters, digits, '.', '_', '-' and begins with a letter",
            )
        if roles - _ROLES:
            raise _field_error("roles", f"no role {min(roles - _ROLES)!r}; there is: admin")
        if not all(_NAME.fullmatch(group) for group in groups):
            raise _field_error("groups", "groups are named like users")
        user = User(name, await self._passwords.hash(password), self._clock(), roles=roles, groups=groups)
        if not await self._store.accounts.add_user(user):
            raise AlreadyExists(f"the user name {name!r} is taken", name=name)
        return user

    async def users(self, principal: Principal, page: Page) -> Slice[User]:
        """All accounts by name."""
        authorization.check(principal, "user.list")
        return await self._store.accounts.users(page)

    async def disable_user(self, principal: Principal, name: str, *, disabled: bool = True) -> User:
        """Close an account, sessions and tokens with it, or open it again."""
        authorization.check(principal, "user.disable")
        user = replace(await self._user(name), disabled=disabled)
        await self._store.accounts.put_user(user)
        if disabled:
            await self._drop_all(PrincipalKind.USER, name)
        else:
            self.changed(name)  # its certificates count again
        await self._audit(principal.id, "user.disable", name, disabled=disabled)
        return user

    async def set_password(
        self, principal: Principal, name: str, password: str, *, current: str | None = None
    ) -> None:
        """Change a password; every session and token of the user ends.

        A user changes the own one and has to show the ``current`` one, an administrator
        everybody's.

        Raises:
            NotAuthenticated: ``current`` is wrong.
            NotFoundError: there is no such user, or it is somebody else.
        """
        authorization.check_object(principal, "user.password", kind="user", identifier=name, owner=name)
        user = await self._user(name)
        if not principal.is_admin:
            self._throttle.check(f"password of {name}")
            if not await self._passwords.verify(user.password_hash, current or ""):
                self._throttle.failed(f"password of {name}")
                raise NotAuthenticated("the current password is wrong")
        changed = replace(user, password_hash=await self._passwords.hash(password))
        await self._store.accounts.put_user(changed)
        await self._drop_all(PrincipalKind.USER, name)
        await self._audit(principal.id, "user.password", name)

    async def _user(self, name: str) -> User:
        user = await self._store.accounts.user(name)
        if user is None:
            raise NotFoundError("user", name)
        return user

    async def _audit(self, who: str, action: str, target: str, **detail: object) -> None:
        await self._store.audit.add(AuditEntry(self._clock(), who, action, target, detail))


def principal_of(user: User) -> Principal:
    """The caller that a user is."""
    kind = PrincipalKind.ADMIN if "admin" in user.roles else PrincipalKind.USER
    return Principal(kind, user.name, user.groups)


def _field_error(field: str, message: str) -> InputError:
    return InputError(message, fields=[{"path": f"/{field}", "message": message}])
