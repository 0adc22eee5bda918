"""What was refused to other sites, and to those who would be one: for the audit trail.

Whoever is refused may ask again at once, so what is the same is counted for a minute and
written down once.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.store.base import AuditEntry, AuditRepository

_MOST: Final = 1000
"""Different refusals that are kept between two times; of more it is only told how many they were."""
_LONGEST: Final = 300


class Refusals:
    """Counts refusals until they are saved."""

    def __init__(self, audit: AuditRepository, *, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def note(self, who: str, action: str, reason: str) -> None:
        """Somebody was refused an action; ``who`` as far as that is known."""
        key = who[:_LONGEST], action, reason[:_LONGEST]
        if key not in self._counts and len(self._counts) >= _MOST:
            key = "", "", "more than can be told"
        self._counts[key] += 1

    def note_call(self, principal: Principal, action: str, error: IceProdError) -> None:
        """A call was refused: kept if a site made it, or whoever wanted to be taken for one."""
        if principal.kind is PrincipalKind.SITE or principal.certificate or action.startswith("site."):
            self.note(principal.id or principal.certificate, action, error.message)

    def note_token(self, error: IceProdError) -> None:
        """The token of a site was shown that is none, or no longer."""
        self.note("", "site.token", error.message)

    async def save(self) -> int:
        """Write down what was noted, and how often it was; how many entries that were.  A duty."""
        written = 0
        while self._counts:
            who, action, reason = key = next(iter(self._counts))
            times = self._counts.pop(key)
            detail = {"action": action, "reason": reason, "times": times}
            try:
                await self._audit.add(AuditEntry(self._clock(), who, "site.refused", who, detail))
            except BaseException:
                self._counts[key] += times
                raise
            written += 1
        return written
