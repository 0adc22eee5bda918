"""Pages: what they show, whom they show it to, and that nothing in them can do harm."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html import unescape

import pytest
from html_lint import lint
from site_harness import ALICE, CRASH, config, task
from web_harness import PASSWORD

from iceprod.model.federation import Operation, OperationKind, Peer, PeerRole, PeerStatus
from iceprod.server import security
from iceprod.server.routes import PAGES

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"


async def furnished(web):
    """A dataset of everything: hostile texts, a failed task with a log, a running one."""
    site = web.site
    dataset = await site.submit(
        task(HOSTILE), task("second", HOSTILE), njobs=3, description=f"{HOSTILE}\nmore\n{HOSTILE}"
    )
    pilot = await site.pilot(hostname=HOSTILE)
    held = await site.one(pilot)
    text = base64.b64encode(zlib.compress(HOSTILE.encode() * 200)).decode()
    await site.services.logs.put(pilot, held.task_id, held.lease_id, name="stdout", data=text)
    failure = CRASH.__class__(CRASH.kind, HOSTILE, exit_code=1, stderr_tail=HOSTILE)
    await site.fail(pilot, held, failure, hostname=HOSTILE)
    await site.one(pilot)
    await site.services.pilots.drain(pilot.id, HOSTILE)
    for role in PeerRole:
        peer = Peer("north", role, PeerStatus.JOINED, 1.0, url=HOSTILE, version=HOSTILE, note=HOSTILE)
        await site.store.peers.put(peer)
    operation = Operation("o", "north", OperationKind.FAILED, HOSTILE, "lease", 1.0, {"error": HOSTILE})
    await site.store.outbox.add([operation])
    (queued,) = await site.store.outbox.next("north", 0, 1)
    await site.store.outbox.bury("north", queued.number, HOSTILE, now=2.0)
    return dataset, held


def addresses(dataset, held):
    """One address for each page."""
    base = f"/datasets/{dataset.dataset_id}"
    return {
        "/": None,
        "/sign-in": "/sign-in",
        "/account": "/account",
        "/datasets": "/datasets",
        "/datasets/new": "/datasets/new",
        "/datasets/ID": base,
        "/datasets/ID/config": f"{base}/config",
        "/datasets/ID/jobs": f"{base}/jobs",
        "/datasets/ID/tasks": f"{base}/tasks",
        "/jobs/ID": f"/jobs/{dataset.dataset_id}-0",
        "/tasks/ID": f"/tasks/{held.task_id}",
        "/datasets/ID/files": f"{base}/files",
        "/files": "/files",
        "/origins": None,
        "/transfers": "/transfers",
        "/pilots": "/pilots",
        "/sites": "/sites",
        "/sites/ROLE/NAME": "/sites/parent/north",
        "/health": "/health",
        "/tasks/ID/logs": None,
    }


@pytest.mark.expects_logs
async def test_every_page_is_sound_and_escapes_hostile_text(web):
    dataset, held = await furnished(web)
    browser = await web.signed_in("alice", roles=("admin",))
    await web.site.services.accounts.create_token(ALICE, label=HOSTILE)
    visited = addresses(dataset, held)
    shown = ""

    for path in filter(None, visited.values()):
        html = await browser.text(path)
        assert lint(html) == [], path
        assert "<img src=x" not in html, path
        assert "<script>" not in html, path
        shown += html
    # The hostile texts did get there, so that they could have done harm.
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 12


@pytest.mark.expects_logs
async def test_every_page_with_a_get_is_visited_above(web):
    dataset, held = await furnished(web)
    patterns = [route.pattern for route in PAGES if "GET" in route.actions]

    assert len(patterns) == len(addresses(dataset, held))


@pytest.mark.expects_logs
async def test_log_is_sent_as_plain_text(web):
    _, held = await furnished(web)
    browser = await web.signed_in("alice")

    answer = await browser.get(f"/tasks/{held.task_id}/logs/1/stdout")

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.body.decode() == HOSTILE * 200


@pytest.mark.parametrize(
    "path", ["/sign-in", "/healthz", "/nowhere", "/datasets", "/files/site_temp/x", "/metrics"]
)
async def test_every_answer_carries_the_security_headers(web, path):
    answer = await web.browser().get(path)

    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_who_is_not_signed_in_is_sent_there_and_back(web):
    browser = web.browser()
    await web.account("alice")

    sent = await browser.get("/datasets?status=errors")
    assert (sent.code, sent.headers["Location"]) == (303, "/sign-in?next=/datasets%3Fstatus%3Derrors")
    back = await browser.post("/sign-in", name="alice", password=PASSWORD, next="/datasets?status=errors")

    assert (back.code, back.headers["Location"]) == (303, "/datasets?status=errors")


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/\n/x", ""]
)
def test_sign_in_leads_nowhere_else(target):
    assert security.local_path(target) == "/"


async def test_session_cookie_is_for_the_browser_alone(web):
    await web.account("alice")
    answer = await web.browser().send("GET", "/sign-in")
    assert "HttpOnly" in answer.headers["Set-Cookie"]

    signed = await web.browser().post("/sign-in", name="alice", password=PASSWORD)

    (cookie,) = [c for c in signed.headers.get_list("Set-Cookie") if c.startswith("iceprod_session=")]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/" in cookie


async def test_session_cookie_is_secure_behind_https(web_with, tmp_path):
    web = await web_with(server={"data_dir": tmp_path, "url": "https://iceprod.example"})
    await web.account("alice")

    signed = await web.browser().post("/sign-in", name="alice", password=PASSWORD)

    assert all("Secure" in cookie for cookie in signed.headers.get_list("Set-Cookie"))


async def test_wrong_password_shows_the_form_again(web):
    await web.account("alice")

    answer = await web.browser().post("/sign-in", name="alice", password="wrong")

    html = answer.body.decode()
    assert answer.code == 401
    assert "the name or the password is wrong" in html
    assert 'value="alice"' in html
    assert lint(html) == []


async def test_forms_without_the_proof_are_refused(web):
    dataset = await web.site.submit(njobs=2)
    browser = await web.signed_in("alice")

    answer = await browser.send("POST", f"/datasets/{dataset.dataset_id}/suspend", body="")

    assert answer.code == 403
    assert not (await web.site.dataset(dataset)).suspended


@pytest.mark.expects_logs
async def test_rpc_by_session_needs_the_proof(web):
    browser = await web.signed_in("alice")

    message = '{"jsonrpc":"2.0","id":1,"method":"dataset.list"}'
    kind = {"Content-Type": "application/json"}
    assert (await browser.send("POST", "/jsonrpc", headers=kind, body=message)).code == 403
    page = await browser.text("/datasets")
    token = re.search(r'<meta name="xsrf" content="([^"]+)"', page)[1]
    proven = await browser.send("POST", "/jsonrpc", headers={**kind, "X-XSRFToken": token}, body=message)

    assert proven.body == b'{"jsonrpc":"2.0","result":{"items":[],"next":null},"id":1}'


async def test_signing_out_ends_the_session(web):
    browser = await web.signed_in("alice")
    kept = dict(browser.cookies)

    await browser.post("/sign-out", via="/datasets")

    browser.cookies = kept
    assert (await browser.get("/datasets")).code == 303


async def test_actions_change_and_say_so(web):
    dataset = await web.site.submit(njobs=2)
    browser = await web.signed_in("alice")
    path = f"/datasets/{dataset.dataset_id}"

    answer = await browser.post(f"{path}/suspend", via=path)

    assert (answer.code, answer.headers["Location"]) == (303, path)
    assert (await web.site.dataset(dataset)).suspended
    assert "Suspended: 2 tasks are held." in await browser.text(path)
    assert "Suspended:" not in await browser.text(path)


async def test_a_task_offers_only_what_its_status_allows(web):
    dataset = await web.site.submit()
    task_id = f"{dataset.dataset_id}-0-0"
    browser = await web.signed_in("alice")

    async def offered(path):
        return re.findall(rf'action="{path}/(\w+)"', await browser.text(path))

    waiting = await offered(f"/tasks/{task_id}")
    await web.site.run_all(await web.site.pilot())

    assert waiting == ["suspend", "hard_reset"]
    assert await offered(f"/tasks/{task_id}") == ["hard_reset"]
    assert await offered(f"/jobs/{dataset.dataset_id}-0") == ["hard_reset"]


async def test_only_the_owner_is_offered_actions(web):
    dataset = await web.site.submit(njobs=2)
    bob = await web.signed_in("bob")
    path = f"/datasets/{dataset.dataset_id}"

    assert f"{path}/suspend" not in await bob.text(path)
    assert (await bob.post(f"{path}/suspend", via=path)).code == 403
    assert not (await web.site.dataset(dataset)).suspended


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/nosuch",
        "/jobs/nosuch-0",
        "/tasks/nosuch-0-0",
        "/tasks/x",
        "/nowhere",
        "/tasks/nosuch-0-0/logs/1/stdout",
    ],
)
async def test_what_is_not_there_is_told_by_a_page(web, path):
    browser = await web.signed_in("alice")

    answer = await browser.get(path)

    assert answer.code == 404
    assert lint(answer.body.decode()) == []


@pytest.mark.parametrize("query", ["status=purple", "cursor=zzz", "cursor=%ff", "owner=%00"])
async def test_strange_filters_get_an_answer(web, query):
    browser = await web.signed_in("alice")

    assert (await browser.get(f"/datasets?{query}")).code in (200, 400, 422)


async def test_a_long_list_is_paged(web_with):
    web = await web_with(pages={"rows": 10})
    for n in range(12):
        await web.site.submit(description=f"dataset-{n}-", fill=False)
    browser = await web.signed_in("alice")

    first = await browser.text("/datasets?owner=alice")
    following = re.search(r'rel="next" href="([^"]+)"', first)[1].replace("&amp;", "&")
    second = await browser.text(following)

    assert re.findall(r"dataset-(\d+)-", first) == [str(n) for n in range(11, 1, -1)]
    assert re.findall(r"dataset-(\d+)-", second) == ["1", "0"]
    assert "owner=alice" in following


async def test_submitting_makes_a_dataset(web):
    browser = await web.signed_in("alice")

    answer = await browser.post(
        "/datasets/new", via="/datasets/new", config=json.dumps(config()), njobs="5", description="mine"
    )

    assert answer.code == 303, answer.body
    assert "mine" in await browser.text(answer.headers["Location"])


async def test_example_in_the_form_can_be_submitted(web):
    browser = await web.signed_in("alice")
    page = await browser.text("/datasets/new")
    text = unescape(re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.S)[1])

    answer = await browser.post("/datasets/new", via="/datasets/new", config=text, njobs="1")

    assert answer.code == 303, answer.body


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"config": "{"}, "config"),
        ({"config": '{"version": 3, "tasks": [{"name": "a", "depends": ["b"], "trays": []}]}'}, "/tasks/0"),
        ({"njobs": "many"}, "njobs"),
        ({"njobs": "0"}, "njobs"),
        ({"priority": "high"}, "priority"),
        ({"config": ""}, "config"),
    ],
)
async def test_a_wrong_submission_is_shown_again_with_what_is_wrong(web, fields, told):
    browser = await web.signed_in("alice")
    given = {"config": json.dumps(config()), "njobs": "5", "description": HOSTILE, **fields}

    answer = await browser.post("/datasets/new", via="/datasets/new", **given)

    html = answer.body.decode()
    assert answer.code == 422
    assert 'id="faults"' in html
    assert told in html.split('id="faults"')[1].split("</section>")[0]
    assert "&lt;script&gt;alert(1)" in html
    assert lint(html) == []


async def test_account_page_makes_and_revokes_tokens(web):
    browser = await web.signed_in("alice")

    made = (await browser.post("/account", via="/account", label="laptop", days="3")).body.decode()
    secret = re.search(r'class="secret">(iu_[^<]+)<', made)[1]
    assert (await web.browser(secret).rpc("dataset.list"))["result"]["items"] == []
    token = re.search(r"/account/tokens/([0-9a-f]{16})/revoke", made)[1]
    await browser.post(f"/account/tokens/{token}/revoke", via="/account")

    assert (await web.browser(secret).rpc("dataset.list"))["error"]["data"]["code"] == "not_authenticated"


async def test_changing_the_password_ends_the_session(web):
    browser = await web.signed_in("alice")

    wrong = await browser.post("/account/password", via="/account", current="no", password="a brand new one")
    assert wrong.code == 401
    right = await browser.post(
        "/account/password", via="/account", current=PASSWORD, password="a brand new one"
    )

    assert (right.code, right.headers["Location"]) == (303, "/sign-in")
    assert (await browser.get("/datasets")).code == 303


async def test_fault_of_ours_is_told_without_its_text(web, monkeypatch, caplog):
    browser = await web.signed_in("alice")
    monkeypatch.setattr(type(web.site.services.datasets), "select", lambda *_: 1 / 0)

    answer = await browser.get("/datasets")

    html = answer.body.decode()
    assert answer.code == 500
    assert "ZeroDivisionError" not in html
    assert "division" not in html
    assert lint(html) == []
    assert re.search(r"<code>[0-9a-f]{12}</code>", html)
