"""Joining and leaving other sites, done beside this site's server, whether that runs or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from iceprod import clock as clocks
from iceprod._version import __version__
from iceprod.config import Settings
from iceprod.errors import AccessDenied, NotAuthenticated, NotFoundError
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.server.assembly import make_store
from iceprod.server.federation import identity_files
from iceprod.server.opening import check_finished
from iceprod.site_sync.as_child.joining import Joining, Outcome, Request
from iceprod.site_sync.as_child.link import ParentLink
from iceprod.site_sync.messages import Nothing
from iceprod.store.base import AuditEntry, Store

__all__ = ["Outcome", "Request", "join", "leave"]


async def join(settings: Settings, request: Request) -> Outcome:
    """Join a parent; a running server takes tasks from it within seconds.

    Raises:
        NotFoundError: there is no site in this data directory yet.
        IceProdError: as `iceprod.site_sync.as_child.joining.Joining.join`.
    """
    async with _opened(settings) as store:
        joining = Joining(
            store,
            clock=clocks.now,
            files=lambda name: identity_files(settings, name),
            connect=lambda parent: _link(settings, parent),
            version=__version__,
        )
        outcome = await joining.join(request)
        detail = {"url": outcome.parent.url, "known_as": outcome.known_as}
        await _audit(store, "site.join", outcome.parent.name, detail)
        return outcome


async def leave(settings: Settings, name: str, *, anyway: bool = False) -> None:
    """Leave a parent; ``anyway`` also if it cannot be told.

    Raises:
        NotFoundError: there is no such parent.
        IceProdError: the parent could not be told, and nothing was changed.
    """
    async with _opened(settings) as store:
        parent = await store.peers.get(PeerRole.PARENT, name)
        if parent is None or parent.status is PeerStatus.REVOKED:
            raise NotFoundError("parent", name)
        if not anyway:
            await _tell(_link(settings, parent))
        await store.peers.put(replace(parent, status=PeerStatus.REVOKED, expires_at=None))
        identity_files(settings, name).drop()
        await _audit(store, "site.leave", name, {"told": not anyway})


async def _tell(link: ParentLink) -> None:
    try:
        await link.call("site.leave", Nothing(), Nothing)
    except (NotAuthenticated, AccessDenied):
        return  # it has ended it by itself
    finally:
        link.close()


def _link(settings: Settings, parent: Peer) -> ParentLink:
    return ParentLink(name=parent.name, url=parent.url, files=identity_files(settings, parent.name))


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    path = settings.store_path
    if path is not None and not path.exists():
        raise NotFoundError("site database", path)
    store = make_store(settings)
    await store.open()
    await check_finished(store)
    try:
        yield store
    finally:
        await store.close()


async def _audit(store: Store, action: str, target: str, detail: Mapping[str, object]) -> None:
    # Who may write here is the owner of the data directory, whatever account that is.
    await store.audit.add(AuditEntry(clocks.now(), "", action, target, detail))
