"""Everything that can be asked for, asked for by every kind of caller, against the one table."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace

import pytest
from site_harness import ADMIN, ALICE, task
from web_harness import Browser, Web

from iceprod import ids
from iceprod.model.principal import PrincipalKind
from iceprod.model.user import Token
from iceprod.rpc.methods import build_registry
from iceprod.server.routes import routes
from iceprod.services.authorization import TABLE, Scope, action_of

KINDS = tuple(PrincipalKind)
REFUSALS = {"not_authenticated", "access_denied"}
OPEN_METHODS = {"rpc.discover"}


@dataclass
class Callers:
    """A credential of each kind, all strangers to the objects that are asked for."""

    tokens: dict[PrincipalKind, str]
    dataset_id: str
    task_id: str

    def address(self, pattern: str) -> str:
        """An address that a route's pattern matches."""
        path = pattern.replace(r"([0-9a-f]{16})", "0123456789abcdef")
        path = path.replace(r"/logs/(\d{1,9})/([A-Za-z0-9_.-]{1,64})", "/logs/1/stdout")
        path = path.replace("/tus/?", "/tus").replace("(iup_[A-Za-z0-9_-]{43})", "iup_" + "x" * 43)
        path = path.replace("([0-9a-f]{16,128})", "0" * 64)
        path = path.replace("(parent|child)/([0-9A-Za-z][0-9A-Za-z_.-]{0,63})", "child/south")
        path = path.replace(r"([0-9A-Za-z][0-9A-Za-z_.-]{0,63})/letters/(\d{1,18})", "south/letters/1")
        path = path.replace("(.+)", f"dataset_temp/{self.dataset_id}/nothing")
        kind = path.split("/")[1] if not path.startswith("/events") else "datasets"
        known = {"jobs": f"{self.dataset_id}-0", "tasks": self.task_id, "pilots": "nosuch"}
        return path.replace("([0-9A-Za-z-]{1,64})", known.get(kind, self.dataset_id))


async def callers(web: Web) -> Callers:
    dataset = await web.site.submit(task("only"), njobs=1)
    pilot = await web.site.pilot()
    held = await web.site.one(pilot)
    await web.account("alice")
    await web.account("root", roles=("admin",))
    accounts = web.site.services.accounts
    site_secret = ids.new_secret("is")
    await web.site.store.accounts.add_token(
        Token(ids.digest(site_secret), PrincipalKind.SITE, "s1", web.site.clock(), None)
    )
    tokens = {
        PrincipalKind.ANONYMOUS: "",
        PrincipalKind.USER: await web.token(ALICE),
        PrincipalKind.ADMIN: await web.token(ADMIN),
        PrincipalKind.TASK: accounts.make_task_token(held.task_id, held.lease_id),
        PrincipalKind.PILOT: await accounts.issue_pilot_token(pilot.id),
        PrincipalKind.SITE: site_secret,
    }
    return Callers(tokens, dataset.dataset_id, held.task_id)


async def test_every_rpc_method_admits_exactly_whom_the_table_names(web):
    who = await callers(web)
    found, expected = {}, {}

    for entry in build_registry():
        for kind in KINDS:
            browser = web.browser(who.tokens[kind])
            # Parameters that fit no method: who is admitted is told so, and nothing runs.
            wrong = {parameter.name: {"no": ["such"]} for parameter in entry.parameters}
            answer = await browser.rpc(entry.name, **wrong, **{"no such parameter": 1})
            slug = answer.get("error", {}).get("data", {}).get("code", "ok")
            found[entry.name, kind] = slug not in REFUSALS
            row = TABLE[action_of(entry.action or entry.name)]
            expected[entry.name, kind] = entry.action is None or row[kind] is not Scope.NONE

    assert found == expected
    assert {e.name for e in build_registry() if e.action is None} <= OPEN_METHODS


async def test_every_rpc_method_has_a_row_of_its_own_meaning():
    for entry in build_registry():
        if entry.action is not None:
            assert action_of(entry.action) in TABLE, entry.name
        assert entry.doc, entry.name


