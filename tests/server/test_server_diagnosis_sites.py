"""What doctor and the metrics say of other sites."""

from __future__ import annotations

from dataclasses import replace

from iceprod import clock
from iceprod.model.federation import Operation, OperationKind, Peer, PeerRole, PeerStatus
from iceprod.server.diagnosis import sites
from iceprod.server.diagnosis.findings import Verdict

CHILD = Peer("south", PeerRole.CHILD, PeerStatus.JOINED, 1.0, version="0.0.1", expires_at=3e9)
PARENT = Peer("north", PeerRole.PARENT, PeerStatus.JOINED, 1.0)


async def test_a_site_without_others_says_nothing_of_them(web):
    assert await sites.look(web.site.store, web.site.settings) == []
    assert "iceprod_site" not in (await web.browser().get("/metrics")).body.decode()


async def test_links_that_are_well_are_told_in_one_line(web):
    store, now = web.site.store, clock.now()
    own = web.site.services.federation.registry.version
    await store.peers.put(replace(CHILD, contact_at=now, version=own))
    await store.peers.put(replace(PARENT, contact_at=now))

    (found,) = await sites.look(store, web.site.settings)

    assert (found.check, found.verdict) == ("sites", Verdict.OK)
    assert found.message == "parents: 1, children: 1; nothing is wrong with them"


async def test_dead_links_and_ending_certificates_are_found(web):
    store, now = web.site.store, clock.now()
    await store.peers.put(replace(CHILD, expires_at=now + 86400, contact_at=now - 600))
    await store.peers.put(replace(PARENT, contact_at=now - 86400))
    states = web.site.services.hearing.peers
    states.saw(PeerRole.PARENT, "north", contact_at=5.0, failures=9, reason="connection refused")
    await states.save()

    found = await sites.look(store, web.site.settings)

    told = {(each.check, each.verdict): each for each in found}
    north = told["parent north", Verdict.FAILED]
    assert north.message.startswith("it has not answered for 24 h (connection refused)")
    assert sum(check == "child south" for check, _ in told) == 1
    south = [each.message for each in found if each.check == "child south"]
    assert any(message.startswith("its certificate ends in 24 h") for message in south)
    assert any(message.startswith("it was not heard of for 10 min") for message in south)
    assert any(message.startswith("it runs release 0.0.1") for message in south)
    assert all(each.advice for each in found)


async def test_metrics_tell_how_sites_stand(web):
    store = web.site.store
    await store.peers.put(CHILD)
    await store.peers.put(PARENT)
    web.site.services.hearing.peers.saw(PeerRole.CHILD, "south", waiting=7, lag_s=30.0, contact_at=5.0)
    web.site.services.federation.inbox.results["south", "refused"] += 2
    await store.outbox.add([Operation("o", "north", OperationKind.FINISHED, "r-0-0", "l", 1.0)])
    (queued,) = await store.outbox.next("north", 0, 1)
    await store.outbox.bury("north", queued.number, "no", now=2.0)
    web.site.services.federation.lending.lent.update({("south", True): 3, ("south", False): 4})

    text = (await web.browser().get("/metrics")).body.decode()

    assert 'iceprod_sites{role="child",state="silent"} 1' in text
    assert 'iceprod_site_tasks_lent_total{site="south",near_data="yes"} 3' in text
    assert 'iceprod_site_tasks_lent_total{site="south",near_data="no"} 4' in text
    assert 'iceprod_site_tasks_held{role="child",site="south"} 0' in text
    assert 'iceprod_site_reports_waiting{role="child",site="south"} 7' in text
    assert 'iceprod_site_lag_seconds{role="child",site="south"} 30.0' in text
    assert 'iceprod_site_dead_letters{role="parent",site="north"} 1' in text
    assert 'iceprod_site_contact_timestamp_seconds{role="child",site="south"} 5.0' in text
    assert 'iceprod_site_certificate_expiry_timestamp_seconds{role="child",site="south"} 3000000000.0' in text
    assert 'iceprod_site_certificate_expiry_timestamp_seconds{role="parent"' not in text
    assert 'iceprod_site_operations_total{role="child",site="south",result="refused"} 2' in text
