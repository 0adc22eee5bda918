"""Joining and leaving other sites, done beside this site's server, whether that runs or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from iceprod import clock as clocks
from iceprod._version import __version__
from iceprod.config import Settings
from iceprod.errors import ConfigError, ConflictError, IceProdError, InputError, NotFoundError, Unavailable
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.server.assembly import make_store
from iceprod.server.federation import identity_files
from iceprod.server.opening import check_finished
from iceprod.server.processes.directory import data_directory
from iceprod.site_sync.addresses import parent_url
from iceprod.site_sync.as_child import leaving
from iceprod.site_sync.as_child.joining import Joining, Outcome, Request
from iceprod.site_sync.as_child.leaving import Left
from iceprod.site_sync.as_child.link import ParentLink
from iceprod.store.base import AuditEntry, Store
from iceprod.store.federation import PeerPatch

__all__ = ["Outcome", "Request", "Watched", "follow", "join", "leave", "move"]

_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """How far this site has come in leaving a parent."""

    parent: str
    status: PeerStatus
    left: Left


async def join(settings: Settings, request: Request) -> Outcome:
    """Join a parent; a running server takes tasks from it at once.

    Raises:
        NotFoundError: there is no site in this data directory yet.
        IceProdError: as `iceprod.site_sync.as_child.joining.Joining.join`.
    """
    async with _opened(settings) as store:
        return await _join(settings, store, request)


async def move(settings: Settings, name: str, request: Request, *, at_once: bool = False) -> Outcome:
    """Join a parent and begin to leave another one, ``name``; unless the first is done, nothing is.

    Raises:
        NotFoundError: there is no such parent.
        InputError: it is the same one.
        IceProdError: as `join`.
    """
    async with _opened(settings) as store:
        former = await _parent(store, name)
        if parent_url(request.url) == former.url or request.name == name:
            raise InputError(f"{name} is the parent to move away from: join another one")
        outcome = await _join(settings, store, request)
        await _begin(store, former, at_once=at_once)
        return outcome


async def leave(settings: Settings, name: str, *, at_once: bool = False, anyway: bool = False) -> None:
    """Begin to leave a parent; ``at_once`` what runs goes back to it, too.

    With ``anyway`` it is left in this very moment, whether it can be told or not.

    Raises:
        NotFoundError: there is no such parent.
    """
    async with _opened(settings) as store:
        parent = await _parent(store, name)
        await _begin(store, parent, at_once=at_once)
        if anyway:
            await _leave(settings, store, parent, anyway=True)


async def follow(settings: Settings, name: str, tell: Callable[[Watched], None]) -> Watched:
    """Watch until a parent is left, or somebody has resumed; what is last.

    A server that does not run is not needed when nothing of the parent is left.

    Raises:
        NotFoundError: there never was such a parent.
        Unavailable: the server does not run.
    """
    async with _opened(settings) as store:
        watched = await _watched(store, name)
        if watched.status is PeerStatus.LEAVING:
            await _do_without_server(settings, store, watched)
        while True:
            watched = await _watched(store, name)
            tell(watched)
            if watched.status is not PeerStatus.LEAVING:
                return watched
            await asyncio.sleep(_LOOK_S)


async def _do_without_server(settings: Settings, store: Store, watched: Watched) -> None:
    """Leave a parent of which nothing is left, if no server does it."""
    with suppress(ConfigError), data_directory(settings.data_dir):
        if not watched.left.is_nothing:
            raise Unavailable(f"this site's server does not run; {watched.parent} is left when it does")
        await _leave(settings, store, await _parent(store, watched.parent), anyway=False)


async def _watched(store: Store, name: str) -> Watched:
    peer = await store.peers.get(PeerRole.PARENT, name)
    if peer is None:
        raise NotFoundError("parent", name)
    return Watched(name, peer.status, await leaving.what_is_left(store, name))


async def _parent(store: Store, name: str) -> Peer:
    parent = await store.peers.get(PeerRole.PARENT, name)
    if parent is None or parent.is_gone:
        raise NotFoundError("parent", name)
    return parent


async def _join(settings: Settings, store: Store, request: Request) -> Outcome:
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


async def _begin(store: Store, parent: Peer, *, at_once: bool) -> None:
    patch = PeerPatch(status=PeerStatus.LEAVING, at_once=at_once or None)
    if await store.peers.update(parent.role, parent.name, patch, expected=parent.status) is None:
        raise ConflictError(f"the site {parent.name} was changed by somebody else: look again")
    await _audit(store, "site.begin_to_leave", parent.name, {"at_once": at_once})


async def _leave(settings: Settings, store: Store, parent: Peer, *, anyway: bool) -> None:
    link, is_told = _link(settings, parent), True
    try:
        await leaving.say_good_bye(link)
    except IceProdError:
        if not anyway:
            raise
        is_told = False
    finally:
        link.close()
    await leaving.leave(store, parent.name, clock=clocks.now, is_told=is_told)
    identity_files(settings, parent.name).drop()


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
