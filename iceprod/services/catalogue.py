"""Datasets and their configurations at hand, so that a claim need not read them again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from iceprod.clock import Clock
from iceprod.errors import NotFoundError
from iceprod.formats.dataset import loads
from iceprod.model.dataset import Dataset
from iceprod.store.base import Store

MAX_DATASETS = 20_000
MAX_CONFIGS = 200
MAX_CONFIG_BYTES = 32_000_000
"""Text of the configurations that are kept at hand; read, they take some ten times as much."""
MAX_AGE_S = 5.0
"""How long a cached dataset is believed; another process may have changed it meanwhile."""


class Catalogue:
    """A bounded cache in front of `Store.datasets`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._datasets = store.datasets
        self._clock = clock
        self._known: OrderedDict[str, tuple[Dataset, float]] = OrderedDict()
        self._configs: OrderedDict[tuple[str, int], tuple[dict[str, Any], int]] = OrderedDict()
        self._config_bytes = 0

    async def get(self, dataset_id: str) -> Dataset:
        """A dataset.

        Raises:
            NotFoundError: there is none of that id.
        """
        known = self._known.get(dataset_id)
        if known is not None and 0 <= self._clock() - known[1] < MAX_AGE_S:
            return known[0]
        dataset = await self._datasets.get(dataset_id)
        if dataset is None:
            raise NotFoundError("dataset", dataset_id)
        self.put(dataset)
        return dataset

    def at_hand(self, dataset_id: str) -> Dataset | None:
        """A dataset if it is cached, however long ago."""
        known = self._known.get(dataset_id)
        return known[0] if known else None

    def put(self, dataset: Dataset) -> None:
        """Take note of a dataset as it is now."""
        self._known[dataset.dataset_id] = (dataset, self._clock())
        self._known.move_to_end(dataset.dataset_id)
        while len(self._known) > MAX_DATASETS:
            self._known.popitem(last=False)

    def forget(self, dataset_id: str) -> None:
        """A dataset has changed; read it again when it is next asked for."""
        known = self._known.get(dataset_id)
        if known is not None:
            self._known[dataset_id] = (known[0], float("-inf"))

    def forget_all(self) -> None:
        """Any dataset may have changed."""
        for dataset_id in list(self._known):
            self.forget(dataset_id)

    async def config(self, dataset_id: str, version: int) -> dict[str, Any]:
        """A configuration as submitted; not to be changed by the caller."""
        return (await self.sized_config(dataset_id, version))[0]

    async def sized_config(self, dataset_id: str, version: int) -> tuple[dict[str, Any], int]:
        """A configuration, and how long its text is; see `config`.

        Raises:
            NotFoundError: there is none of that version.
        """
        key = (dataset_id, version)
        if key not in self._configs:
            text = await self._datasets.config(dataset_id, version)
            if text is None:
                raise NotFoundError("configuration", f"{dataset_id} version {version}")
            found = loads(text.encode()), len(text)
            self._configs[key] = found
            self._config_bytes += len(text)
            while len(self._configs) > MAX_CONFIGS or self._config_bytes > MAX_CONFIG_BYTES:
                _, (_, size) = self._configs.popitem(last=False)
                self._config_bytes -= size
            return found
        self._configs.move_to_end(key)
        return self._configs[key]
