"""Bringing files of parents here: once however many want one, and whole or not at all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    LeaseLost,
    NotFoundError,
    TransferFailed,
    Unavailable,
)
from iceprod.model.federation import Errand
from iceprod.model.file import Direction, Flow
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS
from iceprod.movers.base import Facts, Span
from iceprod.movers.base import Incoming as Body
from iceprod.services.arriving import Place
from iceprod.services.copies import Copies
from iceprod.services.files import FileService
from iceprod.services.filestore import Draft, FileFacts, Incoming
from iceprod.services.threads import is_cancelled, stopping
from iceprod.services.transfers import Transfers
from iceprod.site_sync.files.doors import Doorway, spot_of
from iceprod.store.base import Store
from iceprod.store.files import FileFilter

logger = structlog.get_logger(__name__)

PATIENCE_S: Final = 45.0
"""How long a reader is kept waiting; a pilot then asks again, and finds what came meanwhile going on."""
FRESH_S: Final = 10.0
"""For how long the parent is not asked again about a file."""
AT_ONCE: Final = 8
"""How many bodies come from one parent at the same time."""
_REMEMBERED: Final = 10_000
_TWINS: Final = 5
_AWAY: Final = (TransferFailed, Unavailable)
_REFUSED: Final = (AccessDenied, ConflictError)


@dataclass(frozen=True, slots=True)
class _Coming:
    """A file that somebody waits for, asked for by one errand for all."""

    errand: Errand
    began_at: float
    task: asyncio.Task[None]


class FileFetching:
    """Keeps copies of parents' files as their originals are."""

    def __init__(
        self, store: Store, files: FileService, transfers: Transfers, *, doorway: Doorway, clock: Clock
    ) -> None:
        self._store = store
        self._files = files
        self._copies = Copies(files.tree)
        self._transfers = transfers
        self._doorway = doorway
        self._clock = clock
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._coming: dict[tuple[str, ...], _Coming] = {}
        self._asked: OrderedDict[tuple[str, ...], float] = OrderedDict()

    async def close(self) -> None:
        """Give up what is coming."""
        tasks = [coming.task for coming in self._coming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def bring(self, errand: Errand, place: Place) -> None:
        """Have the file here as the parent has it; nothing is here where that has none.

        What a task has stored here and the parent does not have yet stays as it is.

        Raises:
            LeaseLost: the parent does not let the errand have its files any more.
            Unavailable: the parent does not answer, or the file takes a while to come.
            QuotaExceeded, TooLarge: there is no room for it here.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not await self._is_settled(errand, place):
            coming = self._coming.get(place.names) or self._begin(errand, place)
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(coming.task)
            except TimeoutError:
                raise Unavailable(f"the file is on its way from {errand.parent}", retry_after_s=5) from None
            except LeaseLost:
                if coming.errand.lease_id == errand.lease_id:
                    raise
            except asyncio.CancelledError:
                if coming.task.cancelled() and not is_cancelled():
                    raise stopping() from None
                raise
            if coming.errand.lease_id == errand.lease_id:
                return

    async def _is_settled(self, errand: Errand, place: Place) -> bool:
        """Whether what is here may be used without asking the parent."""
        here = await self._files.run(lambda: self._copies.facts(place.names))
        if here is None:
            return False
        return not here.is_copy or self._is_fresh(errand, place)

    def _is_fresh(self, errand: Errand, place: Place) -> bool:
        # What was there when the errand was lent is there for it, however short ago that was.
        asked_at = self._asked.get(place.names, float("-inf"))
        return asked_at >= errand.taken_at and 0 <= self._clock() - asked_at < FRESH_S

    def _begin(self, errand: Errand, place: Place) -> _Coming:
        now = self._clock()
        task = asyncio.create_task(self._follow(errand, place, now), name=f"fetch {place.path}")
        coming = self._coming[place.names] = _Coming(errand, now, task)

        def over(task: asyncio.Task[None]) -> None:
            del self._coming[place.names]
            if not task.cancelled():
                task.exception()  # told to those who wait, if anybody still does

        task.add_done_callback(over)
        return coming

    async def _follow(self, errand: Errand, place: Place, now: float) -> None:
        """Make what is here like what the parent has."""
        here = await self._files.run(lambda: self._copies.facts(place.names))
        if here is not None and not here.is_copy:
            return
        try:
            there = await self._ask(errand, place)
        except _AWAY as exc:
            if here is None or here.modified_at < errand.taken_at:
                raise Unavailable(
                    f"{errand.parent} can't be asked for the file now: {exc.message}", retry_after_s=10
                ) from None
            logger.info("a copy is used unasked", parent=errand.parent, path=place.path, reason=exc.message)
            return
        if there is None:
            if here is not None and await self._files.run(lambda: self._copies.remove(place.names, here)):
                await self._files.forget(place)
            return
        if here is None or here.digest.hex() != there.checksums.get("sha256"):
            await self._replace(errand, place, there, here)
        self._take_note(place, now)

    async def _ask(self, errand: Errand, place: Place) -> Facts | None:
        """What the parent knows of the file; None if that has none."""
        location, access = await self._doorway.way(errand, spot_of(place.names))
        try:
            return await self._doorway.mover.stat(location, access)
        except NotFoundError:
            return None
        except _REFUSED as exc:
            raise LeaseLost(f"{errand.parent} has ended the errand: {exc.message}") from None

    def _take_note(self, place: Place, now: float) -> None:
        self._asked[place.names] = now
        self._asked.move_to_end(place.names)
        while len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)

    async def _replace(self, errand: Errand, place: Place, there: Facts, here: FileFacts | None) -> None:
        """Put what the parent has in the place of the copy that is here, if one is."""
        size = there.size_bytes or 0
        self._files.check_size(size)
        room = self._files.room(place)
        draft: Draft | None = None
        try:
            await room.grow(to_bytes=size)
            draft = await self._twin(place, there) or await self._fetched(errand, place)
            await self._put(place, draft, here)
        finally:
            room.release()
            if draft is not None:
                await self._files.run(draft.discard)

    async def _put(self, place: Place, draft: Draft, here: FileFacts | None) -> None:
        note = await self._files.run(lambda: self._files.arrivals.note(place.names, ANONYMOUS))
        if await self._files.run(lambda: self._copies.put(draft, place.names, instead_of=here)):
            facts = FileFacts(draft.size_bytes, 0.0, draft.digest, is_copy=True)
            await self._files.register(ANONYMOUS, place, facts)
        await self._files.run(lambda: note.unlink(missing_ok=True))

    async def _twin(self, place: Place, there: Facts) -> Draft | None:
        """The same bytes, where they are here under another name: stored by a task that this one needed."""
        digest = there.checksums.get("sha256")
        if digest is None:
            return None
        wanted = FileFilter(dataset_id=place.dataset_id, sha256=digest)
        for known in (await self._store.files.select(wanted, Page(_TWINS))).items:
            area, *rest = known.name.split("/")
            names = (area, place.dataset_id, *rest)
            found = await self._files.run(partial(self._copies.same, names, bytes.fromhex(digest)))
            if found is not None:
                return found
        return None

    async def _fetched(self, errand: Errand, place: Place) -> Draft:
        """The file as the parent sends it, whole and with the digest that it tells."""
        draft = await self._files.run(self._files.tree.begin)
        try:
            with _told(errand):
                there = await self._receive_all(errand, place, draft)
                _check(draft, there)
        except BaseException:
            await self._files.run(draft.discard)
            raise
        return draft

    async def _receive_all(self, errand: Errand, place: Place, draft: Incoming) -> Facts:
        """Write all that comes to ``draft``, going on where a body broke off; what the parent says of it."""
        there: Facts | None = None
        while True:
            before = draft.size_bytes
            try:
                async with self._turns[errand.parent], self._body(errand, place, draft.size_bytes) as body:
                    if there is not None and not body.facts.is_same(there):
                        raise TransferFailed("the file has changed meanwhile")  # noqa: TRY301
                    there = body.facts
                    await self._receive(errand, place, draft, body)
                    return there
            except TransferFailed:
                if there is None or not there.validator or draft.size_bytes == before:
                    raise

    @asynccontextmanager
    async def _body(self, errand: Errand, place: Place, offset: int) -> AsyncIterator[Body]:
        location, access = await self._doorway.way(errand, spot_of(place.names))
        async with self._doorway.mover.fetch(location, access, span=Span(offset)) as body:
            yield body

    async def _receive(self, errand: Errand, place: Place, draft: Incoming, body: Body) -> None:
        flow = Flow(
            user=place.owner,
            direction=Direction.IN,
            service="files",
            group=place.group,
            dataset_id=place.dataset_id,
            peer=errand.parent,
        )
        label = f"{place.path} from {errand.parent}"
        with self._transfers.begin(flow, label=label, size_bytes=body.length) as transfer:
            while piece := await body.read():
                self._files.check_size(draft.size_bytes + len(piece))
                await self._files.run(partial(draft.write, piece))
                await transfer.moved(len(piece))


@contextmanager
def _told(errand: Errand) -> Iterator[None]:
    """Tell readers of a body that did not come."""
    try:
        yield
    except _REFUSED as exc:
        raise LeaseLost(f"{errand.parent} has ended the errand: {exc.message}") from None
    except (TransferFailed, NotFoundError, InputError) as exc:
        raise Unavailable(
            f"the file did not come from {errand.parent}: {exc.message}", retry_after_s=5
        ) from None


def _check(draft: Draft, there: Facts) -> None:
    if (draft.size_bytes, draft.digest.hex()) != (there.size_bytes, there.checksums.get("sha256")):
        raise TransferFailed("what came is not what was sent")
