"""Pages about other sites: the map, the table, alerts, courses, dead letters, and what can be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from html_lint import lint
from site_harness import ADMIN, ALICE, START

from iceprod.model.federation import (
    Operation,
    OperationKind,
    Peer,
    PeerRole,
    PeerStatus,
    SiteRules,
    holder_of,
)
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.paging import Page
from iceprod.model.task import Ended, Lease, Move, Outcome
from iceprod.server.site_map import BOX_HEIGHT, BOX_WIDTH, site_list, site_map
from iceprod.store.base import DatasetPatch

NORTH = Peer("north", PeerRole.PARENT, PeerStatus.JOINED, START - 5.0, url="https://north.example.org")
SOUTH = Peer("south", PeerRole.CHILD, PeerStatus.JOINED, START - 86400.0, contact_at=START - 20.0)


async def lend(web, dataset, count, site="south"):
    """Let a child hold tasks of a dataset; their ids."""
    claimed = [f"{dataset.dataset_id}-{index}-0" for index in range(count)]
    moves = [
        Move(name, TaskEvent.CLAIMED, lease=Lease(f"L{name}", holder_of(site), START + 600))
        for name in claimed
    ]
    await web.site.store.tasks.move(moves, now=START)
    return claimed


async def end(web, task_id, event=TaskEvent.FINISHED, outcome=Outcome.FINISHED):
    """Let the child end one."""
    move = Move(task_id, event, lease_id=f"L{task_id}", ended=Ended(outcome))
    assert await web.site.store.tasks.move([move], now=START) != [None]


async def bury(web, count=1):
    """Put as many dead letters for north into the outbox; their numbers."""
    outbox = web.site.store.outbox
    for number in range(count):
        body = {"stats": {"hostname": f"node{number}"}}
        await outbox.add([Operation(f"o{number}", "north", OperationKind.FINISHED, "r-0-0", "l", 1.0, body)])
    for queued in await outbox.next("north", 0, count):
        await outbox.bury("north", queued.number, "there is no such task", now=2.0)
    return [letter.number for letter in (await outbox.dead("north", Page())).items]


async def test_without_other_sites_the_page_says_how_to_join_some(web):
    html = await (await web.signed_in("alice")).text("/sites")

    assert lint(html) == []
    assert "iceprod site invite" in html


async def test_every_site_is_drawn_and_listed(web):
    await web.site.store.peers.put(NORTH)
    for index in range(9):
        await web.site.store.peers.put(replace(SOUTH, name=f"child.{index}"))
    await web.site.store.peers.put(replace(SOUTH, name="stopped", status=PeerStatus.PAUSED))
    dataset = await web.site.submit(njobs=3)
    await lend(web, dataset, 2, "child.3")

    html = await (await web.signed_in("alice")).text("/sites")

    assert lint(html) == []
    assert html.count('<g class="box') == 2 * 12  # for wide and for narrow screens
    assert "child.3: well · 2 tasks" in html
    assert '<span class="status s-paused">paused</span>' in html
    assert html.count('href="/sites/child/child.3"') == 3
    assert "parents: north (well); children: child.0 (well)," in html


@pytest.mark.parametrize("draw", [site_map, site_list])
async def test_boxes_of_the_map_do_not_overlap_and_lie_inside(web, draw):
    overview = web.site.services.sites.overview
    for count in (1, 2, 5, 9, 26):
        await web.site.store.peers.put(replace(SOUTH, name=f"c{count}"))
        for index in range(count):
            await web.site.store.peers.put(replace(SOUTH, name=f"c{index}"))
            await web.site.store.peers.put(replace(NORTH, name=f"p{index}"))

        drawing = draw("here", await overview.sites(ADMIN))

        places = [(box.x, box.y) for box in drawing.boxes]
        assert all(0 <= x <= drawing.width - BOX_WIDTH for x, _ in places)
        assert all(0 <= y <= drawing.height - BOX_HEIGHT for _, y in places)
        apart = [
            abs(x - other_x) >= BOX_WIDTH or abs(y - other_y) >= BOX_HEIGHT
            for place, (x, y) in enumerate(places)
            for other_x, other_y in places[:place]
        ]
        assert all(apart)


async def test_what_somebody_should_look_at_is_told(web):
    peers = web.site.store.peers
    await peers.put(NORTH)
    await peers.put(replace(SOUTH, contact_at=START - 4 * 3600))
    await peers.put(replace(SOUTH, name="ending", expires_at=START + 86400.0))
    await peers.put(replace(SOUTH, name="ended", expires_at=START - 86400.0))
    await peers.put(replace(SOUTH, name="other", version="99.9"))
    await peers.put(replace(SOUTH, name="gone", status=PeerStatus.REVOKED, contact_at=1.0))
    states = web.site.services.sites.overview._peers
    states.saw(PeerRole.CHILD, "other", waiting=10, lag_s=4000.0)
    await bury(web, 2)

    html = await (await web.signed_in("alice")).text("/sites")
    alerts = html[html.index("To look at") : html.index("</ul>", html.index("To look at"))]

    assert lint(html) == []
    assert "it was not heard of for 4 h; what it held has gone to others" in alerts
    assert "its certificate ends in 24 h, and was not renewed" in alerts
    assert "its certificate ended 24 h ago" in alerts
    assert "it runs release 99.9" in alerts
    assert "reports wait for 67 min, and ever longer" in alerts
    assert "2 reports were refused for good; what to do is decided here" in alerts
    assert "gone" not in alerts.replace("has gone", "")
    assert alerts.index("Grave") < alerts.index("its certificate ends")


async def test_a_site_shows_its_course(web):
    await web.site.store.peers.put(replace(SOUTH, note="<b>ours</b>"))
    dataset = await web.site.submit(njobs=8)
    history = web.site.services.sites.history
    held = await lend(web, dataset, 8)
    await history.sample()
    for batch in (held[:3], held[3:5]):
        for task_id in batch:
            await end(web, task_id)
        web.site.advance(60)
        await history.sample()
    web.site.services.sites.overview._peers.saw(PeerRole.CHILD, "south", contact_at=web.site.clock())

    html = await (await web.signed_in("alice")).text("/sites/child/south")

    assert lint(html) == []
    assert "Tasks finished per minute: 2 now, at most 3 in the last 1\u202fh" in html
    assert "Tasks held: 3 now, at most 8 in the last 1\u202fh" in html
    assert "<dt>Done since it joined</dt><dd>5</dd>" in html
    web.site.advance(80000)
    await history.sample()
    later = await (await web.signed_in("bob")).text("/sites/child/south")
    assert "Tasks held: 3 now, at most 8 in the last 1\u202fd" in later
    assert "&lt;b&gt;ours&lt;/b&gt;" in html
    assert "Dead letters</h2>" not in html


async def test_a_child_shows_how_much_it_was_lent_near_its_data(web):
    await web.site.store.peers.put(SOUTH)
    browser = await web.signed_in("alice")
    assert "nothing was lent yet" in await browser.text("/sites/child/south")
    web.site.services.federation.lending.lent.update({("south", True): 30, ("south", False): 12})

    html = await browser.text("/sites/child/south")

    assert lint(html) == []
    assert "<dt>Lent near their data</dt><dd>30 of 42 tasks, by this process</dd>" in html


async def test_the_course_counts_what_ended_with_its_dataset_and_survives_a_restart(web):
    await web.site.store.peers.put(SOUTH)
    first, second = await web.site.submit(), await web.site.submit(njobs=2)
    (one,), (two, three) = await lend(web, first, 1), await lend(web, second, 2)
    await web.site.services.sites.history.sample()
    await end(web, one)
    await end(web, two)
    await end(web, three, TaskEvent.FAILED, Outcome.FAILED)
    web.site.advance(60)

    again = await web.site.restarted()
    await again.services.sites.history.sample()
    web.site.advance(60)
    await again.services.sites.history.sample()

    course = await web.site.services.sites.history.course(PeerRole.CHILD, "south")
    assert [(point.done, point.failed, point.held) for point in course.points] == [
        (0, 0, 3),
        (2, 1, 0),
        (0, 0, 0),
    ]
    assert (course.done, course.failed) == (2, 1)


async def test_the_course_begins_with_what_ended_before_its_first_point(web):
    await web.site.store.peers.put(SOUTH)
    dataset = await web.site.submit()
    (one,) = await lend(web, dataset, 1)
    await end(web, one)

    await web.site.services.sites.history.sample()
    await web.site.services.sites.history.sample()

    course = await web.site.services.sites.history.course(PeerRole.CHILD, "south")
    assert [point.done for point in course.points] == [1, 0]


async def test_what_comes_and_ends_between_two_points_is_counted(web):
    await web.site.store.peers.put(SOUTH)
    await web.site.services.sites.history.sample()
    for _ in range(3):
        (one,) = await lend(web, await web.site.submit(), 1)
        await end(web, one)

    await web.site.services.sites.history.sample()

    course = await web.site.services.sites.history.course(PeerRole.CHILD, "south")
    assert [point.done for point in course.points] == [0, 3]


async def test_dead_letters_are_sent_again_or_dropped_by_administrators(web):
    await web.site.store.peers.put(NORTH)
    first, second = await bury(web, 2)
    admin = await web.signed_in("chief", roles=("admin",))
    page = "/sites/parent/north"

    shown = await admin.text(page)
    sent = await admin.post(f"{page}/letters/{first}/retry", via=page)
    told = await admin.text(page)
    await admin.post(f"{page}/letters/{second}/discard", via=page)
    again = await admin.post(f"{page}/letters/{second}/discard", via=page)

    assert lint(shown) == []
    assert shown.count("there is no such task") == 2
    assert "&quot;hostname&quot;: &quot;node1&quot;" in shown
    assert (sent.code, sent.headers["Location"], again.code) == (303, page, 303)
    assert "The report is sent again." in told
    backlog = await web.site.store.outbox.backlog("north")
    assert (backlog.waiting, backlog.dead) == (1, 0)


async def test_users_see_sites_but_can_do_nothing_about_them(web):
    await web.site.store.peers.put(NORTH)
    await web.site.store.peers.put(SOUTH)
    (number,) = await bury(web)
    alice = await web.signed_in("alice")
    page = "/sites/parent/north"

    html = await alice.text(page)

    assert "there is no such task" not in html
    assert "/sites/parent/north/pause" not in html
    for act in (f"{page}/pause", "/sites/child/south/revoke", f"{page}/letters/{number}/discard"):
        assert (await alice.post(act, via="/sites")).code == 403
    assert (await web.site.store.outbox.backlog("north")).dead == 1


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("revoke", "revoked")])
async def test_an_administrator_steers_a_child(web, verb, status):
    await web.site.store.peers.put(SOUTH)
    dataset = await web.site.submit(njobs=3)
    await lend(web, dataset, 2)
    admin = await web.signed_in("chief", roles=("admin",))
    page = "/sites/child/south"

    done = await admin.post(f"{page}/{verb}", via=page)
    html = await admin.text(page)

    assert done.code == 303
    assert f'<span class="status s-{status}">{status}</span>' in html
    assert ("2 tasks were taken back" in html) == (verb == "revoke")
    assert (f"{page}/resume" in html) == (verb == "pause")


@pytest.mark.parametrize("path", ["/sites/child/nobody", "/sites/uncle/south", "/sites/child/.."])
async def test_a_site_that_is_not_there_is_told_by_a_page(web, path):
    answer = await (await web.signed_in("alice")).get(path)

    assert answer.code == 404


async def test_a_dataset_shows_where_its_tasks_ran(web):
    await web.site.store.peers.put(SOUTH)
    dataset = await web.site.submit(njobs=6)
    page = f"/datasets/{dataset.dataset_id}"
    alice = await web.signed_in("alice")

    before = await alice.text(page)
    held = await lend(web, dataset, 4)
    await end(web, held[0])
    await end(web, held[1], TaskEvent.RETRIED, Outcome.FAILED)
    pilot = await web.site.pilot()
    await web.site.finish(pilot, await web.site.one(pilot))
    after = await alice.text(page)
    told = await web.browser(await web.token(ALICE)).rpc("dataset.where", dataset_id=dataset.dataset_id)
    task = await alice.text(f"/tasks/{held[2]}")

    assert "All at this site." in before
    assert "<dt>Its tasks may run</dt><dd>wherever they fit</dd>" in before
    assert "error" not in told, told
    assert lint(after) == []
    assert told["result"]["items"] == [
        {"site": "", "running": 0, "finished": 1, "failed": 0, "returned": 0},
        {"site": "south", "running": 2, "finished": 1, "failed": 1, "returned": 0},
    ]
    assert '<th scope="row"><a href="/sites/child/south">south</a></th><td class="num">2</td>' in after
    assert '<dt>Site</dt><dd><a href="/sites/child/south">south</a></dd>' in task


async def test_a_dataset_says_where_its_tasks_may_run(web):
    dataset = await web.site.submit()
    alice = await web.signed_in("alice")
    shown = []
    for rules in (SiteRules(only=("south", "")), SiteRules(never=("", "west"))):
        await web.site.store.datasets.update(dataset.dataset_id, DatasetPatch(sites=rules), now=START)
        web.site.services.catalogue.forget(dataset.dataset_id)
        shown.append(await alice.text(f"/datasets/{dataset.dataset_id}"))

    assert "<dd>only at south, this site</dd>" in shown[0]
    assert "<dd>not at this site, west</dd>" in shown[1]


async def test_a_mirror_says_for_what_it_stands(web):
    await web.site.store.peers.put(NORTH)
    dataset = await web.site.submit()
    found = await web.site.dataset(dataset)
    mirror = await web.site.store.datasets.add(
        replace(found, dataset_id="mirror", source="north/r3m0te"), "{}"
    )
    alice = await web.signed_in("alice")

    html = await alice.text("/datasets/mirror")
    listed = await alice.text("/datasets")

    assert lint(html) == []
    assert 'href="https://north.example.org/datasets/r3m0te"' in html
    assert mirror.is_mirror
    assert '<span class="muted">from north</span>' in listed


async def test_a_parent_that_is_being_left_says_what_is_left_and_can_be_resumed(web):
    await web.site.store.peers.put(replace(NORTH, status=PeerStatus.LEAVING))
    await web.site.store.outbox.add([Operation("o", "north", OperationKind.FINISHED, "r-0-0", "l", 1.0, {})])
    browser = await web.signed_in("chief", roles=("admin",))

    html = await browser.text("/sites/parent/north")

    assert lint(html) == []
    assert "This site leaves north" in html
    assert "1 reports wait to be told" in html
    assert "/sites/parent/north/resume" in html
    assert "/sites/parent/north/pause" not in html
    assert "north (leaving)" in await browser.text("/sites")


async def test_a_child_that_has_left_is_no_alert(web):
    await web.site.store.peers.put(replace(SOUTH, status=PeerStatus.LEFT, contact_at=1.0))
    html = await (await web.signed_in("alice")).text("/sites")
    assert "south (left)" in html
    assert "was not heard of" not in html