def is_refused(code: int, kind: PrincipalKind, location: str, *, is_form: bool = False) -> bool:
    """Whether an answer says that this kind of caller may never do this."""
    if kind is PrincipalKind.ANONYMOUS:
        return (code == 401 and not is_form) or location.startswith("/sign-in?")
    return code == 403


@pytest.mark.expects_logs
async def test_every_route_admits_exactly_whom_the_table_names(web):
    who = await callers(web)
    found, expected = {}, {}

    for route in routes():
        assert route.actions, route.pattern
        for method, action in route.actions.items():
            for kind in KINDS:
                key = (method, route.pattern, kind)
                found[key] = not await refused(
                    web.browser(who.tokens[kind]), method, who.address(route.pattern), kind
                )
                expected[key] = TABLE[action][kind] is not Scope.NONE

    differing = {key for key in found if found[key] != expected[key]}
    assert differing == set()


async def refused(browser: Browser, method: str, path: str, kind: PrincipalKind) -> bool:
    if path.startswith("/events"):
        return await refused_stream(browser, path, kind)
    body = "" if method in ("POST", "PUT") else None
    answer = await browser.send(method, path, body=body)
    if method == "POST" and kind is PrincipalKind.ANONYMOUS:
        # Without a token the proof against forgery is asked for first: show one.
        answer = await browser.post(path)
    # To be refused by the sign-in form for a wrong password, one must be let in to it.
    is_form = path == "/sign-in"
    return is_refused(answer.code, kind, answer.headers.get("Location", ""), is_form=is_form)


async def refused_stream(browser: Browser, path: str, kind: PrincipalKind) -> bool:
    """A stream does not end by itself: its first line tells."""
    host, port = browser.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    bearer = f"Authorization: Bearer {browser.token}\r\n" if browser.token else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}\r\n".encode())
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return is_refused(int(line.split()[1]), kind, "")


async def test_hidden_objects_look_absent_on_every_page(web):
    hidden = await web.site.submit(task("only"), njobs=1)
    await make_private(web, hidden.dataset_id)
    bob = await web.signed_in("bob", groups=("others",))
    who = Callers({}, hidden.dataset_id, f"{hidden.dataset_id}-0-0")
    absent = Callers({}, "0000000000000", "0000000000000-0-0")

    for route in routes():
        if "GET" not in route.actions or "[0-9A-Za-z-]" not in route.pattern:
            continue
        shown = await bob.get(who.address(route.pattern))
        nothing = await bob.get(absent.address(route.pattern))
        assert shown.code == nothing.code == 404, route.pattern
        assert plain(shown.body, hidden.dataset_id) == plain(nothing.body, "0000000000000"), route.pattern


def plain(body: bytes, identifier: str) -> str:
    """A page without what differs from request to request."""
    text = body.decode().replace(identifier, "ID")
    text = re.sub(r'(name="(?:_xsrf|xsrf)" (?:value|content)=)"[^"]*"', r"\1", text)
    return re.sub(r"\b[0-9a-f]{12}\b", "", text)


async def make_private(web: Web, dataset_id: str) -> None:
    dataset = await web.site.dataset(dataset_id)
    web.site.services.catalogue.put(replace(dataset, public=False, group="simprod"))


async def test_legacy_callers_show_their_passkey_among_the_parameters(web):
    who = await callers(web)

    answer = await web.browser().rpc("echo", value="e", passkey=who.tokens[PrincipalKind.PILOT])

    assert json.loads(json.dumps(answer)) == {"jsonrpc": "2.0", "result": "e", "id": 1}


async def test_reports_can_be_kept_from_strangers(web_with):
    web = await web_with(rpc={"public_reports": False})
    names = [e.name for e in build_registry() if action_of(e.action or "") == "report.read"]

    for name in names:
        answer = await web.browser().rpc(name)
        assert answer["error"]["data"]["code"] == "not_authenticated"
