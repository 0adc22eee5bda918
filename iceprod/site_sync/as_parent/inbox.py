"""What children report: taken in message by message, every statement by the rules of `rulings`.

A message is answered when all that was applied is durable.  Of what stands in it nothing is in the
way of the rest: who is refused is told why, and nothing else comes of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from iceprod.errors import IceProdError, InputError
from iceprod.model.federation import ENDINGS, OperationKind
from iceprod.model.principal import Principal
from iceprod.model.task import Task
from iceprod.services.authorization import check
from iceprod.services.logs import LogService
from iceprod.services.reporting import Ending
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_parent import bodies
from iceprod.site_sync.as_parent.rulings import Result, Ruling, rule, rule_by_record
from iceprod.site_sync.messages import Outcome, Report, Reported, Statement
from iceprod.site_sync.registry import Registry
from iceprod.store.base import Store

_AT_ONCE: Final = 50
"""Statements that are dealt with side by side, where each takes steps of its own."""
_PLAIN: Final = frozenset({OperationKind.FINISHED, OperationKind.RETURNED})
"""What only ends an attempt; a failure has to be judged."""
_APPLIED: Final = Ruling(Result.APPLIED)
_TOLD: Final = 5
"""Statements of one message that the audit trail quotes."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Case:
    """A statement, and what is found about it."""

    statement: Statement
    task: Task | None = None
    body: bodies.Body | None = None
    ruling: Ruling | None = None

    @property
    def is_applied(self) -> bool:
        return self.ruling is not None and self.ruling.result is Result.APPLIED

    def refuse(self, reason: str) -> None:
        self.ruling = Ruling(Result.REFUSED, reason)


class Inbox:
    """Applies what children report; ``results`` counts statements by site and `Result`.

    That somebody has begun with a task is counted only, and told to the site that it is from: that it
    runs is known since it was lent.
    """

    def __init__(self, store: Store, *, tasks: TaskService, logs: LogService, registry: Registry) -> None:
        self._store = store
        self._tasks = tasks
        self._logs = logs
        self._registry = registry
        self.results: Counter[tuple[str, str]] = Counter()

    async def report(self, principal: Principal, message: Report) -> Reported:
        """Take in what a child reports.

        Raises:
            AccessDenied: it is no child, or no longer.
            StoreUnavailable: some of it may have been applied; repeating the message is harmless.
        """
        check(principal, "site.report")
        peer = await self._registry.child(principal, term=message.term)
        self._registry.touch(peer.name, waiting=message.waiting, lag_s=message.lag_s, dead=message.dead)
        cases = [_Case(statement) for statement in message.operations]
        for some in _in_turns(cases):
            await self._take_in(principal.holder, some)
        await self._note(peer.name, cases)
        return Reported([_outcome(case) for case in cases])

    async def _take_in(self, holder: str, cases: Sequence[_Case]) -> None:
        """Do what statements say that are true, the ends of attempts last, and rule on all."""
        plain, others = _parted(cases)
        await self._look(holder, others)
        await self._by_record(holder, others)
        by_kind: dict[OperationKind, list[_Case]] = {kind: [] for kind in OperationKind}
        for case in others:
            if case.is_applied:
                by_kind[case.statement.kind].append(case)
        await self._each(by_kind[OperationKind.STARTED], self._begin)
        await self._each(by_kind[OperationKind.LOG], self._keep_log)
        await self._end(holder, plain)
        await self._each(by_kind[OperationKind.FAILED], self._fail)
        await self._by_record(holder, cases)

    async def _look(self, holder: str, cases: Sequence[_Case]) -> None:
        """Rule on statements by their tasks as they stand, as far as that goes, and read them."""
        if not cases:
            return
        tasks = await self._store.tasks.among(list({case.statement.task_id for case in cases}))
        for case in cases:
            statement = case.statement
            case.task = tasks.get(statement.task_id)
            case.ruling = rule(statement.kind, holder=holder, lease_id=statement.lease_id, task=case.task)
            if case.ruling is None or case.is_applied:
                try:
                    case.body = bodies.read(statement.kind, statement.body)
                except InputError as error:
                    case.refuse(error.message)

    async def _by_record(self, holder: str, cases: Iterable[_Case]) -> None:
        """Rule on statements that nothing has ruled on: their leases hold no tasks, or are others'."""

        async def look(case: _Case) -> None:
            statement, tasks = case.statement, self._store.tasks
            case.ruling = rule_by_record(
                statement.kind,
                holder=holder,
                lease_id=statement.lease_id,
                attempts=await tasks.attempts(statement.task_id),
                task=await tasks.get(statement.task_id),
            )

        for some in _parts([case for case in cases if case.ruling is None]):
            await asyncio.gather(*map(look, some))
            await asyncio.sleep(0)  # a store that is at hand gives nobody else a turn

    async def _begin(self, case: _Case) -> None:
        if case.task is not None and isinstance(case.body, bodies.Started):
            await self._tasks.began(case.task, case.body.hostname)

    async def _keep_log(self, case: _Case) -> None:
        if case.ruling is not None and isinstance(case.body, bodies.Logged):
            task_id, attempt = case.statement.task_id, case.ruling.attempt
            await self._logs.keep(task_id, attempt, name=case.body.name, data=case.body.data)

    async def _fail(self, case: _Case) -> None:
        if case.task is not None and isinstance(case.body, bodies.Failed):
            error = case.body.error
            moved, _ = await self._tasks.attempt_failed(case.task, error.to_failure(), error.to_report())
            if moved is None:
                case.ruling = None

    async def _end(self, holder: str, cases: Sequence[_Case]) -> None:
        """End attempts, all in one transaction; one by one only if that can't be."""
        if not cases:
            return
        try:
            await self._end_together(holder, cases)
        except Exception as error:
            if isinstance(error, IceProdError) and error.retryable:
                raise
            await self._each(cases, lambda case: self._end_together(holder, [case]))

    async def _end_together(self, holder: str, cases: Sequence[_Case]) -> None:
        endings = [_ending(holder, case.statement, case.body) for case in cases]
        for case, was_held in zip(cases, await self._tasks.attempts_ended(endings), strict=True):
            if was_held:
                case.ruling = _APPLIED

    async def _each(self, cases: Sequence[_Case], do: Callable[[_Case], Awaitable[None]]) -> None:
        """Do something for each of some statements; one that can't be done is refused."""

        async def one(case: _Case) -> None:
            try:
                await do(case)
            except IceProdError as error:
                if error.retryable:
                    raise
                case.refuse(error.message)
            except Exception:
                # Sent again it would fail again, and everything behind it would wait for ever.
                logger.exception("statement of a site failed", statement=case.statement.id)
                case.refuse("an error of this site, which is in its log")

        for some in _parts(cases):
            await asyncio.gather(*map(one, some))

    async def _note(self, site: str, cases: Sequence[_Case]) -> None:
        """Count what came of a message, and keep in the audit trail what did not come to pass."""
        results = Counter(_ruling(case).result for case in cases)
        self.results.update({(site, str(result)): number for result, number in results.items()})
        bad = [case for case in cases if _ruling(case).result in (Result.LOST, Result.REFUSED)]
        if not bad:
            return
        detail: dict[str, Any] = {
            "lost": results[Result.LOST],
            "refused": results[Result.REFUSED],
            "leases_of_others": sum(_ruling(case).is_foreign for case in bad),
            # Who speaks of what is another's comes first.
            "some": [_quote(case) for case in sorted(bad, key=_harmlessness)[:_TOLD]],
        }
        await self._registry.audit(f"site:{site}", "site.report", site, **detail)


