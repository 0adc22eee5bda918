"""Figures about other sites, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from iceprod.model.federation import PeerRole
from iceprod.site_sync.seen.overview import Standing

Sample = tuple[Mapping[str, str], float]
"""Labels and a value."""

_FIGURES: Sequence[tuple[str, str, Callable[[Standing], float | None]]] = (
    ("iceprod_site_tasks_held", "gauge", lambda each: each.held),
    ("iceprod_site_tasks_done_total", "counter", lambda each: each.course.done),
    ("iceprod_site_tasks_failed_total", "counter", lambda each: each.course.failed),
    ("iceprod_site_reports_waiting", "gauge", lambda each: each.waiting),
    ("iceprod_site_lag_seconds", "gauge", lambda each: each.lag_s),
    ("iceprod_site_dead_letters", "gauge", lambda each: each.dead),
    ("iceprod_site_alerts", "gauge", lambda each: len(each.alerts)),
    ("iceprod_site_contact_timestamp_seconds", "gauge", lambda each: each.contact_at or None),
    ("iceprod_site_certificate_expiry_timestamp_seconds", "gauge", lambda each: each.peer.expires_at),
)


def site_figures(
    standings: Sequence[Standing],
    operations: Mapping[tuple[PeerRole, str, str], int],
    lent: Mapping[tuple[str, bool], int],
) -> Iterator[tuple[str, str, list[Sample]]]:
    """Name, kind and samples of each figure; what is not known of a site is left out.

    ``operations`` are those that this process had from children, or has told to parents, by role
    and name of the site and by result; ``lent`` are tasks that it has lent, by site and by whether
    that had files of their jobs already.
    """
    states = Counter((str(each.peer.role), each.condition) for each in standings)
    yield (
        "iceprod_sites",
        "gauge",
        [({"role": role, "state": state}, count) for (role, state), count in sorted(states.items())],
    )
    for name, kind, figure in _FIGURES:
        yield name, kind, list(_samples(standings, figure))
    yield (
        "iceprod_site_operations_total",
        "counter",
        [
            ({"role": role, "site": site, "result": result}, count)
            for (role, site, result), count in sorted(operations.items())
        ],
    )
    yield (
        "iceprod_site_tasks_lent_total",
        "counter",
        [
            ({"site": site, "near_data": "yes" if is_near else "no"}, count)
            for (site, is_near), count in sorted(lent.items())
        ],
    )


def _samples(standings: Iterable[Standing], figure: Callable[[Standing], float | None]) -> Iterator[Sample]:
    for each in standings:
        value = figure(each)
        if value is not None:
            yield {"role": str(each.peer.role), "site": each.peer.name}, value
