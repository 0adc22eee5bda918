"""Dataset configurations, fetched once per version and kept for the next tasks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iceprod.pilot.assignment import Assignment
from iceprod.pilot.client import Caller
from iceprod.pilot.through_site import Relay

MOST_KEPT = 32

_STORE = "/files/"
_DEFAULT_TEMPLATES = {
    "job_temp": "{base}/files/job_temp/{dataset_id}/{job}",
    "dataset_temp": "{base}/files/dataset_temp/{dataset_id}",
    "site_temp": "{base}/files/site_temp",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A configuration, the addresses of the areas for its files, and what else goes through the site."""

    config: Mapping[str, Any]
    templates: Mapping[str, str]
    base_url: str
    relayed: tuple[str, ...] = ()

    def urls_for(self, assignment: Assignment) -> dict[str, str]:
        """The addresses for one task, from templates such as ``…/{dataset_id}/{job}``."""
        values = {
            "base": self.base_url.rstrip("/"),
            "dataset_id": assignment.dataset_id,
            "dataset": str(assignment.dataset),
            "job": str(assignment.job),
            "job_index": str(assignment.job),
            "task_id": assignment.task_id,
        }
        return {name: _filled(text, values) for name, text in self.templates.items()}

    @property
    def files_url(self) -> str:
        """Where the server's file store begins: the one place that a task's token is shown to.

        It may have another address than the one for calls.
        """
        before, separator, _ = self.templates["job_temp"].partition(_STORE)
        return _filled(before, {"base": self.base_url.rstrip("/")}) + _STORE if separator else ""

    @property
    def relay(self) -> Relay:
        """The site as the way to other places."""
        return Relay(self.files_url.removesuffix(_STORE), self.relayed)


def _filled(template: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        template = template.replace("{" + key + "}", value)
    return template


class Configs:
    """The configurations that this pilot has seen lately; asked for once however many wait."""

    def __init__(self, caller: Caller, base_url: str) -> None:
        self._caller = caller
        self._base_url = base_url
        self._kept: OrderedDict[tuple[str, int], asyncio.Task[Fetched]] = OrderedDict()

    async def get(self, assignment: Assignment) -> Fetched:
        """The configuration of a task; RpcError if the server does not give it."""
        key = (assignment.dataset_id, assignment.config_version)
        task = self._kept.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._kept[key] = asyncio.create_task(self._fetch(*key))
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return task.result() if task.done() else await asyncio.shield(task)

    async def _fetch(self, dataset_id: str, version: int) -> Fetched:
        answer = await self._caller.insist("pilot.config", {"dataset_id": dataset_id, "version": version})
        given = {name: url for name, url in (answer.get("urls") or {}).items() if url}
        return Fetched(
            config=answer["config"],
            templates={**_DEFAULT_TEMPLATES, **given},
            base_url=self._base_url,
            relayed=tuple(answer.get("relayed") or ()),
        )
