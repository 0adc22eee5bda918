"""How this site joins another one: by the code of an invitation, and at no stranger's.

Nothing is believed of the other site, and the code is shown to nobody, before it is known
that the one who answers is the one who invited: its certificate is vouched for by the
authority whose fingerprint stands in the code, or by one that is given.
"""

from __future__ import annotations

import asyncio
import hmac
import http.client
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, IceProdError, InputError, NotAuthenticated, Unavailable
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.rpc.client import Client
from iceprod.services.peer_keys import KeyRequest, fingerprint, new_key
from iceprod.site_sync.addresses import parent_url
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.greeting import greet
from iceprod.site_sync.as_child.identity import IdentityFiles, first_certificate
from iceprod.site_sync.invitation import Invitation
from iceprod.site_sync.messages import PROTOCOLS, Introduction, Join, Joined
from iceprod.site_sync.registry import agreed, check_name
from iceprod.store.base import Store

_PATIENCE_S: Final = 30.0
_LONGEST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """Where to join, by which code, and how.

    ``authority`` vouches for the other site's certificate, if it is not the one that the code
    tells of.  ``certificate`` is this site's own (PEM, with key and chain) where it has one.
    ``name`` is what the other site is called here, if not as it calls itself.
    """

    url: str
    code: str
    authority: Path | None = None
    certificate: Path | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new parent, what this site is called there, and what is still to be seen to, if anything."""

    parent: Peer
    known_as: str
    trouble: str = ""


class Joining:
    """Joins parents, beside a running server or without one."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        files: Callable[[str], IdentityFiles],
        connect: Callable[[Peer], Calls],
        version: str,
    ) -> None:
        self._store = store
        self._clock = clock
        self._files = files
        self._connect = connect
        self._version = version

    async def join(self, request: Request) -> Outcome:
        """Make a key, get it certified, and keep all that is needed to call the parent.

        Raises:
            NotAuthenticated: it is not the one who invited, or the code is good no longer.
            InputError: the code, the address or a file will not do.
            AlreadyExists: another parent is called so.
            Unavailable: it does not answer.
        """
        url, invitation = parent_url(request.url), Invitation.read(request.code)
        authority = await _authority(url, invitation, request)
        async with _client(url, authority, request.certificate) as client:
            found = await _ask(client, "site.authority", {}, Introduction)
            agreed(found.protocols)
            name = check_name(request.name or found.site)
            await self._check_free(name, url)
            made = None if request.certificate or not authority else new_key(name)
            joined = await _ask(
                client, "site.join", {"message": self._message(request, invitation, made)}, Joined
            )
        self._keep(name, joined, made, authority, request.certificate)
        return await self._greet(self._parent(name, url, joined), joined.name)

    def _message(self, request: Request, invitation: Invitation, made: KeyRequest | None) -> Join:
        own = request.certificate.read_text(encoding="utf-8") if request.certificate else ""
        return Join(
            code=invitation.secret,
            protocols=list(PROTOCOLS),
            csr=made.csr if made else "",
            certificate=first_certificate(own) if own else "",
            version=self._version,
        )

    async def _check_free(self, name: str, url: str) -> None:
        former = await self._store.peers.get(PeerRole.PARENT, name)
        if former is not None and not former.is_gone and former.url != url:
            raise AlreadyExists(
                f"there is a parent {name} at {former.url}: call this one otherwise, or leave that one"
            )

    def _keep(
        self, name: str, joined: Joined, made: KeyRequest | None, authority: str, certificate: Path | None
    ) -> None:
        files = self._files(name)
        if made is not None:
            files.keep_certificate(made.key, joined.certificate, authority)
        elif certificate is not None:
            files.keep_own(certificate, authority)
        else:
            files.keep_token(joined.token)

    def _parent(self, name: str, url: str, joined: Joined) -> Peer:
        facts = self._files(name).facts()
        return Peer(
            name=name,
            role=PeerRole.PARENT,
            status=PeerStatus.JOINED,
            joined_at=self._clock(),
            url=url,
            version=joined.version[:64],
            protocol=joined.protocol,
            lease_s=joined.lease_s,
            expires_at=facts.ends_at if facts else None,
        )

    async def _greet(self, parent: Peer, known_as: str) -> Outcome:
        """Keep the parent, and see whether it knows this site by what it has given to it."""
        await self._store.peers.put(parent)
        link, trouble = self._connect(parent), ""
        try:
            await greet(parent, link, self._store, version=self._version)
        except NotAuthenticated as exc:
            trouble = f"it does not look at certificates yet (nginx.client_ca): {exc.message}"
        except IceProdError as exc:
            trouble = exc.message
        finally:
            link.close()
        return Outcome(parent, known_as, trouble)


async def _authority(url: str, invitation: Invitation, request: Request) -> str:
    """Who has to vouch for the site at an address (PEM); nobody on this machine."""
    if url.startswith("http:"):
        return ""
    if request.authority is not None:
        return request.authority.read_text(encoding="utf-8")
    found = await asyncio.to_thread(_unverified, url, request.certificate)
    if not found or not hmac.compare_digest(fingerprint(found), invitation.fingerprint):
        raise NotAuthenticated(
            f"who answers at {url} is not the site that made this invitation, or the code was copied wrongly"
        )
    return found


def _unverified(url: str, certificate: Path | None) -> str:
    """The authority of which whoever answers says that it vouches for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # What comes is compared with the fingerprint in the code, and nothing is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(url)
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "site.authority", "params": {}})
    try:
        if certificate is not None:
            context.load_cert_chain(certificate)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=_PATIENCE_S, context=context
        )
        try:
            connection.request("POST", f"{parts.path}/jsonrpc", body, {"Content-Type": "application/json"})
            text = connection.getresponse().read(_LONGEST)
        finally:
            connection.close()
        answer = msgspec.json.decode(text)
        return str(answer["result"]["authority"])
    except (OSError, http.client.HTTPException) as exc:
        raise Unavailable(f"no answer from {url}: {exc}") from None
    except (msgspec.DecodeError, KeyError, TypeError):
        raise Unavailable(f"what answers at {url} is no site, or does not join others") from None


@asynccontextmanager
async def _client(url: str, authority: str, certificate: Path | None) -> AsyncIterator[Client]:
    """Calls over a connection that is verified."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8") as trusted:
        trusted.write(authority)
        trusted.flush()
        client = Client(
            f"{url}/jsonrpc",
            ca_file=trusted.name if authority else None,
            cert_file=str(certificate) if certificate else None,
        )
        try:
            yield client
        finally:
            client.close()


async def _ask(client: Client, method: str, params: dict[str, Any], answer: Any) -> Any:
    found = await client.ask(method, params, timeout_s=_PATIENCE_S)
    try:
        return msgspec.convert(found, answer)
    except msgspec.ValidationError as exc:
        raise InputError(f"the answer is not understood: {exc}") from None
