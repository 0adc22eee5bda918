"""Slowing down those who guess."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from iceprod.clock import Clock
from iceprod.errors import RateLimited

_MAX_KEYS = 10_000


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class Throttle:
    """Counts failures per key and, from ``free`` on, makes each next try wait twice as long.

    The memory of failures ends ``forget_s`` after the last one.  At most 10 000 keys are
    kept; a flood of made-up ones pushes out the oldest first.
    """

    def __init__(
        self, clock: Clock, *, free: int = 5, longest_s: float = 900, forget_s: float = 3600
    ) -> None:
        self._clock = clock
        self._free = free
        self._longest_s = longest_s
        self._forget_s = forget_s
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def check(self, key: str) -> None:
        """Let a try pass.

        Raises:
            RateLimited: too many failures; ``retry_after_s`` says how long to wait.
        """
        failures = self._failures.get(key)
        if failures is None or failures.count < self._free:
            return
        waited_s = self._clock() - failures.last_at
        wanted_s = min(self._longest_s, 2.0 ** min(30, failures.count - self._free))
        if waited_s < wanted_s:
            raise RateLimited(
                f"too many failed attempts; try again in {max(1, round(wanted_s - waited_s))} s",
                retry_after_s=round(wanted_s - waited_s, 1),
            )

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = self._clock()
        failures = self._failures.pop(key, None)
        if failures is None or now - failures.last_at > self._forget_s:
            failures = _Failures(0, now)
        self._failures[key] = _Failures(failures.count + 1, now)
        while len(self._failures) > _MAX_KEYS:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget the failures of a key."""
        self._failures.pop(key, None)


def network_of(address: str) -> str:
    """Whom an address stands for: of IPv6, everybody has 2^64 of them, with the first half in common."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Network((int(parsed) >> 64 << 64, 64)))
