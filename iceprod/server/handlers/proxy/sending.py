"""Answering with a file of an origin: conditions, ranges, and the bytes by the best way."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from iceprod.errors import IceProdError, TransferFailed
from iceprod.movers.base import Facts, Incoming, Span
from iceprod.server.handlers.files import FileAccess, parse_range
from iceprod.server.handlers.proxy.outlet import BLOCK, Outlet
from iceprod.services.cache import Reading, Wanted
from iceprod.services.proxying import Description, Proxying, etag_of, file_name
from iceprod.services.transfers import Transfer

_ASKING: Final = ("Range", "If-None-Match", "If-Modified-Since")
_PIECE: Final = 256 * 1024
_WHOLE: Final = Span()


class Sender(FileAccess):
    """A handler that sends files of origins."""

    _sending: asyncio.Task[object] | None = None
    _is_gone = False

    @property
    def proxying(self) -> Proxying:
        """The service behind."""
        return self.services.proxying

    async def send(self, wanted: Wanted, *, use_cache: bool) -> None:
        """Answer with a file, or the part of it that is asked for."""
        if self.request.method == "HEAD":
            await self._tell(wanted)
        elif use_cache and (reading := await self.proxying.copy(wanted)) is not None:
            try:
                await self._send_copy(wanted, reading)
            finally:
                self.let_go(reading)
        else:
            await self._pass_on(wanted)

    def let_go(self, reading: Reading) -> None:
        """Close a copy that was sent."""
        reading.close()

    # What is told

    async def _tell(self, wanted: Wanted) -> None:
        described = await self.proxying.describe(wanted)
        self.describe(wanted, described.facts)
        if self._is_unchanged(described.etag, described.facts):
            self.set_status(HTTPStatus.NOT_MODIFIED)
        elif described.facts.size_bytes is not None:
            self.set_header("Content-Length", str(described.facts.size_bytes))

    def describe(self, wanted: Wanted, facts: Facts) -> None:
        """Set the headers that are the same for every part of a file."""
        self.describe_name(wanted)
        etag = etag_of(facts, wanted)
        if etag:
            self.set_header("ETag", etag)
        if facts.modified_at is not None:
            self.set_header("Last-Modified", formatdate(facts.modified_at, usegmt=True))
        if "sha256" in facts.checksums:
            self._tell_digest(facts.checksums["sha256"])
        self.set_header("Accept-Ranges", "bytes")

    def describe_name(self, wanted: Wanted) -> None:
        """Say that it is a file to keep, and no page of this site whatever its contents."""
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", disposition(file_name(wanted.sources[0].location)))

    def _tell_digest(self, sha256: str) -> None:
        self.set_header("Digest", f"sha-256={base64.b64encode(bytes.fromhex(sha256)).decode()}")

    def _is_unchanged(self, etag: str, facts: Facts) -> bool:
        """Whether the client has the file already (RFC 9110, section 13)."""
        headers = self.request.headers
        known = headers.get("If-None-Match")
        if known is not None:
            tags = {each.strip().removeprefix("W/") for each in known.split(",")}
            return bool(etag) and ("*" in tags or etag.removeprefix("W/") in tags)
        since = _instant(headers.get("If-Modified-Since", ""))
        return since is not None and facts.modified_at is not None and int(facts.modified_at) <= since

    def _range(self, etag: str, facts: Facts) -> str | None:
        """The range that is asked for, unless it is of another version."""
        wanted, condition = self.request.headers.get("Range"), self.request.headers.get("If-Range")
        if condition is None or wanted is None:
            return wanted
        if condition.startswith('"'):
            return wanted if condition == etag else None
        instant = _instant(condition)
        is_same = instant is not None and facts.modified_at is not None and instant == int(facts.modified_at)
        return wanted if is_same else None

    def _span(self, etag: str, facts: Facts, size: int) -> Span | None:
        """Set status and headers for a file of known size; which bytes follow, None if none do."""
        if self._is_unchanged(etag, facts):
            self.set_status(HTTPStatus.NOT_MODIFIED)
            return None
        try:
            found = parse_range(self._range(etag, facts), size)
        except HTTPError:
            self.set_status(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.set_header("Content-Range", f"bytes */{size}")
            self.set_header("Content-Length", "0")
            return None
        if found is None:
            self.set_header("Content-Length", str(size))
            return Span(0, size)
        self.set_status(HTTPStatus.PARTIAL_CONTENT)
        self.set_header("Content-Range", f"bytes {found.first}-{found.last}/{size}")
        span = Span(found.first, found.last - found.first + 1)
        self.set_header("Content-Length", str(span.length))
        return span

    # What is sent

    async def _send_copy(self, wanted: Wanted, reading: Reading) -> None:
        facts = reading.told.facts()
        self.describe(wanted, facts)
        if reading.copy is not None:
            self._tell_digest(reading.copy.checksums["sha256"])
        if self.leave_copy_to_nginx(wanted, reading):
            return
        span = self._span(etag_of(facts, wanted), facts, reading.told.size_bytes)
        if span is None or not span.length:
            return
        # What fails before the first byte can be told as an error.
        await reading.more_than(span.offset)
        async with self._transfer(wanted, span.length) as transfer:
            await self._send_from(reading, span, transfer)

    def leave_copy_to_nginx(self, wanted: Wanted, reading: Reading) -> bool:
        """Have the web server in front send a complete copy; whether it is going to."""
        del wanted, reading
        return False

    async def _send_from(self, reading: Reading, span: Span, transfer: Transfer) -> None:
        offset, end = span.offset, span.offset + (span.length or 0)
        async with self._outlet() as outlet:
            while offset < end:
                there = min(await reading.more_than(offset), end)
                if outlet.is_plain:
                    sent = await outlet.send_file(reading.descriptor, offset, there - offset)
                else:
                    data = await reading.read(offset, min(_PIECE, there - offset))
                    await outlet.write(data)
                    sent = len(data)
                offset += sent
                await transfer.moved(sent)

    async def _pass_on(self, wanted: Wanted) -> None:
        if await self.leave_file_to_nginx(wanted):
            return
        span, facts = _WHOLE, None
        if any(name in self.request.headers for name in _ASKING):
            described = await self.proxying.describe(wanted)
            facts = described.facts
            found = self._described_span(wanted, described)
            if found is None:
                return
            span = found
        async with self.proxying.passed(wanted, span) as incoming:
            if facts is not None and not incoming.facts.is_same(facts):
                raise TransferFailed("the file changed at its origin meanwhile", retry_after_s=1)
            if facts is None:
                self.describe(wanted, incoming.facts)
            if incoming.length is not None:
                self.set_header("Content-Length", str(incoming.length))
            async with self._transfer(wanted, incoming.length) as transfer:
                await self._send_incoming(wanted, incoming, transfer)

    async def leave_file_to_nginx(self, wanted: Wanted) -> bool:
        """Have the web server in front fetch a file; whether it is going to."""
        del wanted
        return False

    def _described_span(self, wanted: Wanted, described: Description) -> Span | None:
        """Which part to fetch; None where the answer is complete."""
        facts = described.facts
        self.describe(wanted, facts)
        if facts.size_bytes is not None:
            span = self._span(described.etag, facts, facts.size_bytes)
            if span is None or not span.length:
                return None
            return _WHOLE if span == Span(0, facts.size_bytes) else span
        if self._is_unchanged(described.etag, facts):
            self.set_status(HTTPStatus.NOT_MODIFIED)
            return None
        return _WHOLE  # of what nobody knows the length, parts are not given

    async def _send_incoming(self, wanted: Wanted, incoming: Incoming, transfer: Transfer) -> None:
        async with self._outlet() as outlet:
            body = incoming.plain() if outlet.is_plain else None
            if body is not None:
                stall_s = wanted.sources[0].origin.access.stall_timeout_s
                async with aclosing(outlet.relay(body, stall_s=stall_s)) as relay:
                    async for sent in relay:
                        await transfer.moved(sent)
                return
            left = incoming.length
            while piece := await incoming.read():
                for start in range(0, len(piece), BLOCK):
                    await outlet.write(piece[start : start + BLOCK])
                await transfer.moved(len(piece))
                left = None if left is None else left - len(piece)
            if left:
                raise TransferFailed("the origin sent too little")

    @asynccontextmanager
    async def _transfer(self, wanted: Wanted, size: int | None) -> AsyncIterator[Transfer]:
        with self.proxying.begin(wanted, size_bytes=size) as transfer:
            self.set_header("X-Transfer-Id", transfer.transfer_id)
            try:
                yield transfer
            except StreamClosedError:
                transfer.end("the client went away")
            except asyncio.CancelledError:
                transfer.end("the client went away")
                task = asyncio.current_task()
                if not self._is_gone or task is None:
                    raise
                task.uncancel()

    @asynccontextmanager
    async def _outlet(self) -> AsyncIterator[Outlet]:
        """The client's connection; whatever goes wrong from here on ends it."""
        await self.flush()
        outlet = Outlet(self)
        self._sending = asyncio.current_task()
        try:
            yield outlet
        except (IceProdError, OSError):
            outlet.reset()  # also where the client has gone, which the connection may not know yet
            raise
        except asyncio.CancelledError:
            if not self._is_gone:
                outlet.reset()
            raise
        finally:
            self._sending = None

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As for every answer; where bytes went out already there is nobody to be told."""
        if not self._headers_written:
            self.clear_header("X-Transfer-Id")
            super().send_error(status_code, **kwargs)
        elif not self._finished:
            with suppress(StreamClosedError):
                self.finish()

    def on_connection_close(self) -> None:
        """The client went away in the middle."""
        super().on_connection_close()
        self._is_gone = True
        if self._sending is not None:
            self._sending.cancel()

    def compute_etag(self) -> str | None:
        """The ETag is that of the file, not of the answer."""
        return None


def disposition(name: str) -> str:
    """A Content-Disposition that every client reads as that name (RFC 6266)."""
    plain = "".join(
        each if each.isascii() and each.isprintable() and each not in '"\\%' else "_" for each in name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def _instant(text: str) -> int | None:
    """The second that an HTTP date names."""
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
