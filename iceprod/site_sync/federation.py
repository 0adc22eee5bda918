"""All that one process knows of other sites, as handlers and RPC methods are given it."""

from __future__ import annotations

from dataclasses import dataclass

from iceprod.site_sync.errands import Errands
from iceprod.site_sync.outbox import Outbox
from iceprod.site_sync.parents import Parents


@dataclass(frozen=True, slots=True)
class Federation:
    """As a child: ``errands`` and the ``outbox`` of what is told about them, and the ``parents``."""

    errands: Errands
    outbox: Outbox
    parents: Parents
