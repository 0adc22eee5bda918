"""How other sites were last seen, in one process and in several."""

from __future__ import annotations

import pytest
from site_harness import spread

from iceprod.errors import StoreUnavailable
from iceprod.model.federation import PeerRole, PeerState
from iceprod.services.bulletin import Draft
from iceprod.services.peer_states import PeerStates

CHILD = PeerRole.CHILD


async def test_what_was_seen_outlasts_the_process(site):
    states = site.services.hearing.peers
    states.saw(CHILD, "desy", contact_at=5.0, waiting=3)
    states.saw(CHILD, "desy", dead=1)

    await states.save()
    later = PeerStates(site.store.values, draft=Draft(is_alone=True), clock=site.clock)
    await later.load()

    assert states.of(CHILD, "desy") == PeerState(CHILD, "desy", 5.0, waiting=3, dead=1)
    assert later.of(CHILD, "desy") == states.of(CHILD, "desy")
    assert later.of(PeerRole.PARENT, "desy") == PeerState(PeerRole.PARENT, "desy")


async def test_older_news_from_the_store_are_not_believed(site):
    states = site.services.hearing.peers
    states.saw(CHILD, "desy", contact_at=5.0)
    await states.save()
    states.saw(CHILD, "desy", contact_at=6.0)

    await states.load()

    assert states.of(CHILD, "desy").contact_at == 6.0


async def test_every_process_hears_of_it(two):
    one, other = two
    one.services.hearing.peers.saw(CHILD, "desy", contact_at=5.0, lag_s=7.0)

    await one.services.hearing.peers.tell()
    await spread(one, other)

    assert other.services.hearing.peers.of(CHILD, "desy") == PeerState(CHILD, "desy", 5.0, lag_s=7.0)
    other.services.hearing.peers.forget(CHILD, "desy")
    await other.services.hearing.peers.tell()
    await spread(other, one)
    assert one.services.hearing.peers.of(CHILD, "desy").contact_at == 0.0


async def test_what_could_not_be_saved_is_saved_later(site):
    class Away:
        async def put(self, *_: object, **__: object) -> None:
            raise StoreUnavailable("away")

    states = PeerStates(Away(), draft=Draft(is_alone=True), clock=site.clock)
    states.saw(CHILD, "desy", contact_at=5.0)

    with pytest.raises(StoreUnavailable):
        await states.save()
    states._values = site.store.values
    await states.save()

    assert await site.store.values.get("peer-states")
