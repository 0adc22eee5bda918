"""Dead letters: what parents have refused for good, for somebody to look at, repeat or drop."""

from __future__ import annotations

from collections.abc import Sequence

from iceprod.clock import Clock
from iceprod.model.federation import DeadLetter
from iceprod.model.paging import MAX_PAGE, Page, Slice
from iceprod.model.principal import Principal
from iceprod.services.authorization import check
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.store.base import AuditEntry, Store


class Letters:
    """Looks into the outbox; what is done to it stands in the audit trail."""

    def __init__(self, store: Store, *, outbox: Outbox, clock: Clock) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock

    async def select(self, principal: Principal, peer: str | None, page: Page) -> Slice[DeadLetter]:
        """The dead letters for a parent or for all, newest first."""
        check(principal, "site.dead_letters")
        return await self._store.outbox.dead(peer, page)

    async def retry(self, principal: Principal, numbers: Sequence[int]) -> int:
        """Queue letters again, behind all that waits; how many there were."""
        check(principal, "site.retry")
        known = await self._letters(numbers)
        done = [
            number
            for number, letter in known.items()
            if await self._outbox.revive(number, peer=letter.operation.peer)
        ]
        await self._note(principal, "site.retry", known, done)
        return len(done)

    async def discard(self, principal: Principal, numbers: Sequence[int]) -> int:
        """Drop letters: the parent is never told, and takes back what they ended; how many there were."""
        check(principal, "site.discard")
        known, now = await self._letters(numbers), self._clock()
        done = [number for number, letter in known.items() if await self._outbox.discard(letter, now=now)]
        await self._note(principal, "site.discard", known, done)
        return len(done)

    async def _letters(self, numbers: Sequence[int]) -> dict[int, DeadLetter]:
        """Letters by number, as they were written; those that there are not are left out."""
        wanted, cursor, found = set(numbers), None, dict[int, DeadLetter]()
        while wanted:
            part = await self._store.outbox.dead(None, Page(MAX_PAGE, cursor))
            found |= {letter.number: letter for letter in part.items if letter.number in wanted}
            cursor = part.next
            if cursor is None or len(found) == len(wanted):
                break
        return dict(sorted(found.items()))

    async def _note(
        self, principal: Principal, action: str, known: dict[int, DeadLetter], done: Sequence[int]
    ) -> None:
        peers = {number: known[number].operation.peer for number in done}
        for peer in sorted(set(peers.values())):
            numbers = [number for number in done if peers[number] == peer]
            await self._store.audit.add(
                AuditEntry(
                    at=self._clock(),
                    principal=f"{principal.kind}:{principal.id}",
                    action=action,
                    target=peer,
                    detail={"numbers": numbers},
                )
            )
