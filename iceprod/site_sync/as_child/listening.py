"""Hearing what one parent has changed, and holding on to the leases that it has given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from iceprod.errors import FormatError, IceProdError, NotFoundError
from iceprod.model.federation import Errand
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.mirroring import Mirroring
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.messages import MOST_LEASES, Heard, Listen, Renew, Renewed
from iceprod.store.base import Store

_PAGE: Final = 1000

logger = structlog.get_logger(__name__)


class Listening:
    """Listens to ``parent``, and renews all errands that are open.

    While that is done nobody may have ``lock``, so that nothing that is being taken is missed.
    """

    def __init__(
        self,
        parent: str,
        *,
        store: Store,
        link: Calls,
        mirroring: Mirroring,
        settling: Settling,
        lock: asyncio.Lock,
        poll_s: float,
        renew_s: float,
    ) -> None:
        self._parent = parent
        self._store = store
        self._link = link
        self._mirroring = mirroring
        self._settling = settling
        self._lock = lock
        self._poll_s = poll_s
        self._renew_s = renew_s
        self._stale: set[str] = set()  # datasets of the parent that may be other than they are here
        self._has_missed = True  # what was said before, or meanwhile, and perhaps to nobody
        self.is_renewed = asyncio.Event()

    async def listen(self) -> None:
        """Wait until something has changed, and follow it."""
        if self._has_missed:
            self._stale |= await self._remote_ids(await self._open())
            self._has_missed = False
        await self._refresh()
        try:
            heard = await self._link.call("site.listen", Listen(self._poll_s), Heard)
        except IceProdError:
            self._has_missed = True
            raise
        self._stale |= set(heard.datasets)
        if heard.taken:
            await self.renew()

    async def keep_renewing(self, *, is_settled: bool = False) -> None:
        """Renew, and wait until it is time for it again."""
        await self.renew(is_settled=is_settled)
        await asyncio.sleep(self._renew_s)

    async def renew(self, *, is_settled: bool = False) -> None:
        """Renew the leases of all that is run for the parent, and stop what it has taken away.

        With ``is_settled`` nobody here waits for the answer to a pull, nor begins with one meanwhile.
        """
        async with self._lock:
            # Once all was answered that was queued before, no end of an errand is on its way.
            is_all_told = (await self._store.outbox.backlog(self._parent)).waiting == 0
            errands = await self._open()
            lost: list[str] = []
            for some in _parts(errands):
                is_all = len(errands) <= MOST_LEASES
                message = Renew(some, is_all=is_all, is_settled=is_settled and is_all)
                lost += (await self._link.call("site.renew", message, Renewed)).lost
            await self._settling.lose(self._parent, lost, with_told=is_all_told)
        self.is_renewed.set()

    async def _open(self) -> list[Errand]:
        found: list[Errand] = []
        while part := await self._store.errands.open(
            self._parent, found[-1].task_id if found else None, _PAGE
        ):
            found += part
        return found

    async def _refresh(self) -> None:
        """Bring the mirrors up to date of which it is not known that they are."""
        while self._stale:
            remote_id = self._stale.pop()
            try:
                await self._mirroring.refresh(remote_id)
            except (NotFoundError, FormatError) as exc:
                # Who needs it asks again when something of it is lent.
                logger.info("dataset not refreshed", parent=self._parent, id=remote_id, reason=exc.message)
            except IceProdError:
                self._stale.add(remote_id)
                raise

    async def _remote_ids(self, errands: Sequence[Errand]) -> set[str]:
        """The parent's datasets that these are of."""
        found = set()
        for dataset_id in {errand.task_id.partition("-")[0] for errand in errands}:
            mirror = await self._store.datasets.get(dataset_id)
            if mirror is not None:
                found.add(mirror.source.partition("/")[2])
        return found


def _parts(errands: Sequence[Errand]) -> list[list[tuple[str, str]]]:
    """Leases message by message; one without any if there are none, to say that."""
    leases = [(errand.parent_task_id, errand.lease_id) for errand in errands]
    return [leases[start : start + MOST_LEASES] for start in range(0, len(leases), MOST_LEASES)] or [[]]
