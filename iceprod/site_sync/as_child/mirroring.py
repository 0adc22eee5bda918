"""Mirrors of one parent's datasets, made and refreshed by what the parent tells of them."""

from __future__ import annotations

import asyncio

from iceprod.errors import NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.services.mirrors import Facts, Mirrors
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.messages import About, Told


class Mirroring:
    """The mirrors of the datasets of ``parent``.

    Which of the parent's versions of a configuration a mirror has, is remembered by this
    process alone; the next one asks again, and compares the texts.
    """

    def __init__(self, parent: str, *, link: Calls, mirrors: Mirrors) -> None:
        self._parent = parent
        self._link = link
        self._mirrors = mirrors
        self._versions: dict[str, int] = {}
        self._lock = asyncio.Lock()

    async def dataset(self, remote_id: str, version: int) -> Dataset:
        """The mirror of a dataset with its configuration of that version, or a later one.

        Raises:
            NotFoundError: the parent has none of it for this site any more.
            FormatError: the configuration can't be read here.
        """
        async with self._lock:
            mirror = await self._mirrors.find(self._source(remote_id))
            if mirror is not None and self._versions.get(remote_id, 0) >= version:
                return mirror
            return await self._bring(remote_id, version, mirror)

    async def refresh(self, remote_id: str) -> None:
        """Have a mirror, if there is one, as its dataset is now.

        Raises:
            FormatError: the configuration can't be read here.
        """
        async with self._lock:
            mirror = await self._mirrors.find(self._source(remote_id))
            if mirror is None:
                return
            told = await self._link.call("site.dataset", About(remote_id), Told)
            if told.config_version > self._versions.get(remote_id, 0):
                await self._bring(remote_id, told.config_version, mirror)
            else:
                await self._mirrors.refresh(mirror, _facts(told))

    async def _bring(self, remote_id: str, version: int, mirror: Dataset | None) -> Dataset:
        told = await self._newest(remote_id, version)
        if told.config is None:
            raise NotFoundError("configuration", f"{remote_id} version {told.config_version}")
        if mirror is None:
            mirror = await self._mirrors.make(self._source(remote_id), _facts(told), told.config)
        mirror = await self._mirrors.refresh(mirror, _facts(told), told.config)
        self._versions[remote_id] = told.config_version
        return mirror

    async def _newest(self, remote_id: str, version: int) -> Told:
        """What the parent tells, with the configuration that is the present one by its own word."""
        while True:
            told = await self._link.call("site.dataset", About(remote_id, version), Told)
            if told.config_version <= version:
                return told
            version = told.config_version

    def _source(self, remote_id: str) -> str:
        return f"{self._parent}/{remote_id}"


def _facts(told: Told) -> Facts:
    return Facts(
        owner=told.owner,
        group=told.group,
        description=told.description,
        priority=told.priority,
        debug=told.debug,
    )
