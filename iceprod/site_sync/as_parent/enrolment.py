"""How a site joins this one: it is invited, shows its code once, and is known from then on."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    InputError,
    NotAuthenticated,
    NotFoundError,
)
from iceprod.model import names
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.user import Token
from iceprod.services import authorization
from iceprod.services.accounts import Accounts
from iceprod.services.certificates import Certificates
from iceprod.services.client_chain import end_entity
from iceprod.services.peer_keys import facts_of, requested_key
from iceprod.services.throttle import Throttle, network_of
from iceprod.site_sync.addresses import is_loopback
from iceprod.site_sync.as_parent.authority import Authority
from iceprod.site_sync.invitation import Invitation
from iceprod.site_sync.messages import PROTOCOLS, Certified, Certify, Introduction, Join, Joined
from iceprod.site_sync.registry import Registry, agreed, check_name
from iceprod.store.base import Store
from iceprod.store.federation import PeerPatch

_LABEL: Final = "invitation"


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a site that joins until something else is set, and how long it may take to do so."""

    invitation_s: float
    lease_s: float
    most_tasks: int


class Enrolment:
    """Invites sites, lets them in, and renews their certificates.

    ``is_plain`` tells whether this site is reached by http alone: only then is there a token
    instead of a certificate, and only for a site on the same machine.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        clock: Clock,
        accounts: Accounts,
        certificates: Certificates,
        authority: Authority,
        limits: Limits,
        is_plain: Callable[[], bool],
    ) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._accounts = accounts
        self._certificates = certificates
        self._authority = authority
        self._limits = limits
        self._is_plain = is_plain
        self._throttle = Throttle(clock)

    async def invite(
        self, principal: Principal, name: str, *, lifetime_s: float | None = None, again: bool = False
    ) -> tuple[str, float]:
        """A code by which one site may join under this name, once; and until when.

        ``again`` invites one that has joined: what it was known by ends when it joins anew.

        Raises:
            AlreadyExists: a site of this name has joined.
            InputError: the name or the lifetime will not do.
        """
        authorization.check(principal, "site.invite")
        if check_name(name) == self._registry.name:
            raise InputError(f"{name} is what this site is called itself")
        peer = await self._store.peers.get(PeerRole.CHILD, name)
        if peer is not None and not peer.is_gone and not again:
            raise AlreadyExists(f"a site {name} has joined", name=name)
        lifetime_s = self._limits.invitation_s if lifetime_s is None else lifetime_s
        if not 0 < lifetime_s <= 366 * 86400:
            raise InputError("an invitation lasts for more than 0 s and at most a year")
        made = Invitation.new(await asyncio.to_thread(self._authority.fingerprint))
        now = self._clock()
        token = Token(_digest(made.secret), PrincipalKind.SITE, name, now, now + lifetime_s, _LABEL)
        await self._drop_invitations(name)
        await self._store.accounts.add_token(token)
        await self._registry.audit(principal.id, "site.invite", name, expires_at=now + lifetime_s)
        return made.code, now + lifetime_s

    async def _drop_invitations(self, name: str) -> None:
        """A later one takes the place of those before."""
        found = await self._store.accounts.tokens(PrincipalKind.SITE, name)
        await self._store.accounts.drop_tokens([each.digest for each in found if _is_invitation(each)])

    async def introduction(self) -> Introduction:
        """Who this site is, and who vouches for it, if anybody: no secret."""
        try:
            authority = await self._trusted()
        except NotFoundError:
            authority = ""
        return Introduction(self._registry.name, list(PROTOCOLS), authority)

    async def _trusted(self) -> str:
        return await asyncio.to_thread(self._authority.trusted)

    async def join(self, principal: Principal, message: Join, *, remote: str) -> Joined:
        """Let a site in that shows its code.

        It is known from then on by a certificate of its own, by one that is made for its key,
        or, on this machine, by a token.

        Raises:
            NotAuthenticated: the code is none that is good (any more).
            RateLimited: too many codes from this address were none.
            AccessDenied: another site is known by the certificate that was shown.
            InputError: the request will not do; the code stays good.
            ConflictError: the sites have no version of the protocol in common; likewise.
        """
        authorization.check(principal, "site.join")
        network = network_of(remote)
        self._throttle.check(network)
        token = await self._invitation(message.code)
        if token is not None:
            protocol = agreed(message.protocols)
            await self._check_way(principal, token.subject, message, remote)
            if await self._use_up(token):
                self._throttle.succeeded(network)
                return await self._let_in(token.subject, message, protocol=protocol, remote=remote)
        self._throttle.failed(network)
        await self._registry.audit("", "site.join", "", remote=remote, refused="no such invitation")
        raise NotAuthenticated("this invitation is unknown, was used or has expired: ask for another one")

    async def _check_way(self, principal: Principal, name: str, message: Join, remote: str) -> None:
        """Whether the site could be known by what it brings: asked before its code is used up."""
        if principal.kind is PrincipalKind.SITE and principal.id != name:
            raise AccessDenied(f"this invitation is not for {principal.id}")
        if message.certificate:
            await self._check_shown(principal, message.certificate)
        elif message.csr:
            requested_key(message.csr)
            await self._trusted()
        elif not (self._is_plain() and is_loopback(remote)):
            raise InputError("a site on another machine joins with a certificate, or a request for one")

    async def _check_shown(self, principal: Principal, certificate: str) -> None:
        """Whether who calls has shown this very certificate: it proves that the key is there."""
        subject, issuer = end_entity(certificate)
        if principal.certificate:
            is_shown = names.parse_rfc4514(principal.certificate).text == subject
        else:  # it speaks for the caller already, that joins anew
            found = self._certificates.holder(subject, issuer)
            is_shown = principal == (found if isinstance(found, Principal) else await found)
        if not is_shown:
            raise InputError("the certificate was not shown in the connection, or has another subject")

    async def _invitation(self, code: str) -> Token | None:
        """The invitation of that code, if it is one that is good."""
        digest = _digest(code)
        token = await self._store.accounts.token(digest)
        if token is None or not hmac.compare_digest(token.digest, digest):
            return None
        is_late = token.expires_at is not None and token.expires_at <= self._clock()
        return None if is_late else token

    async def _use_up(self, token: Token) -> bool:
        """End an invitation; False if somebody who came at the same time has."""
        return await self._store.accounts.drop_tokens([token.digest]) == 1

    async def _let_in(self, name: str, message: Join, *, protocol: int, remote: str) -> Joined:
        await self._accounts.revoke_site(name)
        certificate, token, authority = message.certificate, "", ""
        if certificate or message.csr:
            certificate = certificate or await self._certified(name, message.csr, again=False)
            await self._certificates.enrol(name, certificate)
            authority = await self._trusted()
        else:
            token = await self._accounts.issue_site_token(name)
        peer = await self._peer(name, message, protocol=protocol, certificate=certificate)
        await self._registry.put(peer)
        self._registry.states.forget(PeerRole.CHILD, name)
        self._registry.touch(name)
        known_by = facts_of(certificate).subject if certificate else "token"
        await self._registry.audit(name, "site.join", name, remote=remote, known_by=known_by)
        return Joined(
            name=name,
            site=self._registry.name,
            protocol=protocol,
            lease_s=peer.lease_s,
            version=self._registry.version,
            certificate="" if message.certificate else certificate,
            authority=authority,
            token=token,
        )

    async def _peer(self, name: str, message: Join, *, protocol: int, certificate: str) -> Peer:
        former = await self._store.peers.get(PeerRole.CHILD, name)
        return Peer(
            name=name,
            role=PeerRole.CHILD,
            status=PeerStatus.JOINED,
            joined_at=self._clock(),
            version=message.version[:64],
            protocol=protocol,
            share=former.share if former else 1.0,
            most_tasks=former.most_tasks if former else self._limits.most_tasks,
            lease_s=former.lease_s if former else self._limits.lease_s,
            expires_at=facts_of(certificate).ends_at if certificate else None,
            note=former.note if former else "",
        )

    async def _certified(self, name: str, csr: str, *, again: bool) -> str:
        return await asyncio.to_thread(self._authority.certify, name, csr, again=again)

    async def renew_certificate(self, principal: Principal, message: Certify) -> Certified:
        """A certificate for a new key of a child that is known by one.

        Raises:
            InputError: the request will not do.
            NotFoundError: the certificate that it has is none of this site's authority.
        """
        authorization.check(principal, "site.renew_certificate")
        peer = await self._registry.child(principal)
        if peer.expires_at is None:
            raise ConflictError("this site is known by a token, not by a certificate")
        made = await self._certified(peer.name, message.csr, again=True)
        await self._registry.change(peer, PeerPatch(expires_at=facts_of(made).ends_at))
        self._registry.touch(peer.name)
        await self._registry.audit(peer.name, "site.renew_certificate", peer.name)
        return Certified(made, await self._trusted())


def _digest(secret: str) -> str:
    # The prefix sets it apart from every digest of a token: a code opens nothing but the door.
    return f"join:{hashlib.sha256(secret.encode()).hexdigest()}"


def _is_invitation(token: Token) -> bool:
    return token.digest.startswith("join:")
