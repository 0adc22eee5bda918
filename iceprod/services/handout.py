"""What a pilot is told about its tasks, and what it needs to get started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from iceprod.model.config import options_for
from iceprod.model.federation import Original
from iceprod.model.principal import Principal
from iceprod.model.resources import Offer
from iceprod.services.accounts import Accounts
from iceprod.services.authorization import check
from iceprod.services.catalogue import Catalogue
from iceprod.services.foreign import Foreign
from iceprod.services.materialise import dataset_number
from iceprod.services.pilots import PilotService
from iceprod.services.scheduling import Claimed

MAX_ANSWER_BYTES: Final = 16_000_000
"""Length of the configurations that one claim of an old pilot is answered with."""
_OPTIONS_BYTES: Final = 2000
TASK_USER = "task"
"""User name under which old pilots show a task token to the file store."""


_EMPTY: Final[dict[str, Any]] = {
    "version": 3,
    "dataset": 0,
    "parent_id": 0,
    "steering": {"parameters": {}, "batchsys": None, "system": {}, "resources": [], "data": []},
    "tasks": [],
    "difplus": None,
    "description": "",
    "categories": [],
}
"""What a configuration has at least: old pilots do not ask whether a part is there."""


class HandedOut(msgspec.Struct, frozen=True, gc=False):
    """A claimed task, but for the configuration, which the pilot asks for once per version.

    ``token`` lets the task's payload and its file transfers call the server as the task;
    ``resources`` are cores, GPUs, GB and hours that it may use.  A task of another site has
    with ``stands_for`` what its configuration is evaluated with.
    """

    task_id: str
    lease_id: str
    lease_s: float
    token: str
    dataset_id: str
    dataset: int
    job: int
    task_index: int
    name: str
    attempt: int
    jobs_submitted: int
    debug: bool
    config_version: int
    resources: dict[str, float]
    stands_for: Original | None = None

    @property
    def named(self) -> Original:
        """What the configuration is evaluated with."""
        return self.stands_for or Original(
            dataset_id=self.dataset_id,
            dataset=self.dataset,
            task_id=self.task_id,
            job=self.job,
            task_index=self.task_index,
            name=self.name,
            jobs_submitted=self.jobs_submitted,
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a pilot that is started by hand needs; ``config`` is a file in the dataset format.

    ``passkey`` is told only now.
    """

    pilot_id: str
    passkey: str
    url: str
    jsonrpc: str
    config: dict[str, Any]


class Handout:
    """Writes tasks and credentials out for pilots.

    Files below the addresses ``relayed`` they are to fetch and store through this site.
    """

    def __init__(
        self,
        *,
        accounts: Accounts,
        catalogue: Catalogue,
        pilots: PilotService,
        foreign: Foreign,
        lease_s: float,
        site_url: Callable[[], str],
        relayed: Sequence[str] = (),
    ) -> None:
        self._accounts = accounts
        self._catalogue = catalogue
        self._pilots = pilots
        self._foreign = foreign
        self._lease_s = lease_s
        self._site_url = site_url  # known once the server listens
        self.relayed = tuple(relayed)

    async def tasks(self, claimed: Sequence[Claimed]) -> list[HandedOut]:
        """Claimed tasks as `pilot.claim` tells them."""
        originals = await self._originals(claimed)
        return [await self._task(one, originals.get(one.task.task_id)) for one in claimed]

    async def _originals(self, claimed: Sequence[Claimed]) -> Mapping[str, Original]:
        """What tasks of other sites are called there."""
        foreign = [one.task.task_id for one in claimed if one.dataset.is_mirror]
        return await self._foreign.originals(foreign) if foreign else {}

    async def _task(self, claimed: Claimed, original: Original | None) -> HandedOut:
        task, dataset = claimed.task, claimed.dataset
        config = await self._catalogue.config(dataset.dataset_id, dataset.config_version)
        return HandedOut(
            task_id=task.task_id,
            lease_id=task.lease_id,
            lease_s=self._lease_s,
            token=self._accounts.make_task_token(task.task_id, task.lease_id),
            dataset_id=task.dataset_id,
            dataset=dataset_number(dataset, config),
            job=task.job_index,
            task_index=task.task_index,
            name=dataset.task_names[task.task_index],
            attempt=task.attempt,
            jobs_submitted=dataset.jobs_wanted,
            debug=dataset.debug,
            config_version=dataset.config_version,
            resources=claimed.requirements.resources.to_format(),
            stands_for=original,
        )

    async def legacy_configs(self, claimed: Sequence[Claimed]) -> list[dict[str, Any]]:
        """Claimed tasks as IceProd 2.3 handed them out: whole configurations with options filled in.

        Of the first ones, as many as one answer can hold, and always one.
        """
        found: list[dict[str, Any]] = []
        room = MAX_ANSWER_BYTES
        originals = await self._originals(claimed)
        for one in claimed:
            dataset = one.dataset
            _, size = await self._catalogue.sized_config(dataset.dataset_id, dataset.config_version)
            room -= size + _OPTIONS_BYTES
            if found and room < 0:
                break
            found.append(await self._legacy_config(one, originals.get(one.task.task_id)))
        return found

    async def _legacy_config(self, claimed: Claimed, original: Original | None) -> dict[str, Any]:
        told = await self._task(claimed, original)
        named = told.named
        config = await self._catalogue.config(told.dataset_id, told.config_version)
        urls = {name: url.format(job=told.job) for name, url in self.area_urls(told.dataset_id).items()}
        options = options_for(
            dataset_id=named.dataset_id,
            dataset=named.dataset,
            job=named.job,
            jobs_submitted=named.jobs_submitted,
            task_id=told.task_id,  # by which those pilots report, too
            task=named.task_index,
            debug=told.debug,
            resources=told.resources,
            urls=urls | {"data_url": self._site_url(), "resource_url": f"{self._site_url()}/download"},
        )
        # Those pilots send no bearer header with files: they know user names and passwords.
        options |= {"username": TASK_USER, "password": told.token}
        steering = {**_EMPTY["steering"], **(config.get("steering") or {})}
        options = {**(config.get("options") or {}), **options}
        return {**_EMPTY, **config, "steering": steering, "options": options}

    def area_urls(self, dataset_id: str) -> dict[str, str]:
        """The addresses of a dataset's temp areas; that of jobs has ``{job}`` in the job's place."""
        files = f"{self._site_url()}/files"
        return {
            "job_temp": f"{files}/job_temp/{dataset_id}/{{job}}",
            "dataset_temp": f"{files}/dataset_temp/{dataset_id}",
            "site_temp": f"{files}/site_temp",
        }

    async def credentials(self, principal: Principal, *, grid: str, offer: Offer) -> Credentials:
        """An identity for a pilot that somebody starts by hand, old pilots included."""
        check(principal, "pilot.credentials")
        pilot_id, passkey = await self._pilots.create(grid=grid, offer=offer)
        config = {
            **_EMPTY,
            "options": {
                "pilot_id": pilot_id,
                "gridspec": grid,
                "resources": offer.resources.to_format(),
                "run_timeout": 60,
            },
            "description": f"pilot of grid {grid}",
        }
        url = self._site_url()
        return Credentials(pilot_id, passkey, url, f"{url}/jsonrpc", config)
