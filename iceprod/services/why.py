"""Why is this task not running?  The scheduler's own rules, told in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iceprod.clock import Clock, iso
from iceprod.model.dataset import Dataset
from iceprod.model.federation import site_of
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal
from iceprod.model.resources import DIMENSIONS, Lack, Offer, Requirements, amount, lacks
from iceprod.model.task import Task, task_id
from iceprod.services.catalogue import Catalogue
from iceprod.services.datasets import DatasetService
from iceprod.services.rates import Rates
from iceprod.services.scheduling import Scheduler
from iceprod.services.slots import Slots
from iceprod.services.tasks import TaskService
from iceprod.store.base import Store, TaskClass

MAX_ROWS = 200
MAX_CLASSES = 3
"""Sets of requirements that are explained for each kind of task of a dataset."""
_ABSENT = {"pilot": ["No pilot is running."], "grid": ["No grid is there."], "site": []}
_THINGS = {
    "pilot": ("pilot", "pilots"),
    "grid": ("grid", "grids"),
    "site": ("slot of other sites", "slots of other sites"),
}
_RECENT = 20
"""Entries of the audit trail that are searched for why a dataset is suspended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one pilot, grid or other site lacks for the task; nothing if it fits."""

    kind: str  # "pilot", "grid" or "site"
    name: str
    fits: bool
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: sentences in the order of weight, and a row per pilot, grid and other site."""

    subject: str
    status: str
    sentences: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()


