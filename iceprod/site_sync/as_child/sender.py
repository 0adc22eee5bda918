"""Telling one parent what is in the outbox: in order, one message at a time, and files beside it.

An operation stays in the outbox until its outcome was followed here, so that a message may
be cut off anywhere and is sent again.  One that the parent can't take is found by halving the
message, and put aside.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from iceprod.clock import Clock
from iceprod.errors import InputError, TooLarge
from iceprod.model.federation import ENDINGS, Operation, OperationKind, Queued
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.logs import LogTexts
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.files.queue import FileQueue
from iceprod.site_sync.files.sending import Result as FileResult
from iceprod.site_sync.files.sending import Sent
from iceprod.site_sync.messages import MOST_OPERATIONS, Outcome, Report, Reported, Statement
from iceprod.store.base import Store

MOST_BYTES: Final = 4_000_000
"""Length of a message, unless one statement alone is longer."""
LOOK_S: Final = 2.0
"""How long something may lie in the outbox that another process has put there without being heard."""
_PAGE: Final = MOST_OPERATIONS
_FARTHEST: Final = 20 * _PAGE

SendFile = Callable[[Operation], Awaitable[Sent]]

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """An operation, how it is stated, and when the log that it is about was kept."""

    queued: Queued
    statement: Statement
    kept_at: float = 0.0


class Sender:
    """Sends what is queued for ``parent``; ``filled`` is set when there is something.

    ``results`` counts operations by kind and by what became of them.
    """

    def __init__(
        self,
        parent: str,
        *,
        store: Store,
        link: Calls,
        outbox: Outbox,
        settling: Settling,
        send_file: SendFile,
        filled: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._parent = parent
        self._store = store
        self._link = link
        self._outbox = outbox
        self._settling = settling
        self._send_file = send_file
        self._files = FileQueue(self._file)
        self._filled = filled
        self._clock = clock
        self._logs = LogTexts(store)
        self._most = MOST_OPERATIONS
        self.results: Counter[tuple[OperationKind, str]] = Counter()

    async def step(self, *, only: Container[str] | None = None) -> None:
        """Send a message, and go on with files; if there is nothing to do, wait for something.

        With ``only``, nothing is told but of these leases.
        """
        self._filled.clear()
        free = await self._free(only)
        if free:
            await self._message(free)
        else:
            await self._files.wait(self._filled, at_most_s=LOOK_S)
        self._files.check()

    async def close(self) -> None:
        """Break off files that are under way."""
        await self._files.close()

    async def _free(self, only: Container[str] | None) -> list[Queued]:
        """What may be told now; looked for behind what waits for files, but not for ever far."""
        queued: list[Queued] = []
        while len(queued) < _FARTHEST:
            after = queued[-1].number if queued else 0
            part = await self._store.outbox.next(self._parent, after, _PAGE)
            queued += part
            wanted = [one for one in queued if only is None or one.operation.lease_id in only]
            free = self._files.go_on(wanted)
            if free or len(part) < _PAGE:
                return free
        return []

    async def _message(self, queued: Sequence[Queued]) -> None:
        told, gone = await self._next(queued)
        if gone:
            await self._store.outbox.done(self._parent, gone)
        if not told:
            return
        try:
            answer = await self._link.call("site.report", await self._report(told), Reported)
        except (InputError, TooLarge) as exc:
            await self._refused(told, exc)
            return
        self._most = min(MOST_OPERATIONS, self._most * 2)
        await self._settle(told, {outcome.id: outcome for outcome in answer.outcomes})

    async def _next(self, queued: Sequence[Queued]) -> tuple[list[_Told], list[int]]:
        """What goes into the next message, and the numbers of operations about logs that are gone."""
        told: list[_Told] = []
        gone: list[int] = []
        room = MOST_BYTES
        for one in queued[: self._most]:
            stated = await self._stated(one)
            if stated is None:
                gone.append(one.number)
                continue
            room -= len(msgspec.json.encode(stated.statement))
            if room < 0 and told:
                break
            told.append(stated)
        return told, gone

    async def _stated(self, queued: Queued) -> _Told | None:
        operation = queued.operation
        body, kept_at = dict(operation.body), 0.0
        if operation.kind is OperationKind.LOG:
            kept_at = await self._logs.kept_at(operation)
            found = await self._logs.body(operation)
            if found is None:
                return None
            body = found
        statement = Statement(
            id=operation.operation_id,
            kind=operation.kind,
            task_id=operation.task_id,
            lease_id=operation.lease_id,
            age_s=max(0.0, self._clock() - operation.at),
            body=body,
        )
        return _Told(queued, statement, kept_at)

    async def _report(self, told: Sequence[_Told]) -> Report:
        backlog = await self._store.outbox.backlog(self._parent)
        lag_s = 0.0 if backlog.oldest_at is None else max(0.0, self._clock() - backlog.oldest_at)
        return Report(
            [one.statement for one in told],
            waiting=max(0, backlog.waiting - len(told)),
            lag_s=lag_s,
            dead=backlog.dead,
        )

    async def _refused(self, told: Sequence[_Told], exc: InputError | TooLarge) -> None:
        """The message as a whole was refused: send less of it, down to the one that is the reason."""
        if len(told) == 1:
            await self._bury(told[0].queued, exc.message)
        else:
            self._most = len(told) // 2

    async def _settle(self, told: Sequence[_Told], outcomes: dict[str, Outcome]) -> None:
        """Follow what became of operations, before they leave the outbox."""
        ended, lost, done = list[str](), list[str](), list[_Told]()
        for one in told:
            operation, outcome = one.queued.operation, outcomes.get(one.statement.id)
            if outcome is None:
                continue  # it was not read: it stays where it is
            self.results[operation.kind, outcome.result] += 1
            if outcome.result == "lost":
                lost.append(operation.lease_id)
            elif outcome.result not in ("applied", "repeated"):
                await self._bury(one.queued, outcome.reason or outcome.result)
                continue
            elif operation.kind in ENDINGS:
                ended.append(operation.lease_id)
            done.append(one)
        await self._settling.end(self._parent, ended)
        await self._settling.lose(self._parent, lost, with_told=True)
        await self._drop(done)

    async def _drop(self, done: Sequence[_Told]) -> None:
        """Take operations out, but for logs of which there is more to tell by now."""
        old = [one for one in done if not await self._has_grown(one)]
        await self._store.outbox.done(self._parent, [one.queued.number for one in old])
        # Who kept one meanwhile found it queued, and queued it no more.
        await self._outbox.add(*[one.queued.operation for one in old if await self._has_grown(one)])

    async def _has_grown(self, told: _Told) -> bool:
        operation = told.queued.operation
        is_log = operation.kind is OperationKind.LOG
        return is_log and await self._logs.kept_at(operation) > told.kept_at

    async def _file(self, queued: Queued) -> None:
        sent = await self._send_file(queued.operation)
        self.results[OperationKind.FILE, str(sent.result)] += 1
        if sent.result is FileResult.REFUSED:
            if sent.instead is not None:
                await self._tell_instead(queued, sent)
            await self._bury(queued, sent.reason)
            return
        if sent.result is FileResult.LOST:
            await self._settling.lose(self._parent, [queued.operation.lease_id], with_told=True)
        await self._store.outbox.done(self._parent, [queued.number])

    async def _tell_instead(self, queued: Queued, sent: Sent) -> None:
        """Say something else than how the task ended, which would be wrong without the file."""
        if sent.instead is None:
            return
        await self._outbox.add(sent.instead)
        lease_id, after = queued.operation.lease_id, queued.number
        while behind := await self._store.outbox.next(self._parent, after, _PAGE):
            wrong = [
                one.number
                for one in behind
                if one.operation.lease_id == lease_id
                and one.operation.kind in ENDINGS
                and one.operation.operation_id != sent.instead.operation_id
            ]
            await self._store.outbox.done(self._parent, wrong)
            after = behind[-1].number

    async def _bury(self, queued: Queued, reason: str) -> None:
        operation = queued.operation
        logger.warning(
            "a statement was refused",
            parent=self._parent,
            kind=str(operation.kind),
            task=operation.task_id,
            reason=reason,
        )
        await self._store.outbox.bury(self._parent, queued.number, reason, now=self._clock())
