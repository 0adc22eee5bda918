"""What was refused to sites stands in the audit trail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from site_harness import ALICE, Site

from iceprod.errors import NotAuthenticated, StoreUnavailable
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.services.refusals import Refusals, RefusedCertificate

SITE = Principal(PrincipalKind.SITE, "desy")
STRANGER = Principal(PrincipalKind.ANONYMOUS, certificate="CN=desy,O=Top")


async def refused(site: Site) -> list[tuple[str, str, int]]:
    await site.services.federation.refusals.save()
    found = (await site.store.audit.select(None, Page(100))).items
    return [
        (entry.principal, str(entry.detail["action"]), int(str(entry.detail["times"])))
        for entry in reversed(found)
        if entry.action == "site.refused"
    ]


async def call(site: Site, caller: Principal, method: str, **params: Any) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    answer = await site.dispatcher().handle(body, principal=caller)
    assert b'"error"' in (answer or b"")


async def test_refusals_are_counted_and_written_down(site: Site) -> None:
    for _ in range(3):
        await call(site, SITE, "dataset.submit", config={}, njobs=1)
    await call(site, STRANGER, "site.pull", message={"shapes": []})
    await call(site, ANONYMOUS, "site.report", message={"operations": []})
    await call(site, SITE, "site.hello", message={"protocols": [1]})  # it has never joined
    with pytest.raises(NotAuthenticated):
        await site.services.accounts.authenticate("is_forged")

    assert await refused(site) == [
        ("desy", "dataset.submit", 3),
        ("CN=desy,O=Top", "site.pull", 1),
        ("", "site.report", 1),
        ("desy", "site.call", 1),
        ("", "site.token", 1),
    ]
    assert await site.services.federation.refusals.save() == 0


async def test_others_are_refused_without_a_word(site: Site) -> None:
    await call(site, ALICE, "user.list")
    await call(site, ANONYMOUS, "dataset.list")
    with pytest.raises(NotAuthenticated):
        await site.services.accounts.authenticate("iu_forged")

    assert await refused(site) == []


async def test_a_flood_is_bounded(site: Site) -> None:
    refusals = Refusals(site.store.audit, clock=site.clock)
    for n in range(1500):
        refusals.note(f"site{n}", "site.pull", "no")

    assert await refusals.save() == 1001


async def test_a_flood_of_certificates_is_bounded_by_address_and_in_all(site: Site) -> None:
    refusals = Refusals(site.store.audit, clock=site.clock)
    for n in range(1500):
        refusals.note_certificate(RefusedCertificate("10.0.0.1", "forged", f"CN={n}"))
    for n in range(1500):
        refusals.note_certificate(RefusedCertificate(f"10.1.{n}", "forged", "CN=desy"))

    assert await refusals.save() == 101
    found = (await site.store.audit.select(None, Page(200))).items
    told = {(entry.detail.get("address"), entry.detail["times"]) for entry in found if not entry.target}
    assert told == {("10.0.0.1", 1490), (None, 1411)}
    assert sum(entry.detail["times"] for entry in found) == 3000
    refusals.note_certificate(RefusedCertificate("10.0.0.1", "forged", "CN=11"))
    assert await refusals.save() == 1
    assert (await site.store.audit.select("CN=11", Page(10))).items[0].detail["times"] == 1


async def test_what_could_not_be_written_is_written_later(site: Site) -> None:
    class Away:
        async def add(self, _: object) -> None:
            raise StoreUnavailable("away")

    refusals = Refusals(Away(), clock=site.clock)
    refusals.note("desy", "site.pull", "no")

    with pytest.raises(StoreUnavailable):
        await refusals.save()
    refusals._audit = site.store.audit
    assert await refusals.save() == 1
