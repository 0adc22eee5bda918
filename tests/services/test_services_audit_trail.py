"""Reading the audit trail."""

from __future__ import annotations

import pytest
from site_harness import ADMIN, ALICE, Site

from iceprod.errors import AccessDenied
from iceprod.model.paging import Page
from iceprod.services.audit_trail import AuditFilter
from iceprod.store.base import AuditEntry


async def filled(site: Site, number: int = 60) -> None:
    """Entries of three actions in turn, a second apart."""
    actions = ("site.invite", "site.revoke", "user.create")
    for n in range(number):
        who = ("ann", "ben")[n % 2]
        await site.store.audit.add(AuditEntry(float(n), who, actions[n % 3], f"t{n % 5}", {"n": n}))


async def listed(site: Site, *, limit: int = 7, **wanted: object) -> list[int]:
    """The numbers of the entries, page by page."""
    found, page = [], Page(limit)
    while True:
        part = await site.services.trail.select(ADMIN, AuditFilter(**wanted), page)  # type: ignore[arg-type]
        assert len(part.items) <= limit
        found += [int(str(entry.detail["n"])) for entry in part.items]
        if part.next is None:
            return found
        page = Page(limit, part.next)


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_it_is_narrowed_and_complete(site: Site, limit: int) -> None:
    await filled(site)
    newest_first = range(59, -1, -1)

    assert await listed(site, limit=limit) == list(newest_first)
    assert await listed(site, limit=limit, action="site.") == [n for n in newest_first if n % 3 != 2]
    assert await listed(site, limit=limit, action="site.revoke") == [n for n in newest_first if n % 3 == 1]
    assert await listed(site, limit=limit, action="site") == []
    assert await listed(site, limit=limit, principal="ben", target="t3") == [53, 43, 33, 23, 13, 3]
    assert await listed(site, limit=limit, since=57.0) == [59, 58, 57]


async def test_what_was_refused_just_now_is_in_it(site: Site) -> None:
    site.services.federation.refusals.note("desy", "site.pull", "no")

    found = await site.services.trail.select(ADMIN, AuditFilter(action="site.refused"), Page())

    assert [entry.principal for entry in found.items] == ["desy"]


async def test_only_administrators_read_it(site: Site) -> None:
    with pytest.raises(AccessDenied):
        await site.services.trail.select(ALICE, AuditFilter(), Page())
