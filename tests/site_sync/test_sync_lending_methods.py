"""The methods that children call, and that of owners of datasets, as they come over the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lending_harness import join
from site_harness import ADMIN, ALICE, BOB, Site

from iceprod.model.federation import ANYWHERE, SiteRules, holder_of
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind

WEST = Principal(PrincipalKind.SITE, "west")
SHAPE = {"cpu": 8, "memory": 32.0, "disk": 100.0, "time": 48.0, "tasks": 1}


async def answer(site: Site, method: str, params: dict[str, Any], caller: Principal = WEST) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    found = await site.dispatcher().handle(json.dumps(body).encode(), principal=caller)
    assert found is not None
    return json.loads(found)


async def say(site: Site, method: str, caller: Principal = WEST, **message: Any) -> Any:
    found = await answer(site, method, {"message": message}, caller)
    assert "error" not in found, found
    return found["result"]


async def test_a_task_goes_down_and_comes_back_as_messages(site: Site):
    await join(site)
    dataset = await site.submit()

    pulled = await say(site, "site.pull", shapes=[{**SHAPE, "of_later_versions": 1}], later=True)
    (lent,) = pulled["tasks"]
    told = await say(site, "site.dataset", dataset_id=lent["dataset_id"], config_version=1)
    lease = [lent["task_id"], lent["lease_id"]]
    renewed = await say(site, "site.renew", leases=[lease], is_all=True)
    heard = await say(site, "site.listen")
    statement = {"id": "a", "kind": "finished", "task_id": lease[0], "lease_id": lease[1], "age_s": 3.0}
    statement["body"] = {"stats": {"hostname": "n", "time_used": 1.0, "later": 1}}
    reported = await say(site, "site.report", operations=[statement], waiting=4)

    assert lent["requirements"]["cpu"] == 1
    assert json.loads(told["config"])["tasks"]
    assert renewed == {"lost": []}
    assert heard == {"taken": True, "datasets": [dataset.dataset_id]}
    assert reported == {"outcomes": [{"id": "a", "result": "applied"}]}


@pytest.mark.parametrize("method", ["site.pull", "site.renew", "site.listen", "site.dataset", "site.report"])
async def test_only_sites_may_call_them(site: Site, method: str):
    whole = {
        "shapes": [], "leases": [], "dataset_id": "d", "operations": [],
    }  # fmt: skip
    pilot = await site.pilot()
    task = Principal(PrincipalKind.TASK, "d-0-0", lease_id="L")
    for caller in (ALICE, ADMIN, pilot, task, ANONYMOUS):
        found = await answer(site, method, {"message": whole}, caller)
        code = found["error"]["data"]["code"]
        assert code == ("not_authenticated" if caller is ANONYMOUS else "access_denied")
    assert (await answer(site, method, {"message": whole}))["error"]["data"]["code"] == "access_denied"


async def test_sites_may_call_nothing_that_is_not_theirs(site: Site):
    await join(site)
    dataset = await site.submit()
    (lent,) = (await say(site, "site.pull", shapes=[SHAPE]))["tasks"]
    for method, params in {
        "pilot.finish": {"task_id": lent["task_id"], "lease_id": lent["lease_id"]},
        "pilot.claim": {"offer": {}},
        "dataset.get": {"dataset_id": dataset.dataset_id},
        "dataset.sites": {"dataset_id": dataset.dataset_id},
        "task.get": {"task_id": lent["task_id"]},
        "user.list": {},
        "site.set": {"name": "west", "changes": {"share": 9.0}},
    }.items():
        assert "error" in await answer(site, method, params), method


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("site.pull", {"shapes": [SHAPE] * 65}),
        ("site.pull", {"shapes": [{**SHAPE, "tasks": 1001}]}),
        ("site.pull", {"shapes": [{**SHAPE, "cpu": -1}]}),
        ("site.pull", {"shapes": [], "wait_s": 61}),
        ("site.pull", {"shapes": None}),
        ("site.renew", {"leases": [["a", "b", "c"]]}),
        ("site.renew", {"leases": [["a" * 201, "b"]]}),
        ("site.listen", {"wait_s": -1}),
        ("site.dataset", {"dataset_id": ""}),
        ("site.report", {"operations": [{"id": "a", "kind": "sql", "task_id": "t", "lease_id": "l"}]}),
        ("site.report", {"operations": [{"id": "a", "kind": "log", "task_id": "t", "lease_id": "l"}] * 1001}),
    ],
)
async def test_what_is_beyond_all_bounds_is_refused(site: Site, method: str, message: dict[str, Any]):
    await join(site)
    assert (await answer(site, method, {"message": message}))["error"]["data"]["code"] == "invalid_input"


async def test_odd_numbers_do_no_harm(site: Site):
    await join(site)
    await site.submit()
    (lent,) = (await say(site, "site.pull", shapes=[SHAPE]))["tasks"]
    lease = {"task_id": lent["task_id"], "lease_id": lent["lease_id"]}
    stats = {
        "time_used": -1e300,
        "resources": {"cpu": 1e300, "": -5},
        "task_stats": {"n": 10**40, "s": "\u0000"},
    }
    statement = {"id": "a", "kind": "finished", "age_s": -1e308, "body": {"stats": stats}, **lease}

    found = await say(site, "site.report", operations=[statement], waiting=10**18, lag_s=1e308, dead=-1)

    assert found["outcomes"][0]["result"] == "applied"
    (attempt,) = await site.store.tasks.attempts(lent["task_id"])
    assert (attempt.walltime_s, attempt.usage) == (0, {"cpu": 1e9, "": 0})


# -- where datasets run --------------------------------------------------------------------


async def test_owners_say_where_their_tasks_run(site: Site):
    await join(site)
    dataset = await site.submit()
    named = {"dataset_id": dataset.dataset_id}

    for caller, only in ((ALICE, ["west"]), (ADMIN, [""])):
        found = await answer(site, "dataset.sites", {**named, "only": only, "never": []}, caller)
        assert (found["result"]["only_sites"], found["result"]["never_sites"]) == (only, [])
    assert (await site.dataset(dataset)).sites == SiteRules(only=("",))
    assert (await answer(site, "dataset.sites", named, BOB))["error"]["data"]["code"] == "access_denied"

    await answer(site, "dataset.sites", {**named, "never": ["west"]}, ALICE)
    assert (await site.dataset(dataset)).sites == SiteRules(never=("west",))
    await answer(site, "dataset.sites", named, ALICE)
    assert (await site.dataset(dataset)).sites == ANYWHERE


@pytest.mark.parametrize(
    "rules", [{"only": ["wset"]}, {"never": ["x" * 1000]}, {"only": ["west"], "never": ["west"]}]
)
async def test_rules_that_are_a_slip_are_refused(site: Site, rules: dict[str, list[str]]):
    await join(site)
    dataset = await site.submit()
    found = await answer(site, "dataset.sites", {"dataset_id": dataset.dataset_id, **rules}, ALICE)
    assert found["error"]["data"]["code"] == "invalid_input"
    assert (await site.dataset(dataset)).sites == ANYWHERE


async def test_where_tasks_run_can_be_said_at_once(site: Site):
    west = await join(site)
    config = {"version": 3, "tasks": [{"name": "a", "trays": []}]}
    given = {"config": config, "njobs": 1, "only": ["", "west"], "never": []}

    found = await answer(site, "dataset.submit", {**given, "only": [""]}, ALICE)
    await site.services.materialiser.fill(found["result"]["dataset_id"])
    wrong = await answer(site, "dataset.submit", {**given, "never": ["wset"]}, ALICE)

    assert await west.pull() == []
    assert len(await site.claim(await site.pilot())) == 1
    assert wrong["error"]["data"]["fields"][0]["path"] == "/never"


async def test_tasks_that_are_elsewhere_go_on_there(site: Site):
    west = await join(site)
    dataset = await site.submit()
    (lent,) = await west.pull()

    await answer(site, "dataset.sites", {"dataset_id": dataset.dataset_id, "never": ["west"]}, ALICE)

    assert await west.renew((lent.task_id, lent.lease_id), is_all=True) == []
    assert (await site.task(lent.task_id)).pilot_id == holder_of("west")