def _parts(cases: Sequence[_Case]) -> Iterator[Sequence[_Case]]:
    return (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))


def _in_turns(cases: Sequence[_Case]) -> Iterator[Sequence[_Case]]:
    """Statements in parts, so that the second that ends a lease comes when the first is dealt with."""
    while cases:
        now: list[_Case] = []
        later: list[_Case] = []
        ended = set[tuple[str, str]]()
        for case in cases:
            statement = case.statement
            if statement.kind in ENDINGS:
                lease = statement.task_id, statement.lease_id
                if lease in ended:
                    later.append(case)
                    continue
                ended.add(lease)
            now.append(case)
        yield now
        cases = later


def _parted(cases: Sequence[_Case]) -> tuple[list[_Case], list[_Case]]:
    """Statements that are true if a lease holds its task, of which nothing need be read; and the others.

    One that can't be understood is among the others: it may be that it was not the child's to make.
    """
    plain: list[_Case] = []
    others: list[_Case] = []
    for case in cases:
        if case.statement.kind in _PLAIN:
            try:
                case.body = bodies.read(case.statement.kind, case.statement.body)
            except InputError:
                others.append(case)
            else:
                plain.append(case)
        else:
            others.append(case)
    return plain, others


def _ending(holder: str, statement: Statement, body: bodies.Body | None) -> Ending:
    task_id, lease_id = statement.task_id, statement.lease_id
    if isinstance(body, bodies.Finished):
        return Ending(task_id, lease_id, holder, body.stats.to_report())
    return Ending(task_id, lease_id, holder, reason=body.reason if isinstance(body, bodies.Returned) else "")


def _ruling(case: _Case) -> Ruling:
    if case.ruling is None:
        raise AssertionError("every statement was ruled on")
    return case.ruling


def _harmlessness(case: _Case) -> int:
    ruling = _ruling(case)
    return 0 if ruling.is_foreign else 1 if ruling.result is Result.REFUSED else 2


def _quote(case: _Case) -> dict[str, str]:
    ruling, statement = _ruling(case), case.statement
    return {
        "kind": statement.kind,
        "task_id": statement.task_id,
        "result": ruling.result,
        "reason": ruling.reason[:200],
    }


def _outcome(case: _Case) -> Outcome:
    ruling = _ruling(case)
    return Outcome(case.statement.id, ruling.result, ruling.reason)