class Why:
    """Explains tasks and datasets that do not run."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        datasets: DatasetService,
        tasks: TaskService,
        scheduler: Scheduler,
        slots: Slots,
        rates: Rates,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._datasets = datasets
        self._tasks = tasks
        self._scheduler = scheduler
        self._slots = slots
        self._rates = rates

    async def task(self, principal: Principal, identifier: str) -> Explanation:
        """Why a task is not running, or that it is."""
        task = await self._tasks.check_seen(principal, "task.why", identifier)
        dataset = await self._catalogue.get(task.dataset_id)
        if task.status is TaskStatus.WAITING and not dataset.suspended:
            return await self._waiting(identifier, dataset, await self._class_of(task))
        sentences = await self._standing(task, dataset)
        return Explanation(identifier, task.status, tuple(sentences))

    async def dataset(self, principal: Principal, dataset_id: str) -> Explanation:
        """What keeps a dataset from going on: for each kind of task, the scheduler's view."""
        report = await self._datasets.progress(principal, dataset_id)
        dataset = report.dataset
        sentences = [_flags(dataset), await self._given_up(dataset), *_counts(dataset, report.progress.tasks)]
        verdicts: list[Verdict] = []
        explained: Counter[int] = Counter()
        for task_class in await self._waiting_classes(dataset_id):
            explained[task_class.task_index] += 1
            if explained[task_class.task_index] > MAX_CLASSES:
                continue
            one = await self._waiting(dataset_id, dataset, task_class)
            name = dataset.task_names[task_class.task_index]
            sentences += [f"Task {name}: {sentence}" for sentence in one.sentences]
            verdicts += [v for v in one.verdicts if v not in verdicts]
        sentences += [
            f"Task {dataset.task_names[index]}: {_counted(number - MAX_CLASSES, 'more set')} of requirements."
            for index, number in explained.items()
            if number > MAX_CLASSES
        ]
        found = tuple(s for s in sentences if s)
        return Explanation(dataset_id, dataset.status, found, tuple(verdicts[:MAX_ROWS]))

    async def _given_up(self, dataset: Dataset) -> str:
        """The reason for which the site itself suspended a dataset, if it did."""
        if not dataset.suspended:
            return ""
        found = await self._store.audit.select(dataset.dataset_id, Page(limit=_RECENT))
        last = next((entry for entry in found.items if entry.action == "dataset.suspend"), None)
        reason = last.detail.get("reason") if last is not None else None
        return f"The site suspended it, because no more jobs can be made: {reason}" if reason else ""

    async def _waiting_classes(self, dataset_id: str) -> list[TaskClass]:
        counts = await self._store.tasks.ready_counts()
        return [c for c in await self._store.datasets.classes(dataset_id) if counts.get(c.class_id)]

    async def _class_of(self, task: Task) -> TaskClass:
        found = await self._store.datasets.classes(task.dataset_id)
        return next(c for c in found if c.class_id == task.class_id)

    async def _standing(self, task: Task, dataset: Dataset) -> list[str]:
        """Why a task that nobody may claim stands where it does."""
        match task.status:
            case TaskStatus.PROCESSING:
                return [f"{_whereabouts(task)}, attempt {task.attempt}."]
            case TaskStatus.COMPLETE:
                return ["It is complete."]
            case TaskStatus.QUEUED:
                return ["It was handed to a batch system or another site, where it waits for its turn."]
            case TaskStatus.SUSPENDED | TaskStatus.WAITING:
                whole = "The whole dataset is suspended." if dataset.suspended else "It is suspended."
                return [f"{whole} Resume it to let it run.", *await self._last_failure(task)]
            case TaskStatus.FAILED:
                return [
                    f"It failed {_times(task.failures)} and is not tried again. Reset it to try anew.",
                    *await self._last_failure(task),
                ]
            case _:
                return await self._idle(task, dataset)

    async def _idle(self, task: Task, dataset: Dataset) -> list[str]:
        sentences = []
        if task.release_at is not None and task.release_at > self._clock():
            sentences.append(f"After a failure it is tried again at {iso(task.release_at)}.")
            sentences += await self._last_failure(task)
        needed = [(task.dataset_id, index) for index in dataset.depends[task.task_index]]
        if dataset.external:
            needed += dataset.external[task.task_index]
        for needed_dataset, index in needed:
            other = await self._store.tasks.get(task_id(needed_dataset, task.job_index, index))
            if other is None:
                sentences.append(f"It needs job {task.job_index} of dataset {needed_dataset}, not made yet.")
            elif other.status is not TaskStatus.COMPLETE:
                sentences.append(f"It needs task {other.task_id}, which is {other.status}.")
        return sentences or ["It is about to be released."]

    async def _last_failure(self, task: Task) -> list[str]:
        failed = [a for a in await self._store.tasks.attempts(task.task_id) if a.failure_class]
        if not failed:
            return []
        last = failed[-1]
        host = last.hostname or "an unknown host"
        return [f"Its last failure ({last.failure_class}, on {host}): {last.summary}"]

    async def _waiting(self, subject: str, dataset: Dataset, task_class: TaskClass) -> Explanation:
        wanted = task_class.requirements
        judged = [
            (kind, name, offer, [*lacks(wanted, offer), *_elsewhere(dataset, site)])
            for kind, name, site, offer in self._offers()
        ]
        verdicts = [Verdict(k, n, not missing, tuple(map(str, missing))) for k, n, _, missing in judged]
        sentences = [self._held_back(), _needs(wanted), _rules(dataset)]
        sentences += _excluded([(k, n, m) for k, n, _, m in judged])
        sentences.append(self._turn(dataset, task_class, [o for *_, o, m in judged if not m]))
        return Explanation(
            subject, TaskStatus.WAITING, tuple(s for s in sentences if s), tuple(verdicts[:MAX_ROWS])
        )

    def _offers(self) -> Iterator[tuple[str, str, str, Offer]]:
        """What could run a task: kind, name, at which site (this one if empty), and what it offers."""
        for pilot in self._slots.running():
            name = f"{pilot.hostname} ({pilot.pilot_id})" if pilot.hostname else pilot.pilot_id
            yield "pilot", name, "", pilot.offer
        for grid in self._slots.grids:
            yield "grid", grid.grid, "", grid.offer
        for told in self._slots.sites():
            for offer in told.offers:
                yield "site", told.site, told.site, offer

    def _held_back(self) -> str:
        """Why nothing is given out at all, if that is so."""
        recovering = self._scheduler.recovering
        return f"{recovering.sentence[0].upper()}{recovering.sentence[1:]}." if recovering.is_on else ""

    def _turn(self, dataset: Dataset, task_class: TaskClass, fitting: Sequence[Offer]) -> str:
        """Its place in line and, where a rate is known, when it may start."""
        if not fitting:
            return ""
        ahead = 0
        for place, (ready, _) in enumerate(self._scheduler.ranking()):
            if ready.task_class.class_id == task_class.class_id:
                return (
                    f"Something fits it; by share and priority {_ahead(place, ahead)}, and "
                    f"{_counted(ready.count, 'task')} of its own kind {_verb(ready.count, 'wait')}."
                    f"{self._start(dataset, ahead)}"
                )
            ahead += ready.count
        return "Something fits it, and it is about to be handed out."

    def _start(self, dataset: Dataset, ahead: int) -> str:
        rate = self._rates.latest(dataset.dataset_id)
        return f" At the present rate it starts in about {ahead / rate:.0f} s." if rate else ""


