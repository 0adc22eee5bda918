"""Whose bytes went where: gathered in memory, added to the store every few seconds.

What was gathered and not yet added when a process is killed is lost, a few seconds' worth.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

from iceprod.clock import Clock
from iceprod.errors import InputError, StoreUnavailable
from iceprod.model.file import Direction, Flow, Usage
from iceprod.model.paging import Page, Slice
from iceprod.store.files import UsageFilter, UsageRepository

_FIELDS = frozenset(Flow.__dataclass_fields__)


def flow_text(flow: Flow) -> str:
    """A flow in one line of ASCII, as nginx writes it to its log."""
    return urlencode(asdict(flow))


def parse_flow(text: str) -> Flow:
    """The flow of such a line.

    Raises:
        InputError: it is none.
    """
    fields = dict(parse_qsl(text, keep_blank_values=True))
    try:
        return Flow(**{**fields, "direction": Direction(fields["direction"])})  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{text[:80]!r} does not say whose bytes they are") from None


def day_of(instant: float) -> str:
    """The day (UTC) of an instant, ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d")


class Accounting:
    """Adds up what was moved."""

    def __init__(self, usage: UsageRepository, *, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock
        self._gathered: dict[tuple[str, Flow], Usage] = {}
        self.bytes_moved = dict.fromkeys(Direction, 0)

    def count(self, flow: Flow, *, bytes_moved: int = 0, transfers: int = 0, at: float | None = None) -> None:
        """Take note of bytes, and of transfers that ended."""
        key = (day_of(self._clock() if at is None else at), flow)
        known = self._gathered.get(key) or Usage(*key, bytes_moved=0, transfers=0)
        self._gathered[key] = replace(
            known,
            bytes_moved=known.bytes_moved + bytes_moved,
            transfers=known.transfers + transfers,
        )
        self.bytes_moved[flow.direction] += bytes_moved

    async def save(self) -> None:
        """Add what was gathered to the store; it is kept for another try if that does not answer."""
        gathered, self._gathered = self._gathered, {}
        if not gathered:
            return
        try:
            await self._usage.add(list(gathered.values()))
        except StoreUnavailable as exc:
            # Whether it was added is not known: counted twice is worse than not at all.
            if exc.detail.get("outcome") != "unknown":
                for (_, flow), usage in gathered.items():
                    self._put_back(flow, usage)
            raise

    async def select(self, wanted: UsageFilter, page: Page) -> Slice[Usage]:
        """What was moved, as far as it is in the store, newest day first."""
        await self.save()
        return await self._usage.select(wanted, page)

    def _put_back(self, flow: Flow, usage: Usage) -> None:
        later = self._gathered.get((usage.day, flow))
        if later is not None:
            usage = replace(
                usage,
                bytes_moved=usage.bytes_moved + later.bytes_moved,
                transfers=usage.transfers + later.transfers,
            )
        self._gathered[usage.day, flow] = usage
