"""Uploads as handlers and methods ask for them: begun, written to, watched, given up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    Unavailable,
)
from iceprod.model.file import Direction, Flow
from iceprod.model.principal import Principal
from iceprod.services import authorization
from iceprod.services.authorization import Scope
from iceprod.services.filestore import HandedOver
from iceprod.services.threads import Threads
from iceprod.services.transfers import Transfer, Transfers
from iceprod.services.uploads.digests import KnownDigests
from iceprod.services.uploads.ending import Ending
from iceprod.services.uploads.shelf import Held, Kept, Shelf
from iceprod.services.uploads.targets import Targets
from iceprod.services.uploads.values import (
    About,
    Announced,
    Begun,
    Holder,
    Part,
    Stage,
    UploadLimits,
    UploadView,
    check_checksums,
)
from iceprod.services.uploads.writing import Proof, Writing


class UploadService:
    """All uploads of the site."""

    def __init__(
        self,
        shelf: Shelf,
        targets: Targets,
        *,
        ending: Ending,
        run: Threads,
        transfers: Transfers,
        clock: Clock,
        limits: UploadLimits,
    ) -> None:
        self.shelf = shelf
        self.ending = ending
        self.run = run
        self.clock = clock
        self.limits = limits
        self._targets = targets
        self._transfers = transfers
        self._known = KnownDigests()
        self._under_way: set[Writing] = set()
        self._endings: set[asyncio.Task[None]] = set()
        # What follows on an upload that is whole; see `iceprod.services.uploads.keeper`.
        self.on_forwarding: Callable[[str], None] = lambda upload_id: None

    async def open(self) -> None:
        """Make the directories."""
        await self.run(self.shelf.open)

    async def end(self) -> None:
        """Keep what has come by requests that nobody waits for any more, because the process ends."""
        for writing in list(self._under_way):
            with suppress(IceProdError):  # a full disk, say: what came since it was last kept is lost
                await self.break_off(writing, "the server ends")

    def close(self) -> None:
        """Let the threads end."""
        self.run.close()

    async def create(self, principal: Principal, announced: Announced, *, has_secret: bool = False) -> Begun:
        """A new upload; one of no bytes is whole at once.

        Raises:
            NotFoundError, AccessDenied, QuotaExceeded: the caller may not put a file there.
            InputError: there can be no such place, or a checksum is none.
            TooLarge, Unavailable: it is over the limit, or there is no room.
            RateLimited: the user has too many open.
        """
        about, secret = await self._announce(principal, announced, has_secret=has_secret)
        upload_id = await self.run(lambda: self.shelf.create(about))
        if announced.length == 0 and announced.part is not Part.PARTIAL and not has_secret:
            held = await self.hold(upload_id)
            try:
                await self.settle(held)
            finally:
                await self.run(held.release)
        return Begun(self.view(await self.load(upload_id)), secret)

    async def _announce(
        self, principal: Principal, announced: Announced, *, has_secret: bool
    ) -> tuple[About, str]:
        authorization.check(principal, "upload.create")
        checksums = check_checksums(announced.checksums)
        holder = await self._targets.admit(principal, announced.target, size=announced.length)
        self.shelf.check_space(announced.length or 0)
        await self._check_quota(holder, announced.target, announced.length or 0)
        secret = ids.new_secret("iup") if has_secret else ""
        about = About(
            target=announced.target,
            length=announced.length,
            checksums=checksums,
            metadata=announced.metadata,
            protocol=announced.protocol,
            part=announced.part,
            concat=announced.concat,
            kind=principal.kind,
            caller=principal.id,
            groups=tuple(sorted(principal.groups)),
            lease_id=principal.lease_id,
            holder=holder,
            created_at=self.clock(),
            secret=ids.digest(secret) if secret else "",
        )
        return about, secret

    async def may_create(self, principal: Principal, announced: Announced) -> None:
        """Raise what `create` would raise."""
        await self._announce(principal, announced, has_secret=False)

    async def _check_quota(self, holder: Holder, target: str, size: int, *, upload_id: str = "") -> None:
        """What others of the same holder have announced and not brought yet counts, too."""
        if "://" in target:  # it does not stay here
            return

        def announced_bytes() -> tuple[int, int]:
            whole = of_dataset = 0
            for kept in self.shelf.all(holder.user):
                about = kept.about
                if about.stage is Stage.OPEN and about.is_local and kept.upload_id != upload_id:
                    length = about.length or kept.mark.offset
                    whole += length
                    of_dataset += length if about.holder.dataset_id == holder.dataset_id else 0
            return whole, of_dataset

        others, of_dataset = await self.run(announced_bytes)
        await self._targets.check_quota(holder, more_bytes=others + size, more_of_dataset=of_dataset + size)

    async def begin(
        self,
        principal: Principal,
        upload_id: str,
        *,
        offset: int,
        size: int | None,
        length: int | None = None,
        sha256: str = "",
        proof: Proof | None = None,
    ) -> Writing:
        """Begin to write at ``offset``: ``size`` bytes, if that is known.

        ``length`` and ``sha256`` are those of the whole file, where they were not told before.

        Raises:
            NotFoundError: there is no such upload of the caller's, or (``reason`` ``gone``) not any more.
            AccessDenied: it is made of others.
            ConflictError: another request is writing to it, or it goes on at another offset.
            InputError: another SHA-256 was told before.
            TooLarge, QuotaExceeded, Unavailable, LeaseLost: as of `create`.
        """
        await self.may_begin(principal, upload_id, offset=offset, size=size, length=length)
        held = await self.hold(upload_id)
        try:
            self._check_begin(Kept(upload_id, held.about, held.mark), offset=offset, size=size, length=length)
            await self._take_note(held, principal, length=length, sha256=sha256)
            return self.writing(held, size=size, proof=proof)
        except BaseException:
            await self.run(held.release)
            raise

    async def may_begin(
        self, principal: Principal, upload_id: str, *, offset: int, size: int | None, length: int | None
    ) -> None:
        """Raise what `begin` would raise, but for another request that is writing."""
        kept = await self.mine(principal, "upload.write", upload_id)
        self._check_begin(kept, offset=offset, size=size, length=length)
        self.shelf.check_space(size or 0)
        await self.check_place(kept, principal, length=length or offset + (size or 0))

    async def check_place(self, kept: Kept, principal: Principal | None = None, *, length: int = 0) -> None:
        """Refuse to go on with a file that could not be put in its place any more.

        Raises:
            IceProdError: as of `create`.
        """
        about = kept.about
        whole = length if about.length is None else about.length
        await self._targets.admit(principal or about.principal, about.target, size=None)
        await self._check_quota(about.holder, about.target, whole, upload_id=kept.upload_id)

    async def drop(self, source: str) -> None:
        """Throw away the file that the web server in front has put at ``source``."""
        draft = await self.handed_over(source)
        await self.run(draft.discard)

    async def handed_over(self, source: str) -> HandedOver:
        """The file that the web server in front has put at ``source``; discard it when it was taken.

        Raises:
            InputError: it puts no files there.
            Unavailable: it is not there any more.
        """
        try:
            return await self.run(lambda: self.shelf.tree.take_over(source))
        except NotFoundError:
            raise Unavailable("the upload got lost on its way; send it again") from None

    def _check_begin(self, kept: Kept, *, offset: int, size: int | None, length: int | None) -> None:
        about = kept.about
        if about.part is Part.FINAL:
            raise AccessDenied("an upload that is made of others takes no bytes of its own")
        self.check_alive(kept)
        if about.stage is not Stage.OPEN or offset != kept.mark.offset:
            raise ConflictError(
                f"the upload goes on at {kept.mark.offset}", reason="offset", offset=kept.mark.offset
            )
        if length is not None and about.length not in (None, length):
            raise ConflictError(f"a length of {about.length} was announced before", reason="length")
        most = self._most(about.length if about.length is not None else length)
        if offset + (size or 0) > most or (length is not None and length < offset):
            raise TooLarge(f"the upload may have {most} bytes", limit_bytes=most)

    def _most(self, length: int | None) -> int:
        """How long an upload may become that has that length."""
        most = self.limits.max_bytes
        if length is not None and length > most:
            raise TooLarge(f"a file may have {most} bytes", limit_bytes=most)
        return most if length is None else length

    async def _take_note(self, held: Held, principal: Principal, *, length: int | None, sha256: str) -> None:
        """Write down who goes on with it (another attempt of the same task), and what is told now."""
        about = held.about
        if sha256 and about.checksums.get("sha256", sha256) != sha256:
            raise InputError("another SHA-256 was announced before")
        if sha256 and "sha256" not in about.checksums:
            about = about.after(checksums={**about.checksums, "sha256": sha256})
        if about.length is None and length is not None:
            about = about.after(length=length)
        if about.caller == principal.id and about.lease_id != principal.lease_id:
            about = about.after(lease_id=principal.lease_id)
        if about is not held.about:
            await self.run(lambda: held.change(about))

    def writing(
        self, held: Held, *, size: int | None = None, proof: Proof | None = None, is_moved: bool = True
    ) -> Writing:
        """Begin to write to an upload that is held; ``is_moved`` unless the bytes are here already."""
        writing = Writing(
            held,
            run=self.run,
            clock=self.clock,
            known=self._known,
            transfer=self._transfer(held, size) if is_moved else None,
            most=self._most(held.about.length),
            proof=proof,
            may_grow=self._may_grow(held) if is_moved and size is None else None,
            when_over=self._under_way.discard,
        )
        self._under_way.add(writing)
        return writing

    def _may_grow(self, held: Held) -> Callable[[int], Awaitable[None]]:
        """What refuses an upload of so many bytes that are more than may be kept."""
        about, upload_id = held.about, held.upload_id
        return lambda size: self._check_quota(about.holder, about.target, size, upload_id=upload_id)

    def _transfer(self, held: Held, size: int | None) -> Transfer:
        holder = held.about.holder
        flow = Flow(
            user=holder.user,
            direction=Direction.IN,
            service="upload",
            group=holder.group,
            dataset_id=holder.dataset_id,
        )
        shown = held.about.target.partition("?")[0]  # what follows may sign it
        return self._transfers.begin(flow, label=shown or "a part", size_bytes=size)

    async def finish(self, writing: Writing) -> UploadView:
        """Let what came count; an upload that is whole by that is checked and put in its place.

        Raises:
            InputError: it is not what was announced; ``reason`` is ``checksum_mismatch`` where
                only what came last is lost.
            IceProdError: it can't be put in its place.
        """
        held = writing.held
        try:
            await writing.end()
            await self.settle(held, writing)
            return self.view(Kept(held.upload_id, held.about, held.mark))
        finally:
            await writing.release()
            self._tell(held)

    async def finish_here(self, writing: Writing) -> UploadView:
        """As `finish`, of an upload that is as long as what came.

        Raises:
            IceProdError: as of `finish`.
        """
        held = writing.held
        try:
            await writing.end()
            changed = held.about.after(length=held.mark.offset)
            await self.run(lambda: held.change(changed))
        except BaseException:
            await writing.release()
            raise
        return await self.finish(writing)

    async def break_off(self, writing: Writing, reason: str) -> None:
        """The client has gone: keep what can be kept, even if nobody waits for that any more."""
        ending = asyncio.create_task(self._end_as_it_is(writing, reason))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        await asyncio.shield(ending)

    async def _end_as_it_is(self, writing: Writing, reason: str) -> None:
        try:
            await writing.break_off(reason)
        finally:
            await writing.release()

    async def settle(self, held: Held, writing: Writing | None = None) -> None:
        """Go on with an upload that may be whole (`Ending.settle`)."""
        await self.ending.settle(held, writing.digests() if writing else None)
        if writing is None:
            self._tell(held)

    def _tell(self, held: Held) -> None:
        if held.about.stage is Stage.FORWARDING:
            self.on_forwarding(held.upload_id)

    async def status(self, principal: Principal, upload_id: str) -> UploadView:
        """How an upload is doing; one that was left between its last byte and its place goes on first.

        Raises:
            NotFoundError: there is no such upload of the caller's.
            ConflictError: another request is bringing it to its place.
            IceProdError: it can't be put there.
        """
        kept = await self.mine(principal, "upload.read", upload_id)
        if kept.is_between:
            await self.go_on(upload_id)
            kept = await self.load(upload_id)
        return self.view(kept)

    async def go_on(self, upload_id: str) -> None:
        """Take the next steps with an upload that was left between two.

        Raises:
            IceProdError: as of `status`.
        """
        held = await self.hold(upload_id)
        try:
            await self.settle(held)
        finally:
            await self.run(held.release)

    async def cancel(self, principal: Principal, upload_id: str) -> None:
        """Throw an upload away.  What is in its place stays there.

        Raises:
            NotFoundError: there is no such upload of the caller's.
            ConflictError: another request is writing to it.
        """
        await self.mine(principal, "upload.cancel", upload_id)
        held = await self.hold(upload_id)
        try:
            await self.run(held.remove)
        finally:
            await self.run(held.release)

    async def list(self, principal: Principal, *, limit: int) -> list[UploadView]:
        """The caller's uploads (an administrator's list has everybody's).

        First those that are not over, then those that are, the latest first.
        """
        scope = authorization.check(principal, "upload.read")
        user = None if scope is Scope.ANY else (await self._targets.holder(principal)).user

        def gather() -> list[Kept]:
            kept = itertools.chain(self.shelf.all(user), self.shelf.over(user))
            mine = (each for each in kept if scope is Scope.ANY or _is_of(each.about, principal))
            return list(itertools.islice(mine, limit))

        found = await self.run(gather)
        return [self.view(kept) for kept in found]

    async def hold(self, upload_id: str) -> Held:
        """Let nobody else write to an upload (`Shelf.hold`)."""
        return await self.run(lambda: self.shelf.hold(upload_id))

    async def load(self, upload_id: str) -> Kept:
        """An upload as it is on the disk (`Shelf.load`)."""
        return await self.run(lambda: self.shelf.load(upload_id))

    async def mine(self, principal: Principal, action: str, upload_id: str) -> Kept:
        """An upload that the caller may do something with.

        Raises:
            NotFoundError: there is none.
        """
        scope = authorization.check(principal, action)
        kept = await self.load(upload_id)
        if scope is not Scope.ANY and not _is_of(kept.about, principal):
            raise NotFoundError("upload", upload_id)
        return kept

    def check_alive(self, kept: Kept) -> None:
        """Refuse to go on with an upload that is over.

        Raises:
            NotFoundError: with ``reason`` ``gone``.
        """
        about = kept.about
        is_rusty = about.stage is Stage.OPEN and self.clock() >= kept.expires_at(self.limits.expire_s)
        if is_rusty or about.stage in (Stage.EXPIRED, Stage.FAILED):
            error = NotFoundError("upload", kept.upload_id)
            error.detail["reason"] = "gone"
            error.detail["why"] = about.error or "nothing came for too long"
            raise error

    def view(self, kept: Kept) -> UploadView:
        """An upload as it is shown."""
        return kept.view(self.limits.expire_s)


def _is_of(about: About, principal: Principal) -> bool:
    return (about.kind, about.caller) == (principal.kind, principal.id)
