"""New keys and certificates in time, without anybody's doing."""

from __future__ import annotations

from typing import Protocol

import structlog

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.model.federation import Peer, PeerRole
from iceprod.services.peer_keys import new_key
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.identity import IdentityFiles
from iceprod.site_sync.messages import Certified, Certify
from iceprod.store.base import Store
from iceprod.store.federation import PeerPatch

logger = structlog.get_logger(__name__)

_PART = 2 / 3
"""After which part of its life a certificate is renewed: the rest is for parents that are away."""


class FindFiles(Protocol):
    """Where what is needed to call a parent is kept."""

    def __call__(self, name: str) -> IdentityFiles:
        """For the parent of that name."""
        ...


class FindLink(Protocol):
    """How a parent is called."""

    def __call__(self, peer: Peer) -> Calls:
        """A way that is closed after use."""
        ...


class Renewal:
    """Renews the certificates that parents have made for this site."""

    def __init__(self, store: Store, *, clock: Clock, files: FindFiles, connect: FindLink) -> None:
        self._store = store
        self._clock = clock
        self._files = files
        self._connect = connect

    async def look(self) -> int:
        """Renew whatever is due; how many that were.  A duty: what fails is tried again the next time."""
        renewed = 0
        for peer in await self._store.peers.all():
            if peer.role is PeerRole.PARENT and not peer.is_gone:
                try:
                    renewed += await self._look_at(peer)
                except IceProdError as exc:
                    logger.warning("certificate not renewed", parent=peer.name, reason=exc.message)
        return renewed

    async def _look_at(self, peer: Peer) -> bool:
        files = self._files(peer.name)
        facts = files.facts()
        is_due = (
            facts is not None
            and files.is_renewed_here()
            and self._clock() >= facts.begins_at + _PART * (facts.ends_at - facts.begins_at)
        )
        if is_due:
            await self._renew(peer, files)
        await self._note_end(peer.name, files)
        return is_due

    async def _renew(self, peer: Peer, files: IdentityFiles) -> None:
        made = new_key(peer.name)
        link = self._connect(peer)
        try:
            certified = await link.call("site.renew_certificate", Certify(made.csr), Certified)
        finally:
            link.close()
        files.keep_certificate(made.key, certified.certificate, certified.authority)
        logger.info("certificate renewed", parent=peer.name)

    async def _note_end(self, name: str, files: IdentityFiles) -> None:
        """Keep until when the certificate is good, also of one that others renew."""
        facts = files.facts()
        peer = await self._store.peers.get(PeerRole.PARENT, name)
        if facts is not None and peer is not None and peer.expires_at != facts.ends_at:
            patch = PeerPatch(expires_at=facts.ends_at)
            await self._store.peers.update(peer.role, name, patch, expected=peer.status)
