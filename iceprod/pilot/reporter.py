"""Tells the server how attempts ended: batched, repeated for as long as it takes, kept on disk meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iceprod.errors import Unavailable
from iceprod.pilot.assignment import Assignment, Result
from iceprod.pilot.client import Call, Caller, RpcError, back_off_s

logger = logging.getLogger("iceprod.pilot")

MOST_REPORTS = 50
MOST_BYTES = 4 * 1024 * 1024
LINGER_S = 0.05  # for so long a report waits for others, unless there is a hurry


@dataclass(frozen=True, slots=True)
class Report:
    """The calls about one attempt, of which the last one decides."""

    lease_id: str
    calls: tuple[Call, ...]
    size_bytes: int = 0

    @classmethod
    def of(cls, assignment: Assignment, result: Result) -> Report:
        """The report of a result: its logs, then how it ended."""
        logs = [
            ("pilot.log", {**assignment.lease, "name": name, "data": data})
            for name, data in result.logs.items()
        ]
        size = sum(map(len, result.logs.values()))
        return cls(assignment.lease_id, (*logs, result.call(assignment)), size)


class Journal:
    """Reports that the server has not taken yet, as files that a later pilot finds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: set[str] = set()

    def keep(self, report: Report) -> None:
        """Write ``report`` down, unless that has been done."""
        if report.lease_id in self._kept:
            return
        with contextlib.suppress(OSError):  # a full disk must not end the pilot: it still has the report
            self._directory.mkdir(exist_ok=True)
            path = self._path(report.lease_id)
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"lease_id": report.lease_id, "calls": report.calls}))
            part.replace(path)
            self._kept.add(report.lease_id)

    def forget(self, lease_id: str) -> None:
        """The server knows."""
        if lease_id in self._kept:
            self._path(lease_id).unlink(missing_ok=True)
            self._kept.discard(lease_id)

    def _path(self, lease_id: str) -> Path:
        return self._directory / f"{lease_id.encode().hex()[:128]}.json"

    @staticmethod
    def read(directory: Path) -> list[Report]:
        """What an earlier pilot left in ``directory``; broken files are passed over."""
        found = []
        for path in sorted(directory.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                raw = json.loads(path.read_text())
                calls = tuple((str(method), dict(params)) for method, params in raw["calls"])
                found.append(Report(str(raw["lease_id"]), calls, path.stat().st_size))
        return found


class Reporter:
    """Sends reports one batch at a time; what comes in meanwhile makes the next batch.

    ``settled`` is told of each lease about which the server has nothing more to learn.
    A claim may go along with a batch: whoever has something to report has room again.
    """

    def __init__(self, caller: Caller, journal: Journal, settled: Callable[[str], None]) -> None:
        self._caller = caller
        self._journal = journal
        self._settled = settled
        self._waiting: list[Report] = []
        self._sending: list[Report] = []
        self._failures = 0
        self._is_claiming = False
        self._rider: tuple[Callable[[], Call], asyncio.Future[Any]] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, report: Report, *, in_a_hurry: bool = True) -> None:
        """Send ``report`` when its turn comes; without a hurry, a moment later with others.

        There is none while a claim is on its way: what it brings decides.
        """
        self._waiting.append(report)
        self._idle.clear()
        if in_a_hurry and not self._is_claiming:
            self._news.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LINGER_S, self._news.set)

    def hurry(self) -> None:
        """Send what waits."""
        if self._waiting:
            self._news.set()

    def drop(self, lease_id: str) -> None:
        """Forget the report of a lease that is lost."""
        self._waiting = [report for report in self._waiting if report.lease_id != lease_id]
        self._journal.forget(lease_id)

    @property
    def is_sending(self) -> bool:
        """Whether there are reports, and the server takes them."""
        return not self._idle.is_set() and not self._failures

    async def along(self, call: Callable[[], Call]) -> Any:
        """The result of ``call()``, which is made and sent with the next batch; None if there is none.

        One at a time may go along.

        Raises:
            RpcError: the server answered with an error.
            Unavailable: no proper answer came.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._rider = (call, future)
        return await future

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._later is not None:
                self._later.cancel()
                self._later = None
            group = self._sending = self._next_group()
            pause_s = 0.0
            try:
                if group:  # what there was may have been dropped meanwhile
                    pause_s = self._judge(group, await self._send(_calls(group)))
                    self._failures = self._failures + 1 if pause_s else 0
            except Unavailable as exc:
                logger.warning("could not report: %s", exc)
                pause_s = back_off_s(self._failures)
                self._failures += 1
                self._put_back(group)
            self._sending = []
            if self._rider is not None and (pause_s or not self._waiting):
                _settle(self._rider[1], None)
                self._rider = None
            if not self._waiting:
                self._idle.set()
            elif pause_s:
                await asyncio.sleep(pause_s)
            if self._waiting and self._later is None:
                self._news.set()

    async def _send(self, calls: list[Call]) -> list[Any]:
        """The answers to ``calls``, and to whoever rides along its own."""
        if self._rider is None:
            return await self._caller.batch(calls)
        (call, future), self._rider = self._rider, None
        self._is_claiming = True
        try:
            *answers, answer = await self._caller.batch([*calls, call()])
        except Unavailable as exc:
            _settle(future, exc)
            raise
        finally:
            self._is_claiming = False
        _settle(future, answer)
        return answers

    async def flushed(self) -> None:
        """Wait until everything is sent."""
        await self._idle.wait()

    def keep_rest(self) -> bool:
        """Write down what is not sent; whether there was any."""
        rest = [*self._sending, *self._waiting]
        for report in rest:
            self._journal.keep(report)
        return bool(rest)

    def _next_group(self) -> list[Report]:
        size = 0
        group: list[Report] = []
        for report in itertools.islice(self._waiting, MOST_REPORTS):
            size += report.size_bytes
            if group and size > MOST_BYTES:
                break
            group.append(report)
        del self._waiting[: len(group)]
        return group

    def _put_back(self, group: Sequence[Report]) -> None:
        for report in group:
            self._journal.keep(report)
        self._waiting[:0] = group

    def _judge(self, group: Sequence[Report], answers: Sequence[Any]) -> float:
        """Settle what was answered, put back what is worth another try; how long to wait before it."""
        pause_s = 0.0
        rest = iter(answers)
        again = []
        for report in group:
            last = [next(rest) for _ in report.calls][-1]
            if isinstance(last, RpcError) and last.may_retry:
                again.append(report)
                pause_s = max(pause_s, back_off_s(2, at_least_s=last.retry_after_s))
                continue
            if isinstance(last, RpcError):
                logger.warning("the report on lease %s was refused: %s", report.lease_id, last)
            self._journal.forget(report.lease_id)
            self._settled(report.lease_id)
        self._put_back(again)
        return pause_s


def _calls(group: Sequence[Report]) -> list[Call]:
    return [call for report in group for call in report.calls]


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # nobody waits for it any more
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
