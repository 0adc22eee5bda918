"""Taking tasks from one parent.

What the answer to a pull holds becomes this site's own in an order in which it may be cut off
anywhere:

1. Nothing is kept: the parent takes back what is not named before the next pull.
2. The mirror of the dataset, of which there is one however often it is made.
3. The errands, under the ids that the next jobs will have.
4. The jobs, guarded by their number.

Errands without jobs get theirs at the next start, or before anything else is taken of their
dataset.  A task never is without an errand, and one whose errand is not open does not run
(`TaskService.wanted`).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import ConflictError, FormatError, IceProdError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, ErrandStatus, Operation, OperationKind, Original, Peer
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.resources import Offer, Requirements, Resources
from iceprod.model.task import task_id
from iceprod.services.mirrors import MOST_JOBS, Mirrors
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_child.appetite import appetite, covers
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.errands import operation
from iceprod.site_sync.as_child.mirroring import Mirroring
from iceprod.site_sync.as_child.nearby import Nearby
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.messages import Lent, Pull, Pulled, Shape
from iceprod.store.base import Store

LOOK_S: Final = 0.5
"""How long it may take until room that has come into being is offered."""
GAP_S: Final = 0.05
"""The least time between two looks, however much happens."""
REASK_S: Final = 1.0
"""How long a request is left to itself, whatever room has come into being since."""
REFUSED_S: Final = 60.0
"""How long nothing is taken after nothing could be kept of what was lent."""
_PAGE: Final = 1000
_COUNTED_S: Final = 5.0
"""For how long it is believed how many errands are open.  What ends meanwhile makes room only then."""

Seal = Callable[[Sequence[Lent]], Awaitable[list[str]]]

logger = structlog.get_logger(__name__)


class Taking:
    """Asks ``peer`` for what this site has ``room`` for, and makes it tasks of this site.

    ``renew`` names all errands to the parent, when nobody waits for the answer to a pull: before
    the first one, and after each that was not answered.  ``name`` is what this site is called,
    ``stirred`` is set whenever there may be more room.  Nothing is kept while somebody else has
    ``lock``.  ``seal`` makes of the tokens of tasks what may be written down, ``nearby`` knows of
    which of the parent's jobs files are here.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        store: Store,
        link: Calls,
        mirroring: Mirroring,
        mirrors: Mirrors,
        tasks: TaskService,
        outbox: Outbox,
        seal: Seal,
        nearby: Nearby,
        room: Callable[[], Counter[Offer]],
        renew: Callable[[], Awaitable[None]],
        stirred: asyncio.Event,
        lock: asyncio.Lock,
        clock: Clock,
        name: str,
        poll_s: float,
    ) -> None:
        self.peer = peer
        self._store = store
        self._link = link
        self._mirroring = mirroring
        self._mirrors = mirrors
        self._tasks = tasks
        self._outbox = outbox
        self._seal = seal
        self._nearby = nearby
        self._room = room
        self._renew = renew
        self._stirred = stirred
        self._lock = lock
        self._clock = clock
        self._name = name
        self._poll_s = poll_s
        self._held = 0
        self._counted_at = -math.inf
        self._is_unsure = True  # whether tasks may have been lent that are none of this site

    async def repair(self) -> None:
        """Make the jobs that were left unmade; errands whose mirror was dropped meanwhile go back."""
        after, by_dataset = None, dict[str, list[Errand]]()
        while errands := await self._store.errands.open(self.peer.name, after, _PAGE):
            for errand in errands:
                by_dataset.setdefault(errand.task_id.partition("-")[0], []).append(errand)
            after = errands[-1].task_id
            self._nearby.took(errand.task_id for errand in errands)
        for dataset_id, some in by_dataset.items():
            dataset = await self._store.datasets.get(dataset_id)
            if dataset is not None:
                await self._fill(dataset)
            else:
                now, body = self._clock(), {"reason": "its dataset is not kept here any more"}
                await self._outbox.add(
                    *(operation(each, OperationKind.RETURNED, body, at=now) for each in some)
                )

    async def step(self) -> None:
        """Take what there is, waiting for it; without room for anything, wait for room."""
        held = await self._count()
        shapes = self._shapes(held)
        if not shapes:
            await self._look_again()
            return
        if self._is_unsure:
            await self._renew()
        self._is_unsure = True
        pulled = await self._pull(shapes, held)
        if pulled is None:
            return
        try:
            kept = await self.keep(pulled.tasks)
        except ConflictError:
            await self.repair()
            raise
        self._is_unsure = kept < len(pulled.tasks)
        if not pulled.tasks:
            await asyncio.sleep(pulled.retry_after_s)
        elif not kept:
            await asyncio.sleep(REFUSED_S)

    async def keep(self, lent: Sequence[Lent]) -> int:
        """Make tasks of this site of those that were lent; of how many that went well."""
        if not lent:
            return 0
        async with self._lock:
            leases = [one.lease_id for one in lent]
            known = await self._store.errands.of_leases(self.peer.name, leases)
            by_dataset: dict[str, list[Lent]] = {}
            for one in lent:
                if one.lease_id not in known:
                    by_dataset.setdefault(one.dataset_id, []).append(one)
            kept, trouble = len(known), None
            for some in by_dataset.values():
                try:
                    kept += await self._keep_some(some)
                except IceProdError as exc:  # which is no reason to drop what is of other datasets
                    trouble = exc
            if trouble is not None:
                raise trouble
            return kept

    async def _count(self) -> int:
        """How many errands are open, which takes a while to count."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at > _COUNTED_S:
            counts = await self._store.errands.counts(self.peer.name)
            self._held, self._counted_at = counts.get(ErrandStatus.OPEN, 0), now
        return self._held

    async def _pull(self, shapes: list[Shape], held: int) -> Pulled | None:
        """What the parent lends; None if there is room of a new kind before it has answered."""
        message = Pull(shapes, self._poll_s, held, near=await self._nearby.jobs())
        loop = asyncio.get_running_loop()
        again_at = loop.time() + REASK_S
        asking = asyncio.ensure_future(self._link.call("site.pull", message, Pulled))
        try:
            while not asking.done():
                self._stirred.clear()
                await self._stir_or(asking)
                if asking.done() or loop.time() < again_at:
                    continue
                if not covers(shapes, self._shapes(held)):
                    return None
            return asking.result()
        finally:
            asking.cancel()

    async def _stir_or(self, asking: asyncio.Future[Pulled]) -> None:
        """Wait until something has happened that may make room, or the parent has answered."""
        stirring = asyncio.ensure_future(self._stirred.wait())
        either: set[asyncio.Future[Any]] = {asking, stirring}
        try:
            await asyncio.wait(either, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await asyncio.wait({asking}, timeout=GAP_S)
        finally:
            stirring.cancel()

    async def _look_again(self) -> None:
        self._stirred.clear()
        await asyncio.sleep(GAP_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._stirred.wait()

    def _shapes(self, held: int) -> list[Shape]:
        return appetite(self._room(), most=self.peer.most_tasks - held)

    async def _keep_some(self, lent: Sequence[Lent]) -> int:
        """As `keep`, for tasks of one dataset."""
        remote_id, version = lent[0].dataset_id, max(one.config_version for one in lent)
        try:
            dataset = await self._mirroring.dataset(remote_id, version)
        except NotFoundError as exc:  # nor will the parent renew their leases
            logger.info("lent tasks dropped", parent=self.peer.name, dataset=remote_id, reason=exc.message)
            return 0
        except FormatError as exc:
            await self._hand_back(lent, f"the configuration can't be read here: {exc.message}")
            return 0
        for start in range(0, len(lent), MOST_JOBS):
            some = lent[start : start + MOST_JOBS]
            dataset = await self._fill(dataset)
            await self._make(dataset, some)
            self._held += len(some)
        return len(lent)

    async def _make(self, dataset: Dataset, lent: Sequence[Lent]) -> None:
        now, first = self._clock(), dataset.jobs_made
        errands = [
            self._errand(one, task_id(dataset.dataset_id, first + place, 0), token, now)
            for place, (one, token) in enumerate(zip(lent, await self._seal(lent), strict=True))
        ]
        await self._store.errands.add(errands)
        kept = await self._store.errands.of_tasks([errand.task_id for errand in errands])
        is_ours = all(kept[errand.task_id].lease_id == errand.lease_id for errand in errands)
        wanted = [self._requirements(one) for one in lent]
        if not is_ours or not await self._mirrors.make_jobs(dataset, wanted):
            # Another process has or had the duty; it, or a later one, makes what is missing.
            raise ConflictError(f"dataset {dataset.dataset_id} gets jobs from somebody else")
        self._nearby.took(errand.task_id for errand in errands)

    async def _fill(self, dataset: Dataset) -> Dataset:
        """Make the jobs of errands that were written down before their jobs were made."""
        while True:
            dataset = await self._store.datasets.get(dataset.dataset_id) or dataset
            first = dataset.jobs_made
            task_ids = [task_id(dataset.dataset_id, first + place, 0) for place in range(MOST_JOBS)]
            if not await self._store.errands.of_tasks(task_ids[:1]):
                return dataset  # nor are there any of later jobs, for they are written together
            found = await self._store.errands.of_tasks(task_ids)
            last = max(place for place, each in enumerate(task_ids) if each in found)
            await self._mirrors.make_jobs(
                dataset, [await self._guessed(dataset, found.get(each)) for each in task_ids[: last + 1]]
            )
            closed = [each for each, errand in found.items() if errand.status is not ErrandStatus.OPEN]
            await self._tasks.change_all(TaskEvent.SUSPENDED, closed)

    async def _guessed(self, dataset: Dataset, errand: Errand | None) -> Requirements:
        return await self._mirrors.requirements(dataset, errand.original) if errand else Requirements()

    async def _hand_back(self, lent: Sequence[Lent], reason: str) -> None:
        now = self._clock()
        logger.warning("lent tasks refused", parent=self.peer.name, tasks=len(lent), reason=reason)
        await self._outbox.add(
            *(
                Operation(
                    operation_id=f"{one.lease_id}/{OperationKind.RETURNED}",
                    peer=self.peer.name,
                    kind=OperationKind.RETURNED,
                    task_id=one.task_id,
                    lease_id=one.lease_id,
                    at=now,
                    body={"reason": reason},
                )
                for one in lent
            )
        )

    def _errand(self, lent: Lent, own_id: str, token: str, now: float) -> Errand:
        return Errand(
            task_id=own_id,
            parent=self.peer.name,
            parent_task_id=lent.task_id,
            lease_id=lent.lease_id,
            token=token,
            original=Original(
                dataset_id=lent.original_dataset_id,
                dataset=lent.original_dataset,
                task_id=lent.original_task_id,
                job=lent.job,
                task_index=lent.task_index,
                name=lent.name,
                jobs_submitted=lent.jobs_submitted,
            ),
            taken_at=now,
        )

    def _requirements(self, lent: Lent) -> Requirements:
        """What the parent says that a task asks for; that it may run at this site, is settled."""
        need = lent.requirements
        return Requirements(
            resources=Resources(need.cpu, need.gpu, need.memory, need.disk, need.time),
            os=tuple(lent.os),
            site="" if lent.site == self._name else lent.site,
        )
