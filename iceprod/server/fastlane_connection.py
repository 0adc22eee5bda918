"""One connection of the fast lane: what was read, what runs, what is still to be sent."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import httptools

from iceprod.rpc.dispatch import Pending
from iceprod.server.fastlane_request import Head, Refusal

if TYPE_CHECKING:
    from iceprod.server.fastlane import FastLane

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_WRITE_AT_ONCE: Final = 64 * 1024


class Arrived:
    """A request that was read completely; ``last`` ends the connection after its answer."""

    __slots__ = ("bearer", "body", "certificate", "coding", "last", "remote", "request_id")

    def __init__(self, head: Head, *, body: bytes, remote: str, request_id: str, last: bool) -> None:
        self.body = body
        self.bearer = head.bearer
        self.certificate = head.certificate
        self.coding = head.coding
        self.remote = remote
        self.request_id = request_id
        self.last = last


class _Slot:
    """The place of one answer in the order of answers."""

    __slots__ = ("last", "response")

    def __init__(self, response: bytes | None, *, last: bool) -> None:
        self.response = response
        self.last = last


class Connection(asyncio.Protocol):
    """One client.

    A request goes from the parser to ``_waiting``, then either straight out, or into a
    slot while its task runs.  ``deadline`` is when the client must have sent (or taken)
    what it owes; the listener looks at it once per second.
    """

    def __init__(self, lane: FastLane) -> None:
        self._lane = lane
        self._limits = lane.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = ""
        self._head = Head(lane.limits)
        self._is_begun = False
        self._fresh = b""  # what is being parsed, if it began with a request
        self._in_head = False
        self._quiet_bytes = 0
        self._body: bytes | bytearray = b""
        self._held = 0
        self._waiting: deque[Arrived | Refusal | bytes] = deque()
        self._slots: deque[_Slot] = deque()
        self._tasks: dict[asyncio.Task[bytes | None], bool] = {}
        self._ended = False  # nothing more is parsed: the last request was read, or refused
        self._lingering = False
        self._has_said_end = False
        self._discarded = 0
        self._is_reading = True
        self._is_idle = True
        self._can_write = True
        self.deadline = math.inf

    # Transport events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client in, or tell it that there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self.deadline = self._lane.now + self._limits.header_s
        if not self._lane.enter(self):
            self._ended = True
            busy = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            self._transport.write(_refusal_text(busy))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End its long polls; other calls that run are finished, though nobody hears of it."""
        self._ended = True
        self._waiting.clear()
        self._release(self._held)
        self._cancel_polls()
        self._lane.leave(self)

    def _cancel_polls(self) -> None:
        for task, cancellable in self._tasks.items():
            if cancellable:
                task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came, then answer as far as that is possible."""
        if self._ended:
            self._discard(len(data))
            return
        if not self._is_begun:
            if self._take_known(data):
                self.pump()
                return
            self._fresh = data
        try:
            self._parser.feed_data(data)
        except Refusal as exc:
            self._refuse(exc)
        except httptools.HttpParserCallbackError as exc:
            cause = exc.__context__
            self._refuse(cause if isinstance(cause, Refusal) else _bad_request(exc))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._refuse(_bad_request(exc))
        self._fresh = b""
        if self._is_begun:
            self._bound_unfinished(len(data))
        self.pump()

    def _take_known(self, data: bytes) -> bool:
        """Put a whole request whose head is known in line, without the parser."""
        found = self._lane.heads.split(data)
        if found is None:
            return False
        head, body, request_id = found
        if self._lane.held + len(body) > self._limits.held_bytes:
            return False
        self._held += len(body)
        self._lane.held += len(body)
        self._is_idle = False
        remote = self._remote(head)
        self._waiting.append(Arrived(head, body=body, remote=remote, request_id=request_id, last=False))
        return True

    def eof_received(self) -> bool:
        """Keep the connection until what was asked has been answered.

        A client that has gone says no more than one that only stopped sending, so a long
        poll ends here too: what it would hand out must not go to nobody.
        """
        self._ended = True
        self._cancel_polls()
        return bool(self._waiting or self._slots) and not self._lingering

    def pause_writing(self) -> None:
        """Start nothing more until the client has taken what was sent."""
        self._can_write = False
        self.deadline = self._lane.now + self._limits.write_s

    def resume_writing(self) -> None:
        """Go on where `pause_writing` stopped."""
        self._can_write = True
        self.pump()

    # Parser events

    def on_message_begin(self) -> None:
        """Expect a head."""
        self._head = Head(self._limits)
        self._is_begun = True
        self._body = b""
        self._in_head = True
        self._quiet_bytes = -1
        self._is_idle = False
        self.deadline = self._lane.now + self._limits.header_s

    def on_url(self, part: bytes) -> None:
        """Take a piece of the request target."""
        self._head.url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers come here too, and mean nothing."""
        if self._in_head:
            self._head.raw_fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse the request by its head, or expect its body."""
        self._in_head = False
        self._quiet_bytes = 0
        head = self._head
        head.check(self._parser.get_method(), self._parser.get_http_version())
        self.deadline = self._lane.now + self._limits.body_s
        if head.wants_continue:
            self._waiting.append(_CONTINUE)

    def on_body(self, part: bytes) -> None:
        """Take a piece of the body, chunk by chunk if it came so."""
        size = len(part)
        self._held += size
        self._lane.held += size
        self._quiet_bytes = -1
        self._body = part if not self._body else _joined(self._body, part)
        if len(self._body) > self._limits.body_bytes:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        if self._lane.held > self._limits.held_bytes:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too much is being sent at the moment")

    def on_message_complete(self) -> None:
        """Put the request in line."""
        head = self._head
        body = bytes(self._body)
        # A client of HTTP/1.0 gets one answer per connection: simple, and always right.
        last = not self._parser.should_keep_alive() or self._parser.get_http_version() == "1.0"
        remote = self._remote(head)
        request_id = head.request_id if self._lane.is_proxied else ""
        self._waiting.append(Arrived(head, body=body, remote=remote, request_id=request_id, last=last))
        if self._fresh and not last:
            self._lane.heads.learn(self._fresh, head, body)
        self._is_begun = False
        self._body = b""
        self._ended = last

    def _remote(self, head: Head) -> str:
        return head.remote(self._peer) if self._lane.is_proxied else self._peer

    # Answers

    def pump(self) -> None:
        """Start what may start, send what can be sent, read on if there is room."""
        if self._transport.is_closing():
            return
        ready: list[bytes] = []
        size = 0
        while self._may_start():
            response = self._start(self._waiting.popleft())
            if response is not None:
                ready.append(response)
                size += len(response)
            if size > _WRITE_AT_ONCE:
                self._transport.write(b"".join(ready))
                ready, size = [], 0
        if ready:
            self._transport.write(b"".join(ready))
        self._settle()

    def _may_start(self) -> bool:
        if not self._waiting or not self._can_write or len(self._slots) >= self._limits.in_flight:
            return False
        return self._lane.has_turn(self)

    def _start(self, item: Arrived | Refusal | bytes) -> bytes | None:
        """Answer ``item``, or give it a slot; what is returned can be sent now."""
        if isinstance(item, Arrived):
            self._release(len(item.body))
            answer = self._lane.begin(item)
            last = item.last or self._is_last()
            if isinstance(answer, Pending):
                self._run(answer, _Slot(None, last=last))
                return None
            response = self._lane.response(answer, last=last)
        elif isinstance(item, Refusal):
            response, last = _refusal_text(item), True
        else:
            response, last = item, False
        if last:
            self._ended = True
        if self._slots:
            self._slots.append(_Slot(response, last=last))
            return None
        return response

    def _is_last(self) -> bool:
        """Whether the process leaves, and nothing more was asked on this connection so far."""
        return self._lane.is_draining and not self._waiting and not self._is_begun

    def _run(self, pending: Pending, slot: _Slot) -> None:
        self._slots.append(slot)
        task = self._lane.run(pending)
        self._tasks[task] = pending.cancellable
        task.add_done_callback(partial(self._finished, slot))

    def _finished(self, slot: _Slot, task: asyncio.Task[bytes | None]) -> None:
        """Send the answer of ``task`` and all complete ones behind it."""
        self._tasks.pop(task, None)
        self._lane.ran(task)
        if self._transport.is_closing():
            return
        if task.cancelled() or task.exception() is not None:
            # The dispatcher answers whatever happens in a method: this is the end of the
            # process, or a fault of the dispatcher itself.
            self._transport.abort()
            return
        slot.last = slot.last or self._is_last()
        slot.response = self._lane.response(task.result(), last=slot.last)
        while self._slots and self._slots[0].response is not None:
            sent = self._slots.popleft()
            self._transport.write(cast(bytes, sent.response))
            self._ended = self._ended or sent.last
        self.pump()

    def _settle(self) -> None:
        """Close what is over, steer reading, and say what the client owes from here on."""
        if self._waiting or self._slots or not self._can_write:
            has_room = self._can_write and len(self._slots) < self._limits.in_flight
            self._read(wanted=has_room and not self._waiting)
            if self._can_write:
                self.deadline = math.inf
            return
        self._read(wanted=True)
        if self._lingering:
            self._end_writing()
        elif self._ended or not (self._lane.keeps_idle or self._is_begun):
            self._transport.close()
        elif not self._is_begun and not self._is_idle:
            self._is_idle = True
            self.deadline = self._lane.now + self._limits.idle_s
        elif self.deadline == math.inf:
            self.deadline = self._lane.now + self._limits.body_s

    def _read(self, *, wanted: bool) -> None:
        if wanted is self._is_reading:
            return
        self._is_reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # The end

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with ``refusal`` in its turn, then close without cutting that answer off.

        Closing while the client still sends would reset the connection, and the client
        might never see why; so for a moment its bytes are read and thrown away.
        """
        if self._ended:  # what follows the last request is not looked at
            return
        self._ended = True
        self._lingering = True
        self._is_begun = False
        self._release(len(self._body))
        self._body = b""
        self._waiting.append(refusal)

    def _end_writing(self) -> None:
        """Tell the client that nothing follows; it has a moment to stop sending."""
        if self._has_said_end:
            return
        self._has_said_end = True
        self.deadline = self._lane.now + self._limits.linger_s
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._limits.linger_bytes:
            self._transport.abort()

    def _release(self, size: int) -> None:
        self._held -= size
        self._lane.held -= size

    def _bound_unfinished(self, size: int) -> None:
        """Refuse a head, chunk extension or trailer without end.

        The parser tells nothing of one before it is complete, so what is counted are the
        bytes since a head began or a piece of body came; the read that this happened in
        does not count, for it may hold the end of something else.
        """
        self._quiet_bytes = 0 if self._quiet_bytes < 0 else self._quiet_bytes + size
        if self._quiet_bytes > self._limits.head_bytes:
            self._refuse(Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large"))

    def close_if_idle(self) -> None:
        """Close now if nothing was begun; otherwise after the answer that is due."""
        if not self._is_begun and not self._waiting and not self._slots:
            self._transport.close()

    def expire(self) -> None:
        """Act on a deadline that has passed."""
        if self._lingering or not self._can_write:
            self._transport.abort()
        elif self._is_begun:
            self._refuse(Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive"))
            self.pump()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()


def _joined(body: bytes | bytearray, part: bytes) -> bytearray:
    """``body`` and ``part`` in one growing buffer, however small the parts are."""
    buffer = body if isinstance(body, bytearray) else bytearray(body)
    buffer += part
    return buffer


def _bad_request(exc: Any) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, f"not HTTP: {str(exc)[:100]}")


def _refusal_text(refusal: Refusal) -> bytes:
    body = f"{refusal.reason}\n".encode()
    allow = "Allow: POST\r\n" if refusal.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
