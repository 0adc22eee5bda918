"""Sending files of errands to their parents, each before what is told behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    LeaseLost,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.federation import Errand, ErrandStatus, Operation, OperationKind
from iceprod.model.file import Direction, Flow
from iceprod.movers.base import Outgoing
from iceprod.services.copies import Copies
from iceprod.services.files import FileService
from iceprod.services.filestore import OpenedFile
from iceprod.services.reporting import Report
from iceprod.services.transfers import Transfer, Transfers
from iceprod.site_sync.as_child.errands import failed, operation
from iceprod.site_sync.files.doors import Doorway, Spot
from iceprod.store.base import Store

TRIES: Final = 5
"""How often a file is sent that the parent finds broken when it comes."""
_PIECE: Final = 1024 * 1024
_PAGE: Final = 500
_REFUSALS: Final = (AccessDenied, NotFoundError, ConflictError, TooLarge, InputError)
_LATER: Final = frozenset({408, 425, 429})


class Result(StrEnum):
    """What became of a file that was to be sent."""

    APPLIED = "applied"  # the parent has it, or what has taken its place since is told later
    LOST = "lost"  # nobody wants it any more
    REFUSED = "refused"  # it never can be sent


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one, and why; ``instead`` is to be told where it was refused."""

    result: Result
    reason: str = ""
    instead: Operation | None = None


class FileSending:
    """Brings what tasks have stored here to the sites that they are run for."""

    def __init__(
        self,
        store: Store,
        files: FileService,
        transfers: Transfers,
        *,
        doorway: Doorway,
    ) -> None:
        self._store = store
        self._files = files
        self._copies = Copies(files.tree)
        self._transfers = transfers
        self._doorway = doorway
        self._failures: Counter[str] = Counter()

    async def send_file(self, told: Operation) -> Sent:
        """Bring one file to the parent; again and again is harmless.

        Raises:
            Unavailable: the parent does not answer, or has no room: later.
        """
        found = await self._store.errands.of_leases(told.peer, [told.lease_id])
        errand = found.get(told.lease_id)
        if errand is None or errand.status is ErrandStatus.LOST:
            return Sent(Result.LOST, "its errand is over")
        try:
            sent = await self._judged(told, errand)
        except Unavailable as exc:
            sent = self._failed(told, exc)
        self._failures.pop(told.operation_id, None)
        if sent.result is Result.REFUSED:
            return replace(sent, instead=instead_of(told, errand, sent.reason))
        return sent

    async def _judged(self, told: Operation, errand: Errand) -> Sent:
        try:
            return await self._send(told, errand)
        except _REFUSALS as exc:
            is_over = await self._is_over(told, errand)
            return Sent(Result.LOST if is_over else Result.REFUSED, exc.message)

    async def _is_over(self, told: Operation, errand: Errand) -> bool:
        """Whether the parent refuses whatever is done with this file, since the lease is over.

        Raises:
            Unavailable: it does not say.
        """
        location, access = await self._doorway.way(errand, _spot(told))
        try:
            await self._doorway.mover.stat(location, access)
        except ConflictError:
            return True
        except _REFUSALS:
            pass
        return False

    def _failed(self, told: Operation, exc: Unavailable) -> Sent:
        """Leave to later what may go well then; give up what the parent has found wrong too often."""
        status = exc.detail.get("status", 0)
        if 400 <= status < 500 and status not in _LATER:
            self._failures[told.operation_id] += 1
            if self._failures[told.operation_id] >= TRIES:
                return Sent(Result.REFUSED, exc.message)
        raise exc

    async def _send(self, told: Operation, errand: Errand) -> Sent:
        spot = _spot(told)
        names = spot.names_here(errand)
        try:
            opened = await self._files.run(lambda: self._files.tree.read(names))
        except NotFoundError:
            return Sent(Result.REFUSED, "the file is gone from this site")
        try:
            # Who has replaced it since has told so behind this, or was not answered.
            is_it = opened.facts.digest.hex() == told.body["sha256"]
            if not is_it or opened.facts.is_copy:
                return Sent(Result.APPLIED)
            await self._put(errand, spot, opened)
        finally:
            opened.close()
        facts = opened.facts
        await self._files.run(lambda: self._copies.mark(names, facts))
        return Sent(Result.APPLIED)

    async def _put(self, errand: Errand, spot: Spot, opened: OpenedFile) -> None:
        facts, flow = opened.facts, await self._flow(errand)
        location, access = await self._doorway.way(errand, spot, sent_bytes=facts.size_bytes)
        label = f"{spot.area}/{spot.path} to {errand.parent}"
        with self._transfers.begin(flow, label=label, size_bytes=facts.size_bytes) as transfer:
            pieces = self._pieces(opened, transfer)
            body = Outgoing(facts.size_bytes, pieces, {"sha256": facts.digest.hex()})
            await self._doorway.mover.put(location, access, body)

    async def _pieces(self, opened: OpenedFile, transfer: Transfer) -> AsyncIterator[bytes]:
        offset, size = 0, opened.facts.size_bytes
        while offset < size:
            data = await self._files.run(partial(opened.read, offset, min(_PIECE, size - offset)))
            if not data:
                raise InputError("a part of the file got lost on the disk of this site")
            offset += len(data)
            yield data
            await transfer.moved(len(data))

    async def _flow(self, errand: Errand) -> Flow:
        dataset = await self._files.dataset_of("/".join(Spot("dataset_temp", "x").names_here(errand)))
        owner, group = ("", "") if dataset is None else (dataset.owner, dataset.group)
        dataset_id = "" if dataset is None else dataset.dataset_id
        return Flow(owner, Direction.OUT, "files", group=group, dataset_id=dataset_id, peer=errand.parent)

    async def delete(self, errand: Errand, spot: Spot) -> bool:
        """Delete a file at the parent, and send nothing of it any more; whether the parent had it.

        Raises:
            LeaseLost: the parent does not let the errand have its files any more.
            Unavailable: it does not answer.
        """
        location, access = await self._doorway.way(errand, spot)
        try:
            await self._doorway.mover.delete(location, access)
            was_there = True
        except NotFoundError:
            was_there = False
        except (AccessDenied, ConflictError) as exc:
            raise LeaseLost(f"{errand.parent} has ended the errand: {exc.message}") from None
        except TransferFailed as exc:
            raise Unavailable(f"{errand.parent} can't be told: {exc.message}", retry_after_s=10) from None
        await self._forget(errand, spot)
        return was_there

    async def _forget(self, errand: Errand, spot: Spot) -> None:
        after = 0
        while page := await self._store.outbox.next(errand.parent, after, _PAGE):
            numbers = [each.number for each in page if _is_of(each.operation, errand, spot)]
            if numbers:
                await self._store.outbox.done(errand.parent, numbers)
            after = page[-1].number


def _spot(told: Operation) -> Spot:
    return Spot(str(told.body["area"]), str(told.body["path"]))


def _is_of(told: Operation, errand: Errand, spot: Spot) -> bool:
    is_mine = told.kind is OperationKind.FILE and told.lease_id == errand.lease_id
    return is_mine and (told.body["area"], told.body["path"]) == (spot.area, spot.path)


def instead_of(told: Operation, errand: Errand, reason: str) -> Operation:
    """What is told in the place of a file that can't be sent: without it, the task has failed.

    So the parent decides what becomes of the task, and can't take its end for a good one; if the
    lease is over, it says so.
    """
    failure = Failure(FailureKind.TRANSFER, f"{told.body['path']}: {reason}")
    return operation(errand, OperationKind.FAILED, {"error": failed(failure, Report())}, at=told.at)
