"""Digests that grow with an upload, so that a file that came need not be read again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Self

_KEPT: Final = 2000


class Digests:
    """Several digests of the same bytes; SHA-256 is always among them."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        names = {"sha256", *algorithms}
        self._running = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, data: bytes) -> None:
        """Take ``data`` in."""
        for each in self._running.values():
            each.update(data)

    def copy(self) -> Self:
        """The same, which grows apart from now on."""
        made = type(self)()
        made._running = {name: each.copy() for name, each in self._running.items()}  # noqa: SLF001
        return made

    def known(self) -> dict[str, str]:
        """Hexadecimal by algorithm."""
        return {name: each.hexdigest() for name, each in self._running.items()}


class KnownDigests:
    """The digests of uploads that this process has written to, as far as it did."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, Digests]] = OrderedDict()

    def take(self, upload_id: str, offset: int, algorithms: Iterable[str]) -> Digests | None:
        """The digests of the bytes before ``offset``; None if they are not known."""
        known = self._known.pop(upload_id, None)
        if offset == 0:
            return Digests(algorithms)
        return known[1] if known is not None and known[0] == offset else None

    def put(self, upload_id: str, offset: int, digests: Digests) -> None:
        """Remember the digests of the bytes before ``offset``."""
        self._known[upload_id] = (offset, digests)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
