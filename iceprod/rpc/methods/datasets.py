"""Methods about datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from iceprod.errors import AccessDenied, ConflictError, FormatError, NotFoundError, VersionMismatch
from iceprod.model.federation import SiteRules
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import MAX_PAGE, Page
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import (
    ChangedView,
    DatasetView,
    ListView,
    ProgressView,
    dataset_view,
    listed,
    progress_view,
)
from iceprod.services.datasets import Remark, Submission, Submitted
from iceprod.services.why import Explanation
from iceprod.store.base import DatasetFilter

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
JobCount = Annotated[int, msgspec.Meta(ge=1)]
SiteNames = Annotated[list[str], msgspec.Meta(max_length=1000)]


@dataclass(frozen=True, slots=True)
class SubmittedView:
    """An accepted dataset, and what its author should look at again."""

    dataset_id: str
    number: int
    config_version: int
    warnings: list[Remark]


def _submitted(done: Submitted) -> SubmittedView:
    dataset = done.dataset
    return SubmittedView(dataset.dataset_id, dataset.number, dataset.config_version, list(done.warnings))


def config_text(config: dict[str, Any] | str) -> str:
    """A configuration given as an object or as text, as text."""
    return config if isinstance(config, str) else msgspec.json.encode(config).decode()


def _rules(only: list[str] | None, never: list[str] | None) -> SiteRules:
    return SiteRules(tuple(only or ()), tuple(never or ()))


@METHODS.method("dataset.submit", action="dataset.submit", errors=(FormatError, AccessDenied))
async def dataset_submit(
    call: Call,
    *,
    config: dict[str, Any] | str,
    njobs: JobCount,
    description: str = "",
    group: str = "",
    priority: float = 0.5,
    debug: bool = False,
    format: Literal["json", "yaml"] = "json",  # noqa: A002 (the name in the contract)
    only: SiteNames | None = None,
    never: SiteNames | None = None,
) -> SubmittedView:
    """Submit a dataset: a configuration (an object, or its text as JSON or YAML) and how many jobs of it.

    At which sites its tasks may run, ``only`` and ``never`` say as for ``dataset.sites``.
    """
    submission = Submission(
        config=config_text(config),
        njobs=njobs,
        description=description,
        group=group,
        priority=priority,
        debug=debug,
        format=format,
        sites=_rules(only, never),
    )
    return _submitted(await call.services.datasets.submit(call.principal, submission))


@METHODS.method("dataset.list", action="dataset.list", idempotent=True)
async def dataset_list(
    call: Call,
    *,
    status: JobStatus | None = None,
    owner: str | None = None,
    group: str | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[DatasetView]:
    """The datasets that the caller may see, newest first."""
    wanted = DatasetFilter(status=status, owner=owner, group=group)
    found = await call.services.datasets.select(call.principal, wanted, Page(limit, cursor))
    return listed(found, dataset_view)


@METHODS.method("dataset.get", action="dataset.get", errors=(NotFoundError,), idempotent=True)
async def dataset_get(call: Call, *, dataset_id: str) -> DatasetView:
    """One dataset."""
    return dataset_view(await call.services.datasets.get(call.principal, dataset_id))


@METHODS.method("dataset.config", action="dataset.config", errors=(NotFoundError,), idempotent=True)
async def dataset_config(call: Call, *, dataset_id: str) -> dict[str, Any]:
    """The configuration of a dataset, as it was submitted."""
    config: dict[str, Any] = await call.services.datasets.config(call.principal, dataset_id)
    return config


@METHODS.method("dataset.progress", action="dataset.progress", errors=(NotFoundError,), idempotent=True)
async def dataset_progress(call: Call, *, dataset_id: str) -> ProgressView:
    """How far a dataset is, how fast it goes, and the time left."""
    return progress_view(await call.services.datasets.progress(call.principal, dataset_id))


@METHODS.method("dataset.why", action="dataset.why", errors=(NotFoundError,), idempotent=True)
async def dataset_why(call: Call, *, dataset_id: str) -> Explanation:
    """Why a dataset does not go on, in plain words."""
    explanation: Explanation = await call.services.why.dataset(call.principal, dataset_id)
    return explanation


@METHODS.method(
    "dataset.update_config",
    action="dataset.update_config",
    errors=(NotFoundError, FormatError, VersionMismatch, ConflictError),
)
async def dataset_update_config(
    call: Call,
    *,
    dataset_id: str,
    config: dict[str, Any] | str,
    version: int,
    description: str | None = None,
) -> SubmittedView:
    """Replace the configuration, which was read at version ``version``."""
    done = await call.services.datasets.update_config(
        call.principal, dataset_id, config_text(config), description=description, version=version
    )
    return _submitted(done)


@METHODS.method(
    "dataset.suspend", action="dataset.suspend", errors=(NotFoundError, ConflictError), idempotent=True
)
async def dataset_suspend(call: Call, *, dataset_id: str) -> ChangedView:
    """Hold every unfinished task and make no more jobs."""
    return ChangedView(await call.services.datasets.suspend(call.principal, dataset_id))


@METHODS.method(
    "dataset.resume", action="dataset.resume", errors=(NotFoundError, ConflictError), idempotent=True
)
async def dataset_resume(call: Call, *, dataset_id: str) -> ChangedView:
    """Let a suspended dataset go on."""
    return ChangedView(await call.services.datasets.resume(call.principal, dataset_id))


@METHODS.method("dataset.reset", action="dataset.reset", errors=(NotFoundError, ConflictError))
async def dataset_reset(call: Call, *, dataset_id: str) -> ChangedView:
    """Try every failed and suspended task again."""
    return ChangedView(await call.services.datasets.reset(call.principal, dataset_id))


@METHODS.method("dataset.hard_reset", action="dataset.hard_reset", errors=(NotFoundError, ConflictError))
async def dataset_hard_reset(call: Call, *, dataset_id: str) -> ChangedView:
    """Start every task of a dataset again, complete ones too."""
    return ChangedView(await call.services.datasets.hard_reset(call.principal, dataset_id))


@METHODS.method(
    "dataset.truncate", action="dataset.truncate", errors=(NotFoundError, ConflictError), idempotent=True
)
async def dataset_truncate(call: Call, *, dataset_id: str) -> DatasetView:
    """Make no more jobs than exist by now."""
    return dataset_view(await call.services.datasets.truncate(call.principal, dataset_id))


@METHODS.method("dataset.extend", action="dataset.extend", errors=(NotFoundError, ConflictError))
async def dataset_extend(call: Call, *, dataset_id: str, njobs: JobCount) -> DatasetView:
    """Have ``njobs`` jobs in all, more than before."""
    return dataset_view(await call.services.datasets.extend(call.principal, dataset_id, njobs))


@METHODS.method(
    "dataset.priority", action="dataset.priority", errors=(NotFoundError, ConflictError), idempotent=True
)
async def dataset_priority(call: Call, *, dataset_id: str, priority: float) -> DatasetView:
    """Set the priority among the owner's datasets, from 0 (last) to 1 (first)."""
    return dataset_view(await call.services.datasets.set_priority(call.principal, dataset_id, priority))


@METHODS.method("dataset.sites", action="dataset.sites", errors=(NotFoundError,), idempotent=True)
async def dataset_sites(
    call: Call, *, dataset_id: str, only: SiteNames | None = None, never: SiteNames | None = None
) -> DatasetView:
    """Set at which sites tasks may run: only at some, never at some, or anywhere.

    This site is the empty text.  Tasks that are at other sites already go on there.
    """
    rules = _rules(only, never)
    return dataset_view(await call.services.datasets.set_sites(call.principal, dataset_id, rules))