def _needs(wanted: Requirements) -> str:
    parts = [amount(name, number) for name in DIMENSIONS if (number := getattr(wanted.resources, name))]
    parts += [f"operating system {' or '.join(wanted.os)}"] if wanted.os else []
    parts += [f"site {wanted.site}"] if wanted.site else []
    return f"It waits for a slot with {', '.join(parts[:-1])} and {parts[-1]}." if parts[1:] else ""


def _whereabouts(task: Task) -> str:
    site = site_of(task.pilot_id)
    return f"It was lent to site {site}" if site else f"It is running on pilot {task.pilot_id}"


def _rules(dataset: Dataset) -> str:
    """At which sites it may run, if that is not everywhere."""
    only, never = (
        ", ".join(name or "this site" for name in names)
        for names in (dataset.sites.only, dataset.sites.never)
    )
    parts = [f"only at {only}" if only else "", f"never at {never}" if never else ""]
    text = " and ".join(filter(None, parts))
    return f"Its dataset runs {text}." if text else ""


def _elsewhere(dataset: Dataset, site: str) -> list[Lack]:
    """That a dataset's tasks may not run at a site, which is this one if empty."""
    if dataset.may_run_at(site):
        return []
    here = site or "this site"
    only = " or ".join(name or "this site" for name in dataset.sites.only)
    return [Lack("site", only or f"other than {here}", here)]


def _excluded(judged: Sequence[tuple[str, str, Sequence[Lack]]]) -> list[str]:
    """How many pilots, grids and slots elsewhere each requirement excludes, and the one that lacks least."""
    if not judged:
        return ["No pilot is running and no grid is configured, so nothing can run it."]
    sentences = []
    for kind in ("pilot", "grid", "site"):
        ours = [missing for k, _, missing in judged if k == kind]
        if not ours:
            sentences += _ABSENT[kind]
            continue
        excluded = Counter(lack.requirement for missing in ours for lack in missing)
        sentences += [
            f"{_how_many(number, len(ours), *_THINGS[kind])} cannot run it: "
            f"{_example(judged, kind, requirement)}."
            for requirement, number in excluded.most_common()
        ]
    if len(judged) > 1 and all(missing for _, _, missing in judged):
        _, name, missing = min(judged, key=lambda row: len(row[2]))
        sentences.append(f"Nearest is {name}: {'; '.join(map(str, missing))}.")
    return sentences


def _how_many(number: int, of: int, one: str, several: str) -> str:
    """``The only pilot``, ``All 3 pilots``, ``2 of 3 pilots``."""
    if of == 1:
        return f"The only {one}"
    return f"All {of} {several}" if number == of else f"{number} of {of} {several}"


def _ahead(classes: int, tasks: int) -> str:
    if not classes:
        return "it is next"
    return f"{_counted(tasks, 'task')} of {_counted(classes, 'other kind')} {_verb(tasks, 'go')} first"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _verb(number: int, verb: str) -> str:
    """The verb for so many: ``waits``, ``goes``, ``wait``."""
    if number != 1:
        return verb
    return f"{verb}{'es' if verb.endswith('o') else 's'}"


def _example(judged: Sequence[tuple[str, str, Sequence[Lack]]], kind: str, requirement: str) -> str:
    return next(
        str(lack)
        for k, _, missing in judged
        if k == kind
        for lack in missing
        if lack.requirement == requirement
    )


def _flags(dataset: Dataset) -> str:
    if dataset.suspended:
        return "The dataset is suspended; resume it to let it run."
    if dataset.status is JobStatus.COMPLETE:
        return "The dataset is complete."
    return ""


def _counts(dataset: Dataset, tasks: Sequence[Mapping[TaskStatus, int]]) -> list[str]:
    sentences = []
    if dataset.jobs_made < dataset.jobs_wanted:
        sentences.append(
            f"{dataset.jobs_made} of {dataset.jobs_wanted} jobs were made; more are made as these get done."
        )
    for name, counts in zip(dataset.task_names, tasks, strict=False):
        text = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()) if number)
        sentences.append(f"Task {name}: {text}." if text else "")
    return sentences
