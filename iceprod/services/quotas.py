"""How much may be kept for whom, asked before a body is read.

A limit is that which was set for the user, group or dataset itself; else that for whoever has
no own; else that of the settings.  What is kept are the files of the catalogue that lie here.
What uploads under way in this process may add is counted with it (`Reservation`); other processes
know of it when it is there.  So a limit is passed by at most what the other processes hold
reserved for the same holder at that moment; what they have stored since counts at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import InputError, NotFoundError, QuotaExceeded
from iceprod.model.file import Quota, Stored
from iceprod.model.principal import Principal
from iceprod.services import authorization
from iceprod.services.catalogue import Catalogue
from iceprod.store.base import AuditEntry, Store

KINDS: Final = ("user", "group", "dataset")
KNOWN_S: Final = 5.0
"""How long limits are believed that another process may have changed."""

Holder = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one holder may keep and what it keeps; ``reserved_bytes`` are of uploads under way here.

    ``source`` tells whose limit it is: ``own``, ``default`` (set for whoever has none), or
    ``settings``.
    """

    quota: Quota
    stored: Stored
    source: str
    reserved_bytes: int = 0


class Reservation:
    """Room for what an upload may add, until it is released."""

    def __init__(self, quotas: Quotas, holders: Sequence[Holder]) -> None:
        self._quotas = quotas
        self._holders = holders
        self._bytes = 0
        self._files = 0

    async def grow(self, *, to_bytes: int, files: int = 1) -> None:
        """Reserve more, if it is more.

        Raises:
            QuotaExceeded: there is not so much left; what was reserved stays so.
        """
        more_bytes, more_files = max(0, to_bytes - self._bytes), max(0, files - self._files)
        if not more_bytes and not more_files:
            return
        # First taken, then checked: of two at the same moment both see the other.
        self._take(more_bytes, more_files)
        try:
            await self._quotas.check_holders(self._holders, more_bytes=0, more_files=0)
        except BaseException:
            self._take(-more_bytes, -more_files)
            raise

    def release(self) -> None:
        """Give it back; harmless when it was."""
        self._take(-self._bytes, -self._files)

    def _take(self, size_bytes: int, files: int) -> None:
        self._bytes += size_bytes
        self._files += files
        for holder in self._holders:
            self._quotas.reserve_for(holder, size_bytes, files)


