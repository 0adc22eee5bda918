"""Files of tasks that are run for other sites, as the file store sees them.

The areas of a mirror dataset hold two kinds of files.  What a task has stored here goes to its own
site by an operation of the outbox, and may be touched by nobody before it is there.  Everything
else is a copy of what the parent has, and follows that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from iceprod.clock import Clock
from iceprod.model.federation import Errand, ErrandStatus, Operation, OperationKind
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import task_id
from iceprod.services.arriving import Place
from iceprod.services.filestore import FileFacts
from iceprod.site_sync.as_child.errands import operation
from iceprod.site_sync.files.doors import spot_of
from iceprod.site_sync.files.fetching import FileFetching
from iceprod.site_sync.files.sending import FileSending
from iceprod.store.base import Store

Queue = Callable[[Operation], Awaitable[None]]
"""`iceprod.site_sync.as_child.outbox.Outbox.add`, of one."""


class SiteFiles:
    """What the file store knows of other sites (`iceprod.services.foreign_files.ForeignFiles`)."""

    def __init__(
        self, store: Store, *, fetching: FileFetching, sending: FileSending, queue: Queue, clock: Clock
    ) -> None:
        self._store = store
        self._fetching = fetching
        self.sending = sending
        self._queue = queue
        self._clock = clock

    async def stored(self, principal: Principal, place: Place, facts: FileFacts) -> None:
        """Have a file sent to its own site."""
        errand = await self._errand(principal, place)
        if errand is not None:
            await self._queue(file_operation(errand, place, facts, at=self._clock()))

    async def delete(self, principal: Principal, place: Place) -> bool:
        """Delete a file at its own site, and what is to be sent of it; whether there was one."""
        errand = await self._errand(principal, place)
        return errand is not None and await self.sending.delete(errand, spot_of(place.names))

    async def bring(self, principal: Principal, place: Place) -> None:
        """Have a file here as its own site has it."""
        errand = await self._errand(principal, place)
        if errand is not None:
            await self._fetching.bring(errand, place)

    async def close(self) -> None:
        """Give up what is coming."""
        await self._fetching.close()

    async def _errand(self, principal: Principal, place: Place) -> Errand | None:
        """The errand that a file is about; None where there is none that is open.

        What an administrator puts into the area of a whole dataset is about none.
        """
        if principal.kind is PrincipalKind.TASK:
            wanted = principal.id
        elif place.area.job_index is not None:
            wanted = task_id(place.dataset_id, place.area.job_index, 0)
        else:
            return None
        errand = (await self._store.errands.of_tasks([wanted])).get(wanted)
        return errand if errand is not None and errand.status is ErrandStatus.OPEN else None


def file_operation(errand: Errand, place: Place, facts: FileFacts, *, at: float) -> Operation:
    """What is to be told of a file that is here; the file itself is read when it is sent."""
    spot, sha256 = spot_of(place.names), facts.digest.hex()
    body = {"area": spot.area, "path": spot.path, "size": facts.size_bytes, "sha256": sha256}
    mark = hashlib.sha256(f"{spot.area}/{spot.path} {sha256}".encode()).hexdigest()[:32]
    return operation(errand, OperationKind.FILE, body, at=at, mark=mark)
