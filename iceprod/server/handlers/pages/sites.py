"""Pages about other sites: a map and a table of all, one with its course and its dead letters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from iceprod.model.federation import DeadLetter, Peer, PeerRole, PeerStatus
from iceprod.model.paging import Page
from iceprod.server import text
from iceprod.server.handlers.pages.base import PageHandler
from iceprod.server.plots import Plot, plot
from iceprod.server.site_map import SiteMap, site_list, site_map
from iceprod.server.views import Action
from iceprod.services.authorization import Scope, scope_of
from iceprod.site_sync.seen.alerts import Alert
from iceprod.site_sync.seen.history import Course, rates
from iceprod.site_sync.seen.overview import Standing

_SPANS_S: Final = (3600.0, 6 * 3600.0, 86400.0)
_MOST_LETTERS: Final = 50
_LONGEST_BODY: Final = 2000


@dataclass(frozen=True, slots=True)
class SitesView:
    """Every site that work is shared with."""

    name: str
    drawing: SiteMap
    column: SiteMap
    rows: tuple[Standing, ...]
    alerts: tuple[Alert, ...]


class SitesPage(PageHandler):
    """``/sites``."""

    section = "sites"

    async def get(self) -> None:
        """Show them."""
        overview = self.services.sites.overview
        rows = await overview.sites(self.principal)
        found = [alert for row in rows for alert in row.alerts]
        view = SitesView(
            name=overview.name,
            drawing=site_map(overview.name, rows),
            column=site_list(overview.name, rows),
            rows=tuple(rows),
            alerts=tuple(sorted(found, key=lambda alert: not alert.is_grave)),
        )
        self.show("sites", view, title="Sites")


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A dead letter, with what it says."""

    letter: DeadLetter
    body: str


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site."""

    standing: Standing
    peer: Peer
    actions: tuple[Action, ...]
    plots: tuple[Plot, ...]
    letters: tuple[LetterRow, ...]
    more_letters: bool
    lent: int  # by this process, since it began
    lent_near: int
    may_handle: bool


class SitePage(PageHandler):
    """``/sites/ROLE/NAME``."""

    section = "sites"

    async def get(self, role: str, name: str) -> None:
        """Show how it stands."""
        sites = self.services.sites
        standing = await sites.overview.site(self.principal, PeerRole(role), name)
        letters: Sequence[DeadLetter] = ()
        more = None
        if standing.peer.role is PeerRole.PARENT and _may(self, "site.dead_letters"):
            found = await sites.letters.select(self.principal, name, Page(_MOST_LETTERS))
            letters, more = found.items, found.next
        counts = self.services.federation.lending.lent
        view = SiteView(
            lent=counts[name, False] + counts[name, True],
            lent_near=counts[name, True],
            standing=standing,
            peer=standing.peer,
            actions=self._actions(standing.peer),
            plots=_plots(standing.course, now=standing.at),
            letters=tuple(LetterRow(letter, _body(letter.operation.body)) for letter in letters),
            more_letters=more is not None,
            may_handle=_may(self, "site.retry"),
        )
        self.show("site", view, title=f"Site {name}")

    def _actions(self, peer: Peer) -> tuple[Action, ...]:
        """What an administrator can do with it now."""
        base, found = f"/sites/{peer.role}/{peer.name}", []
        if peer.status in (PeerStatus.PAUSED, PeerStatus.LEAVING):
            found.append(Action("Resume", base, "resume"))
        elif peer.status is PeerStatus.JOINED:
            found.append(Action("Pause", base, "pause"))
        if peer.role is PeerRole.CHILD and not peer.is_gone:
            question = (
                f"Revoke {peer.name}? It is a stranger from now on, what it holds goes to others,"
                " and it has to be invited anew to come back."
            )
            found.append(Action("Revoke", base, "revoke", question, is_grave=True))
        return tuple(action for action in found if _may(self, f"site.{action.verb}"))


class SiteAct(PageHandler):
    """``/sites/ROLE/NAME/VERB``."""

    async def post(self, role: str, name: str) -> None:
        """Do it."""
        registry, verb = self.services.federation.registry, self.given["verb"]
        if verb == "revoke":
            taken = await registry.revoke(self.principal, name)
            notice = f"Revoked: {text.number(taken)} tasks were taken back."
        elif verb == "pause":
            await registry.pause(self.principal, name, PeerRole(role))
            notice = "Paused: it keeps what it has, and gets no more."
        else:
            await registry.resume(self.principal, name, PeerRole(role))
            notice = "Resumed: work is shared again."
        self.done(notice, f"/sites/{role}/{name}")


class LetterAct(PageHandler):
    """``/sites/parent/NAME/letters/NUMBER/VERB``."""

    async def post(self, name: str, number: str) -> None:
        """Do it."""
        letters, verb = self.services.sites.letters, self.given["verb"]
        if verb == "retry":
            changed = await letters.retry(self.principal, [int(number)])
            notice = "The report is sent again." if changed else "There is no such letter any more."
        else:
            changed = await letters.discard(self.principal, [int(number)])
            notice = "The report is dropped." if changed else "There is no such letter any more."
        self.done(notice, f"/sites/parent/{name}")


def _may(page: PageHandler, action: str) -> bool:
    return scope_of(page.principal, action) is not Scope.NONE


def _plots(course: Course, *, now: float) -> tuple[Plot, ...]:
    """What went on in the last hour, or in the last day if so much is known."""
    points = course.points
    age_s = now - points[0].at if points else 0.0
    span_s = next((span_s for span_s in _SPANS_S if age_s <= span_s), _SPANS_S[-1])

    def series(field: str) -> list[tuple[float, float]]:
        return [(max(0.0, now - point.at), float(getattr(point, field))) for point in points]

    return (
        plot(
            "Tasks finished per minute",
            rates(points, now=now),
            span_s=span_s,
            write=lambda n: f"{n:.3g}",
            least=1.0,
        ),
        plot("Tasks held", series("held"), span_s=span_s, write=_count, least=10.0),
        plot("Lag of reports", series("lag_s"), span_s=span_s, write=text.duration, least=10.0),
    )


def _count(number: float) -> str:
    return text.number(round(number))


def _body(body: Mapping[str, Any]) -> str:
    """What an operation says, as JSON; a long one is cut."""
    shown = json.dumps(dict(body), ensure_ascii=False, indent=1, default=str)
    return shown if len(shown) <= _LONGEST_BODY else f"{shown[:_LONGEST_BODY]} …"
