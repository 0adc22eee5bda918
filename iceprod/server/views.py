"""What pages show of the model, ready to be written down: no template computes anything."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import SOURCES, JobStatus, TaskEvent, TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.server import text
from iceprod.server.context import Services
from iceprod.services.datasets import ProgressReport
from iceprod.services.why import Explanation, Verdict

_BAR = 1000.0
_LEAST = 4.0
TASK_ORDER = (
    TaskStatus.COMPLETE,
    TaskStatus.PROCESSING,
    TaskStatus.QUEUED,
    TaskStatus.WAITING,
    TaskStatus.IDLE,
    TaskStatus.SUSPENDED,
    TaskStatus.FAILED,
)
_JOB_ORDER = (JobStatus.COMPLETE, JobStatus.PROCESSING, JobStatus.SUSPENDED, JobStatus.ERRORS)
_COUNTS = re.compile(r"\d+ [a-z]+(, \d+ [a-z]+)*\.")
S = TypeVar("S", TaskStatus, JobStatus)
_SITE = Principal(PrincipalKind.ADMIN, "site")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in units of a thousandth of its width."""

    status: str
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """How many of ``total`` things stand where."""

    label: str
    total: int
    done: int
    share: str
    segments: tuple[Segment, ...]
    summary: str


def bar(label: str, counts: Mapping[S, int], *, total: int, order: tuple[S, ...]) -> Bar:
    """A bar of ``counts``; what is missing to ``total`` (not made yet) stays empty.

    Whatever there is can be seen: a part is at least a few units wide.
    """
    present = [(status, counts[status]) for status in order if counts.get(status)]
    whole = max(total, sum(count for _, count in present), 1)
    widths = [max(_LEAST, _BAR * count / whole) for _, count in present]
    excess = sum(widths) - _BAR
    if excess > 0:
        widest = widths.index(max(widths))
        widths[widest] -= excess
    segments, x = [], 0.0
    for (status, count), width in zip(present, widths, strict=True):
        segments.append(Segment(str(status), count, round(x, 1), round(width, 1)))
        x += width
    made = sum(count for _, count in present)
    words = [f"{text.number(count)} {status}" for status, count in present]
    if total > made:
        words.append(f"{text.number(total - made)} not made yet")
    done = sum(count for status, count in present if status == "complete")
    return Bar(
        label, total, done, text.percent(done, total), tuple(segments), ", ".join(words) or "nothing yet"
    )


@dataclass(frozen=True, slots=True)
class ProgressView:
    """How far a dataset is; also what is sent to live pages."""

    status: str
    jobs: Bar
    tasks: Bar
    kinds: tuple[Bar, ...]
    jobs_made: str
    rate: str
    left: str
    is_active: bool


def progress_view(report: ProgressReport) -> ProgressView:
    """The progress of a dataset as pages show it."""
    dataset, progress = report.dataset, report.progress
    wanted = dataset.jobs_wanted
    kinds = tuple(
        bar(name, counts, total=wanted, order=TASK_ORDER)
        for name, counts in zip(
            dataset.task_names, progress.tasks or [{}] * len(dataset.task_names), strict=False
        )
    )
    left = "done" if dataset.status is JobStatus.COMPLETE else text.duration(report.eta_s)
    return ProgressView(
        status=str(dataset.status),
        jobs=bar("Jobs", progress.jobs, total=wanted, order=_JOB_ORDER),
        tasks=bar("Tasks", progress.all_tasks, total=wanted * len(dataset.task_names), order=TASK_ORDER),
        kinds=kinds,
        jobs_made=f"{text.number(dataset.jobs_made)} of {text.number(wanted)}",
        rate=text.rate(report.rate_per_s),
        left=left,
        is_active=dataset.status is JobStatus.PROCESSING,
    )


def progress_json(services: Services) -> Callable[[str], Awaitable[bytes]]:
    """What reads the progress of a dataset as one line of JSON, for whoever may watch it."""

    async def render(dataset_id: str) -> bytes:
        report = await services.datasets.progress(_SITE, dataset_id)
        return msgspec.json.encode(progress_view(report))

    return render


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset in a list."""

    dataset: Dataset
    title: str
    tasks: Bar


def title_of(dataset: Dataset) -> str:
    """What a dataset is called: the first line of its description, or its number."""
    lines = dataset.description.strip().splitlines()
    return lines[0][:120] if lines else f"Dataset {dataset.number}"


@dataclass(frozen=True, slots=True)
class KindWhy:
    """What holds up the tasks of one kind."""

    name: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhyView:
    """What holds something up: sentences about all of it, then about single kinds of task."""

    sentences: tuple[str, ...]
    kinds: tuple[KindWhy, ...]
    verdicts: tuple[Verdict, ...]


def why_view(found: Explanation, names: Sequence[str] = ()) -> WhyView:
    """An explanation as pages show it: sentences about a kind of task stand under its name.

    Sentences that only count are left out; the page has a table for that.
    """
    general: list[str] = []
    by_kind: dict[str, list[str]] = {name: [] for name in names}
    for sentence in found.sentences:
        name = next((name for name in names if sentence.startswith(f"Task {name}: ")), None)
        text_of_it = sentence.removeprefix(f"Task {name}: ")
        if _COUNTS.fullmatch(text_of_it):
            continue
        (general if name is None else by_kind[name]).append(text_of_it)
    kinds = tuple(KindWhy(name, tuple(told)) for name, told in by_kind.items() if told)
    return WhyView(tuple(general), kinds, found.verdicts)


@dataclass(frozen=True, slots=True)
class Action:
    """A button: what it does, to what, and what to ask before."""

    label: str
    address: str
    verb: str
    confirm: str = ""
    is_grave: bool = False


def dataset_actions(dataset: Dataset) -> tuple[Action, ...]:
    """What the owner can do with a dataset now; one of another site is steered there."""
    if dataset.is_mirror:
        return ()
    base = f"/datasets/{dataset.dataset_id}"
    found = []
    if dataset.suspended:
        found.append(Action("Resume", base, "resume"))
    elif dataset.status is not JobStatus.COMPLETE:
        found.append(Action("Suspend", base, "suspend"))
    found.append(Action("Reset failed tasks", base, "reset"))
    if dataset.jobs_made < dataset.jobs_wanted:
        found.append(
            Action("Truncate", base, "truncate", "Make no more jobs than were made already?", is_grave=True)
        )
    question = "Start every task again, complete ones too? What they produced may be overwritten."
    found.append(Action("Hard reset", base, "hard_reset", question, is_grave=True))
    return tuple(found)


def task_actions(kind: str, identifier: str, statuses: Iterable[TaskStatus]) -> tuple[Action, ...]:
    """What the owner can do now with a task, or with a job whose tasks stand there."""
    base = f"/{kind}s/{identifier}"
    question = f"Start this {kind} from the beginning, even where it is complete?"
    present = set(statuses)
    offered = (
        (TaskEvent.SUSPENDED, Action("Suspend", base, "suspend")),
        (TaskEvent.RESUMED, Action("Resume", base, "resume")),
        (TaskEvent.RESET, Action("Reset", base, "reset")),
        (TaskEvent.HARD_RESET, Action("Hard reset", base, "hard_reset", question, is_grave=True)),
    )
    return tuple(action for event, action in offered if present & SOURCES[event])
