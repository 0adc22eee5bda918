"""What is seen of other sites: alerts by rule, a parent's course, letters in the audit trail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from site_harness import ADMIN, ALICE, START, Site, open_site

from iceprod.errors import AccessDenied, NotFoundError
from iceprod.model.federation import Errand, Operation, OperationKind, Original, Peer, PeerRole, PeerStatus
from iceprod.model.paging import Page
from iceprod.site_sync.seen.alerts import Look, alerts
from iceprod.site_sync.seen.history import KEPT, Course, Point

NOW = 1_000_000.0
CHILD = Peer("south", PeerRole.CHILD, PeerStatus.JOINED, 1.0, version="1.2.3", lease_s=3600.0)
PARENT = replace(CHILD, name="north", role=PeerRole.PARENT)
LOOK = Look(
    CHILD,
    contact_at=NOW - 10,
    lag_s=0.0,
    dead=0,
    reason="",
    points=(),
    version="1.2.0",
    certificate_s=90 * 86400.0,
    now=NOW,
)


@pytest.fixture
async def site(tmp_path: Path):
    async with open_site(tmp_path) as opened:
        yield opened


def kinds(**changes: object) -> list[tuple[str, bool]]:
    return [(alert.kind, alert.is_grave) for alert in alerts(replace(LOOK, **changes))]  # type: ignore[arg-type]


@pytest.mark.parametrize("peer", [CHILD, PARENT])
def test_a_site_that_does_well_raises_no_alert(peer: Peer) -> None:
    assert kinds(peer=peer) == []


@pytest.mark.parametrize("peer", [CHILD, PARENT])
def test_silence_is_grave_when_the_lease_is_over(peer: Peer) -> None:
    assert kinds(peer=peer, contact_at=NOW - 301) == [("silent", False)]
    assert kinds(peer=peer, contact_at=NOW - 3601) == [("silent", True)]
    # Who has only just joined could not be heard of before.
    assert kinds(peer=replace(peer, joined_at=NOW - 5), contact_at=0.0) == []


def test_lag_matters_while_it_grows() -> None:
    before = [Point(NOW - 1000, 0, 0, 0, 5, 500.0), Point(NOW - 60, 0, 0, 0, 5, 800.0)]
    shrinking = [Point(NOW - 1000, 0, 0, 0, 5, 5000.0)]

    assert kinds(lag_s=600.0, points=before) == []
    assert kinds(lag_s=900.0, points=before) == [("lag", False)]
    assert kinds(lag_s=900.0, points=shrinking) == []
    assert kinds(lag_s=900.0) == [("lag", False)]


def test_a_certificate_is_told_of_when_its_renewal_is_overdue() -> None:
    for left_days, expected in ((29, []), (14, [("certificate", False)]), (-1, [("certificate", True)])):
        assert kinds(peer=replace(CHILD, expires_at=NOW + left_days * 86400)) == expected


def test_releases_may_differ_in_their_last_number() -> None:
    assert kinds(version="1.2.9") == []
    assert kinds(version="1.3.0") == [("version", False)]
    assert kinds(version="1.3.0", peer=replace(CHILD, version="")) == []


def test_the_worst_comes_first_and_of_revoked_sites_nothing() -> None:
    looked = {"dead": 2, "contact_at": NOW - 9999, "version": "2.0"}

    assert kinds(**looked) == [("silent", True), ("dead letters", False), ("version", False)]
    assert kinds(**looked, peer=replace(CHILD, status=PeerStatus.REVOKED)) == []


async def test_the_course_of_a_parent_counts_its_mirrors(site: Site) -> None:
    await site.store.peers.put(replace(PARENT, joined_at=START))
    made = await site.submit(njobs=3)
    mirror = replace(made, dataset_id="mirror", source="north/r3m0te", jobs_made=0)
    await site.store.datasets.add(mirror, await site.store.datasets.config(made.dataset_id, 1) or "")
    classes = [
        replace(each, dataset_id="mirror", class_id=77)
        for each in await site.store.datasets.classes(made.dataset_id)
    ]
    await site.store.datasets.add_classes(classes)
    await site.store.datasets.materialise("mirror", 0, [[77]] * 3, now=START)
    original = Original("o", 1, "o-0-0", 0, 0, "only", 3)
    await site.store.errands.add(
        [Errand(f"mirror-{n}-0", "north", f"r-{n}-0", f"l{n}", "t", original, START) for n in range(3)]
    )
    history = site.services.sites.history

    await history.sample()
    await site.services.scheduler.load()
    await site.run_all(await site.pilot())
    site.advance(60)
    await history.sample()

    course = await history.course(PeerRole.PARENT, "north")
    # The parent was not told yet, so they are held still.
    told = [(point.done, point.held, point.waiting, point.lag_s) for point in course.points]
    assert told == [(0, 3, 0, 0.0), (3, 3, 3, 60.0)]
    assert await history.course(PeerRole.CHILD, "north") == Course()


async def test_a_course_is_as_long_as_a_day(site: Site) -> None:
    await site.store.peers.put(CHILD)
    for _ in range(3):
        await site.services.sites.history.sample()
        site.advance(60)
    course = await site.services.sites.history.course(PeerRole.CHILD, "south")

    assert len(course.points) == 3
    assert KEPT * 60 == 86400


async def test_what_is_done_to_letters_is_in_the_audit_trail(site: Site) -> None:
    outbox, letters = site.store.outbox, site.services.sites.letters
    for number in range(3):
        await outbox.add([Operation(f"o{number}", "north", OperationKind.STARTED, "r-0-0", "l", 1.0)])
    for queued in await outbox.next("north", 0, 3):
        await outbox.bury("north", queued.number, "no", now=2.0)

    assert await letters.retry(ADMIN, [1, 99]) == 1
    assert await letters.discard(ADMIN, [2, 3, 3]) == 2
    assert await letters.discard(ADMIN, [2]) == 0
    for refused in (letters.retry, letters.discard):
        with pytest.raises(AccessDenied):
            await refused(ALICE, [1])

    trail = (await site.store.audit.select("north", Page())).items
    assert [(entry.action, entry.principal, entry.detail) for entry in trail] == [
        ("site.discard", "admin:root", {"numbers": [2, 3]}),
        ("site.retry", "admin:root", {"numbers": [1]}),
    ]


async def test_a_site_that_is_unknown_is_told_so(site: Site) -> None:
    with pytest.raises(NotFoundError):
        await site.services.sites.overview.site(ADMIN, PeerRole.CHILD, "nobody")
