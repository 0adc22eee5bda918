"""Uploads in three steps: announced with size and checksum, sent once to a path, asked about.

The path holds a secret, so that whoever was given it needs no other credential (a web server in
front logs paths, which is why it is good for one file and a short time, and is kept as a digest).
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from iceprod import ids
from iceprod.errors import ConflictError, IceProdError, InputError, NotFoundError, TooLarge
from iceprod.model.principal import Principal
from iceprod.services.filestore import HandedOver
from iceprod.services.uploads.service import UploadService
from iceprod.services.uploads.shelf import Held, Kept
from iceprod.services.uploads.values import Announced, Begun, Stage, UploadView
from iceprod.services.uploads.writing import Writing

SECRET_S: Final = 3600.0
"""How long a one-time path may be used."""
_RIGHT: Final = frozenset({Stage.STORING, Stage.STORED, Stage.FORWARDING})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of an upload: whether it was right (None as long as that is open), and in its place."""

    result: bool | None
    is_stored: bool
    view: UploadView


class OneTime:
    """Uploads by one-time paths."""

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = uploads

    async def announce(self, principal: Principal, announced: Announced) -> Begun:
        """A one-time path for a file of that size and checksum.

        Raises:
            InputError: size or checksum is missing.
            IceProdError: as of `UploadService.create`.
        """
        if announced.length is None or not announced.checksums:
            raise InputError("size and checksum must be announced")
        return await self._uploads.create(principal, announced, has_secret=True)

    async def may_send(self, upload_id: str, secret: str, *, size: int | None) -> None:
        """Raise what `send` would raise, but for another request that is writing.

        Raises:
            NotFoundError: there is no such path.
            ConflictError: it was used.
            InputError: the size is not that which was announced.
            IceProdError: the caller of `announce` may not put the file there any more.
        """
        kept = await self._opened(upload_id, secret)
        self._check(kept, size)
        self._uploads.shelf.check_space(size or 0)
        await self._uploads.check_place(kept)

    async def send(self, upload_id: str, secret: str, *, size: int | None) -> Writing:
        """Begin to send the file; an attempt that broke off before is forgotten.

        Raises:
            IceProdError: as of `may_send`; and ConflictError if another request is writing.
        """
        await self.may_send(upload_id, secret, size=size)
        uploads = self._uploads
        held = await uploads.hold(upload_id)
        try:
            self._check(Kept(upload_id, held.about, held.mark), size)
            await uploads.run(lambda: _begin_anew(held, uploads.clock()))
            return uploads.writing(held, size=size)
        except BaseException:
            await uploads.run(held.release)
            raise

    async def finish(self, writing: Writing) -> Verdict:
        """All came: check it, and put it in its place.

        Raises:
            InputError: it is not what was announced; the path is of no use any more.
            IceProdError: it can't be put in its place.
        """
        held = writing.held
        try:
            await writing.end()
            await self._use_up(held)
        except BaseException:
            await writing.release()
            raise
        return _verdict(await self._uploads.finish(writing))

    async def hand_over(self, upload_id: str, secret: str, source: str) -> Verdict:
        """As `send` and `finish` of the file that the web server in front has put at ``source``.

        Raises:
            IceProdError: as of those; the file is gone from ``source`` in any case.
        """
        uploads = self._uploads
        draft = await uploads.handed_over(source)
        try:
            await self.may_send(upload_id, secret, size=draft.whole_size_bytes)
            held = await uploads.hold(upload_id)
            try:
                return await self._take(held, draft)
            finally:
                await uploads.run(held.release)
        finally:
            await uploads.run(draft.discard)

    async def _take(self, held: Held, draft: HandedOver) -> Verdict:
        uploads = self._uploads
        self._check(Kept(held.upload_id, held.about, held.mark), draft.whole_size_bytes)
        await uploads.run(lambda: held.take(draft.path, now=uploads.clock()))
        await self._use_up(held)
        await uploads.settle(held)
        return _verdict(uploads.view(Kept(held.upload_id, held.about, held.mark)))

    async def _use_up(self, held: Held) -> None:
        """Let nothing more be sent to the path; what has come must be whole by now."""
        changed = held.about.after(is_used=True)
        await self._uploads.run(lambda: held.change(changed))
        if not held.is_whole:
            error = f"{held.about.length} bytes were announced and {held.mark.offset} came"
            await self._uploads.ending.fail(held, error)
            raise InputError(error)

    async def check(self, upload_id: str, secret: str) -> Verdict:
        """What became of a file that was sent, for who knows the path.

        Raises:
            NotFoundError: there is no such path.
        """
        return await self._judge(await self._opened(upload_id, secret))

    async def check_mine(self, principal: Principal, upload_id: str) -> Verdict:
        """What became of a file that the caller has announced.

        Raises:
            NotFoundError: there is none.
        """
        return await self._judge(await self._uploads.mine(principal, "upload.read", upload_id))

    async def _judge(self, kept: Kept) -> Verdict:
        uploads = self._uploads
        if kept.is_between:
            with suppress(IceProdError):  # it waits, or is at an end: the verdict says so
                await uploads.go_on(kept.upload_id)
            kept = await uploads.load(kept.upload_id)
        return _verdict(uploads.view(kept))

    async def _opened(self, upload_id: str, secret: str) -> Kept:
        kept = await self._uploads.load(upload_id)
        known = kept.about.secret
        if not known or not hmac.compare_digest(known, ids.digest(secret)):
            raise NotFoundError("upload", upload_id)
        return kept

    def _check(self, kept: Kept, size: int | None) -> None:
        about = kept.about
        if about.is_used or about.stage is not Stage.OPEN:
            raise ConflictError("this path was used; announce the file again", reason="used")
        self._uploads.check_alive(kept)
        if self._uploads.clock() >= about.created_at + SECRET_S:
            raise ConflictError("this path is too old; announce the file again", reason="used")
        if size is not None and about.length is not None and size > about.length:
            raise TooLarge(f"{about.length} bytes were announced", limit_bytes=about.length)
        if size is not None and size != about.length:
            raise InputError(f"{about.length} bytes were announced, not {size}")


def _begin_anew(held: Held, now: float) -> None:
    if held.mark.offset:
        held.keep(0, now=now)
    held.cut()


def _verdict(view: UploadView) -> Verdict:
    is_open = view.stage is Stage.OPEN
    return Verdict(None if is_open else view.stage in _RIGHT, view.stage is Stage.STORED, view)