class Quotas:
    """Limits, and whether there is room within them.

    ``defaults`` are the bytes of the settings by kind; 0 is any amount.
    """

    def __init__(
        self, store: Store, catalogue: Catalogue, *, clock: Clock, defaults: Mapping[str, int]
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        self._defaults = {kind: Quota(kind, "", defaults.get(kind) or None) for kind in KINDS}
        self._reserved: defaultdict[Holder, list[int]] = defaultdict(lambda: [0, 0])
        self._set: dict[Holder, Quota] = {}
        self._read_at = float("-inf")

    # Before uploads

    async def check(
        self, *, owner: str = "", group: str = "", dataset_id: str = "", more_bytes: int, more_files: int = 1
    ) -> None:
        """Refuse what would be more than may be kept; an empty name is nobody.

        Raises:
            QuotaExceeded: as it says; ``detail`` has the limit and what is kept.
        """
        await self.check_holders(
            _holders(owner, group, dataset_id), more_bytes=more_bytes, more_files=more_files
        )

    @asynccontextmanager
    async def reserve(
        self,
        *,
        owner: str = "",
        group: str = "",
        dataset_id: str = "",
        more_bytes: int,
        more_files: int = 1,
    ) -> AsyncIterator[Reservation]:
        """Keep room for an upload as long as it is under way; of an unknown size it grows.

        Raises:
            QuotaExceeded: there is not so much left.
        """
        async with self.room(owner=owner, group=group, dataset_id=dataset_id) as room:
            await room.grow(to_bytes=more_bytes, files=more_files)
            yield room

    @asynccontextmanager
    async def room(
        self, *, owner: str = "", group: str = "", dataset_id: str = ""
    ) -> AsyncIterator[Reservation]:
        """A reservation of nothing yet."""
        reservation = self.hold(owner=owner, group=group, dataset_id=dataset_id)
        try:
            yield reservation
        finally:
            reservation.release()

    def hold(self, *, owner: str = "", group: str = "", dataset_id: str = "") -> Reservation:
        """The same for who releases it otherwise than by leaving a context."""
        return Reservation(self, _holders(owner, group, dataset_id))

    async def check_holders(self, holders: Sequence[Holder], *, more_bytes: int, more_files: int) -> None:
        """See `check`."""
        limits = await self._limits()
        limited = [(holder, quota) for holder in holders if (quota := self._of(limits, holder)[0]).is_limit]
        kept = await asyncio.gather(*(self._store.files.stored(*holder) for holder, _ in limited))
        for (holder, quota), stored in zip(limited, kept, strict=True):
            reserved = self._reserved.get(holder, (0, 0))
            _check(quota, stored, reserved[0] + more_bytes, reserved[1] + more_files)

    def reserve_for(self, holder: Holder, size_bytes: int, files: int) -> None:
        """Count what a reservation has taken or given back."""
        sums = self._reserved[holder]
        sums[0] += size_bytes
        sums[1] += files
        if not any(sums):
            del self._reserved[holder]

    # For callers

    async def allowance(self, principal: Principal, kind: str, holder: str) -> Allowance:
        """What one holder may keep, and keeps.

        Raises:
            NotFoundError: there is no such holder, or none that the caller may know of.
        """
        scope = authorization.check(principal, "quota.get")
        await self._check_holder(principal, kind, holder, is_all=scope is authorization.Scope.ANY)
        return await self._allowance((kind, holder))

    async def listed(self, principal: Principal) -> list[Allowance]:
        """What the caller and the caller's groups may keep; for an administrator all limits.

        Those are the limits that were set, and those of the settings where nothing else holds
        for whoever has no own.
        """
        if authorization.check(principal, "quota.list") is not authorization.Scope.ANY:
            holders = [("user", principal.id), *(("group", group) for group in sorted(principal.groups))]
            return [await self._allowance(holder) for holder in holders]
        limits = await self._limits()
        holders = sorted({*limits, *((kind, "") for kind in KINDS)})
        return [await self._allowance(holder) for holder in holders]

    async def set(self, principal: Principal, quota: Quota) -> None:
        """Set a limit, or forget it where it has neither bytes nor files.

        Raises:
            InputError: the kind is none, or a number is negative.
            NotFoundError: there is no such user or dataset.
        """
        authorization.check(principal, "quota.set")
        if min(quota.bytes_most or 0, quota.files_most or 0) < 0:
            raise InputError("a limit is not negative")
        if quota.holder:
            await self._check_holder(principal, quota.kind, quota.holder, is_all=True)
        elif quota.kind not in KINDS:
            raise InputError(f"limits are for {', '.join(KINDS)}, not {quota.kind[:20]!r}")
        await self._store.usage.set_quota(quota)
        self._read_at = float("-inf")
        detail = {"bytes_most": quota.bytes_most, "files_most": quota.files_most}
        target = f"{quota.kind}:{quota.holder}"
        await self._store.audit.add(AuditEntry(self._clock(), principal.id, "quota.set", target, detail))

    async def _check_holder(self, principal: Principal, kind: str, holder: str, *, is_all: bool) -> None:
        if kind not in KINDS:
            raise InputError(f"limits are for {', '.join(KINDS)}, not {kind[:20]!r}")
        if kind == "dataset":
            dataset = await self._catalogue.get(holder)
            if not is_all and dataset.owner != principal.id and dataset.group not in principal.groups:
                raise NotFoundError("dataset", holder)
        elif kind == "user" and is_all and await self._store.accounts.user(holder) is None:
            raise NotFoundError("user", holder)
        elif kind == "group" and (len(holder) > 200 or not holder.isprintable()):
            raise InputError("that is no name of a group")
        elif not is_all and holder not in (principal.groups if kind == "group" else {principal.id}):
            raise NotFoundError(kind, holder)

    async def _allowance(self, holder: Holder) -> Allowance:
        quota, source = self._of(await self._limits(), holder)
        stored = await self._store.files.stored(*holder)
        reserved = self._reserved.get(holder, (0, 0))[0]
        return Allowance(quota, stored, source, reserved)

    def _of(self, limits: Mapping[Holder, Quota], holder: Holder) -> tuple[Quota, str]:
        """The limit that holds for somebody, and whose it is."""
        kind, name = holder
        if name and holder in limits:
            return limits[holder], "own"
        found = limits.get((kind, ""))
        return (self._defaults[kind], "settings") if found is None else (found, "default")

    async def _limits(self) -> Mapping[Holder, Quota]:
        now = self._clock()
        if not 0 <= now - self._read_at < KNOWN_S:
            self._set = {(quota.kind, quota.holder): quota for quota in await self._store.usage.quotas()}
            self._read_at = now
        return self._set


def _holders(owner: str, group: str, dataset_id: str) -> list[Holder]:
    named = zip(KINDS, (owner, group, dataset_id), strict=True)
    return [(kind, name) for kind, name in named if name]


def _check(quota: Quota, stored: Stored, more_bytes: int, more_files: int) -> None:
    for what, most, kept, more in (
        ("bytes", quota.bytes_most, stored.bytes_kept, more_bytes),
        ("files", quota.files_most, stored.files_kept, more_files),
    ):
        if most is not None and kept + more > most:
            raise QuotaExceeded(
                f"{stored.kind} {stored.holder} may keep {most} {what} and keeps {kept};"
                f" {more} more, with what is under way, are too many",
                kind=stored.kind,
                holder=stored.holder,
                what=what,
                most=most,
                kept=kept,
                more=more,
            )
