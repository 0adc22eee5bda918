"""The way to one parent: every call to it goes through here, and every failure is counted here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from iceprod import clock as clocks
from iceprod.clock import Clock
from iceprod.errors import AccessDenied, IceProdError, NotAuthenticated, RateLimited, Unavailable
from iceprod.rpc.client import PROTOCOL_SLUGS, Client
from iceprod.site_sync.addresses import parent_url
from iceprod.site_sync.as_child.identity import IdentityFiles, Stamp

FIRST_S: Final = 0.5
LONGEST_S: Final = 60.0
PATIENCE_S: Final = 30.0
"""How long an answer may take, beside the time for which the parent was asked to wait."""
PACK_OVER: Final = 4096
"""Messages of more bytes are sent compressed."""

Answer = TypeVar("Answer", bound=msgspec.Struct)


@dataclass(slots=True)
class LinkState:
    """When the parent last answered (0: never), the failures in a row since, and the last one's reason."""

    contact_at: float = 0.0
    failures: int = 0
    reason: str = ""


@dataclass(slots=True)
class _Connection:
    """Connections that were made with the same files; closed when the last call is over."""

    client: Client
    stamp: Stamp
    calls: int = 0
    is_retired: bool = False

    def retire(self) -> None:
        """No new call comes."""
        self.is_retired = True
        if self.calls == 0:
            self.client.close()


@dataclass(slots=True, kw_only=True)
class ParentLink:
    """Calls to the parent ``name`` at ``url``, as whom the ``files`` say.

    Nothing is repeated here: who calls knows what is worth it, and waits with `pause` before.
    After a failure that pause is twice as long, up to a minute; as soon as any call is
    answered it is over, for everybody.
    """

    name: str
    url: str
    files: IdentityFiles
    clock: Clock = clocks.now
    on_state: Callable[[LinkState], None] = lambda _: None
    state: LinkState = field(default_factory=LinkState)
    _connection: _Connection | None = None
    _is_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, method: str, message: msgspec.Struct, answer: type[Answer]) -> Answer:
        """The answer to ``message``.

        Raises:
            IceProdError: what the parent answered with.
            Unavailable: there was no answer, or none that can be understood.
        """
        failures = self.state.failures
        timeout_s = PATIENCE_S + getattr(message, "wait_s", 0.0)
        try:
            found = await self._ask(method, {"message": message}, timeout_s)
            result = msgspec.convert(found, answer)
        except msgspec.ValidationError as exc:
            failed = Unavailable(f"the answer of {self.name} is not understood: {exc}")
            self._failed(failed, failures)
            raise failed from None
        except IceProdError as exc:
            # That something broke over there, or on the way, is no word on what was asked.
            is_broken = type(exc) is IceProdError and "slug" not in exc.detail
            is_broken = is_broken or exc.detail.get("slug") in PROTOCOL_SLUGS
            error = Unavailable(f"{self.name}: {exc.message}") if is_broken else exc
            if isinstance(error, Unavailable | RateLimited | NotAuthenticated | AccessDenied):
                self._failed(error, failures)
            else:
                self._succeeded()
            raise error from None
        self._succeeded()
        return result

    async def _ask(self, method: str, params: dict[str, Any], timeout_s: float) -> Any:
        connection = self._connected()
        connection.calls += 1
        try:
            return await connection.client.ask(method, params, timeout_s=timeout_s)
        finally:
            connection.calls -= 1
            if connection.is_retired:
                connection.retire()

    def _connected(self) -> _Connection:
        """Connections as whom the files say now: a renewed certificate is used at once."""
        stamp = self.files.stamp()
        if self._connection is None or self._connection.stamp != stamp:
            self.close()
            self._connection = _Connection(self._client(), stamp)
        return self._connection

    def _client(self) -> Client:
        try:
            url, identity = parent_url(self.url), self.files.read()
        except IceProdError as exc:
            raise Unavailable(f"{self.name} cannot be called: {exc.message}") from None
        return Client(
            f"{url}/jsonrpc",
            token=identity.token,
            ca_file=str(identity.authority) if identity.authority else None,
            cert_file=str(identity.certificate) if identity.certificate else None,
            pack_over=PACK_OVER,
        )

    async def pause(self) -> None:
        """Wait until it is worth calling again: not at all unless the last call failed."""
        failures = self.state.failures
        if failures == 0:
            return
        longest_s = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s * random.uniform(0.5, 1.0)):  # noqa: S311
                await self._is_up.wait()

    def distrust(self, reason: str) -> None:
        """See `Calls`."""
        self._failed(Unavailable(reason), self.state.failures)

    def close(self) -> None:
        """Keep no connection; calls that are under way end as they will."""
        former, self._connection = self._connection, None
        if former is not None:
            former.retire()

    def _succeeded(self) -> None:
        self.state.contact_at, self.state.failures, self.state.reason = self.clock(), 0, ""
        self._is_up.set()
        self.on_state(self.state)

    def _failed(self, error: IceProdError, failures: int) -> None:
        """Count a failure; several calls that failed together count as one."""
        self.state.failures = max(self.state.failures, failures + 1)
        self.state.reason = error.message
        self._is_up.clear()
        self.on_state(self.state)
