"""Figures for Prometheus, in its text format 0.0.4, written by hand: it is five lines of syntax."""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import psutil

from iceprod._version import __version__
from iceprod.clock import Clock
from iceprod.model.federation import PeerRole
from iceprod.model.lifecycle import TaskStatus
from iceprod.rpc.dispatch import Dispatcher
from iceprod.server.context import Services
from iceprod.server.duties import Supervisor
from iceprod.server.site_metrics import Sample, site_figures
from iceprod.site_sync.seen.overview import Standing
from iceprod.store.base import Store

_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SAMPLE_S: Final = 0.5
_COUNTED_S: Final = 10.0
_STORE_KINDS: Final = {"largest_batch": "gauge"}


class Histogram:
    """How often a duration in seconds fell below each of a few bounds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.sum_s = 0.0
        self.count = 0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum_s += seconds
        self.count += 1

    def lines(self, name: str) -> Iterable[str]:
        """As Prometheus wants it: cumulative."""
        below = 0
        for bound, count in zip(_BOUNDS, self._counts, strict=False):
            below += count
            yield f'{name}_bucket{{le="{bound:g}"}} {below}'
        yield f'{name}_bucket{{le="+Inf"}} {self.count}'
        yield f"{name}_sum {self.sum_s:.6f}"
        yield f"{name}_count {self.count}"


class Metrics:
    """Gathers figures from those who have them, when somebody asks."""

    def __init__(
        self,
        store: Store,
        services: Services,
        *,
        clock: Clock,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        viewers: Callable[[], int],
    ) -> None:
        self._store = store
        self._services = services
        self._clock = clock
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._viewers = viewers
        self._tasks: tuple[float, dict[str, float]] = (float("-inf"), {})
        self._standings: tuple[float, list[Standing]] = (float("-inf"), [])
        self.requests: Counter[int] = Counter()
        self.latency = Histogram()
        self.loop_lag = Histogram()

    def request_done(self, status: int, seconds: float) -> None:
        """Count an HTTP request."""
        self.requests[status] += 1
        self.latency.observe(seconds)

    async def sample_loop(self) -> None:
        """Measure for ever how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_S
            await asyncio.sleep(_SAMPLE_S)
            self.loop_lag.observe(max(0.0, loop.time() - due))

    async def render(self) -> str:
        """Everything as text."""
        supervisor, dispatcher = self._supervisor, self._dispatcher
        process = psutil.Process(os.getpid())
        waiting = sum(demand.waiting for demand in self._services.scheduler.demand())
        pilots = Counter(str(pilot.status) for pilot in self._services.slots.pilots.values())
        failures = {name: record.failures for name, record in supervisor.records.items()}
        news, transfers = self._services.news, self._services.transfers
        parts = [
            _table("iceprod_info", "gauge", "version", {__version__: 1}),
            # Whoever scrapes a port that several processes share is told which one has answered.
            _table("iceprod_process_info", "gauge", "process", {news.process_id: 1}),
            _one("iceprod_processes", "gauge", news.processes),
            _one("iceprod_has_duties", "gauge", int(self._services.duty.is_holding())),
            _one("iceprod_news_told_total", "counter", news.told),
            _one("iceprod_news_heard_total", "counter", news.heard),
            _one("iceprod_news_missed_total", "counter", news.looks),
            _table("iceprod_tasks", "gauge", "status", await self._task_counts()),
            _table("iceprod_pilots", "gauge", "status", pilots),
            _one("iceprod_ready_tasks", "gauge", waiting),
            _one("iceprod_waiting_claims", "gauge", len(self._services.waiters)),
            _one("iceprod_live_pages", "gauge", self._viewers()),
            _one("iceprod_transfers", "gauge", len(transfers.live())),
            _table("iceprod_moved_bytes_total", "counter", "direction", transfers.accounting.bytes_moved),
            _table("iceprod_rpc_calls_total", "counter", "method", dispatcher.calls),
            _table("iceprod_rpc_errors_total", "counter", "code", dispatcher.errors),
            _table("iceprod_http_requests_total", "counter", "status", dict(self.requests)),
            _histogram("iceprod_http_request_seconds", self.latency),
            _histogram("iceprod_loop_lag_seconds", self.loop_lag),
            _table("iceprod_duty_failures_total", "counter", "duty", failures),
            _one("iceprod_credentials_expiring", "gauge", self._services.vault.expiring),
            _one("iceprod_credentials_renewed_total", "counter", self._services.vault.renewed),
            _one("iceprod_credentials_not_renewed_total", "counter", self._services.vault.failed),
            _one("iceprod_counter_drifts_total", "counter", self._services.audit.drifts),
            _one("process_resident_memory_bytes", "gauge", process.memory_info().rss),
            _one("process_cpu_seconds_total", "counter", sum(process.cpu_times()[:2])),
            *(
                _one(f"iceprod_store_{name}", _STORE_KINDS.get(name, "counter"), value)
                for name, value in self._store_figures().items()
            ),
            *await self._sites(),
        ]
        return "\n".join(parts) + "\n"

    async def _sites(self) -> list[str]:
        """Other sites, if there are any; not older than ten seconds."""
        counted_at, standings = self._standings
        if self._clock() - counted_at > _COUNTED_S:
            standings = await self._services.sites.overview.measured()
            self._standings = self._clock(), standings
        if not standings:
            return []
        federation = self._services.federation
        operations = {
            (role, *key): number
            for role, results in (
                (PeerRole.CHILD, federation.inbox.results),
                (PeerRole.PARENT, federation.parents.results()),
            )
            for key, number in results.items()
        }
        figures = site_figures(standings, operations, federation.lending.lent)
        return [_labelled(name, kind, rows) for name, kind, rows in figures]

    def _store_figures(self) -> Mapping[str, float]:
        """What the store tells of itself, if it does."""
        statistics = getattr(self._store, "statistics", None)
        return asdict(statistics) if statistics is not None else {}

    async def _task_counts(self) -> dict[str, float]:
        """Tasks of the datasets that still have work, by status; not older than ten seconds."""
        counted_at, counts = self._tasks
        if self._clock() - counted_at > _COUNTED_S:
            counts = {str(status): 0.0 for status in TaskStatus}
            for dataset in await self._store.datasets.active():
                progress = await self._store.datasets.progress(dataset.dataset_id)
                for status, number in progress.all_tasks.items():
                    counts[str(status)] += number
            self._tasks = (self._clock(), counts)
        return counts


def _one(name: str, kind: str, value: float) -> str:
    return f"# TYPE {name} {kind}\n{name} {value}"


def _table(name: str, kind: str, label: str, values: Mapping[Any, float]) -> str:
    rows = [f'{name}{{{label}="{_escape(str(key))}"}} {value}' for key, value in values.items()]
    return "\n".join([f"# TYPE {name} {kind}", *rows])


def _labelled(name: str, kind: str, rows: Iterable[Sample]) -> str:
    lines = [f"# TYPE {name} {kind}"]
    for labels, value in rows:
        shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value}")
    return "\n".join(lines)


def _histogram(name: str, histogram: Histogram) -> str:
    return "\n".join([f"# TYPE {name} histogram", *histogram.lines(name)])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
