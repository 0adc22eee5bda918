"""The sites that lend tasks to this one: what runs for each of them, as long as it is joined."""

from __future__ import annotations

from collections.abc import Callable

from iceprod.model.federation import Peer
from iceprod.site_sync.calls import Calls

Connect = Callable[[Peer], Calls]


class Parents:
    """Takes tasks from every parent, tells what becomes of them, and hears what it changes."""

    def __init__(self) -> None:
        self.links: dict[str, Calls] = {}
