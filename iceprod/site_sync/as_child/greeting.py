"""The first word to a parent, with which both agree on how they speak."""

from __future__ import annotations

from iceprod.errors import ConflictError, Unavailable
from iceprod.model.federation import Peer
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.messages import FIRST_WITH_TERMS, PROTOCOLS, Hello, Welcome
from iceprod.store.base import Store
from iceprod.store.federation import PeerPatch


async def greet(peer: Peer, link: Calls, store: Store, *, version: str) -> Welcome:
    """Say what this site is, and keep what the parent says of itself, but for its term.

    Raises:
        ConflictError: the parent wants a version of the protocol that is not spoken here.
        IceProdError: what the parent answered with.
    """
    found = await link.call("site.hello", Hello(list(PROTOCOLS), version), Welcome)
    if found.protocol not in PROTOCOLS:
        raise ConflictError(f"{peer.name} speaks version {found.protocol} of the protocol")
    told = PeerPatch(protocol=found.protocol, version=found.version[:64], lease_s=found.lease_s)
    # Who has been left meanwhile stays so.
    await store.peers.update(peer.role, peer.name, told, expected=peer.status)
    return found


async def is_new_term(peer: Peer, found: Welcome, link: Calls, store: Store) -> bool:
    """Whether the parent has been restored since this site has said what it holds of it.

    Raises:
        Unavailable: it was, but this is not the copy that goes on: an older one answers.
    """
    if found.protocol < FIRST_WITH_TERMS:
        return False
    known = await store.peers.get(peer.role, peer.name)
    term = 0 if known is None else known.term
    if found.term < term:
        error = Unavailable(
            f"an older copy of {peer.name} answers (term {found.term}; known here: {term}): stop it"
        )
        link.distrust(error.message)
        raise error
    return found.term > term
