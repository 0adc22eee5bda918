"""``GET|HEAD /proxy?url=…``: a file of an origin."""

from __future__ import annotations

from typing import Final

from iceprod.errors import InputError
from iceprod.server.handlers.proxy.accel import AccelSender

_WORDS: Final = {"": True, "yes": True, "no": False}


def use_cache_of(word: str) -> bool:
    """Whether a copy will do, by the value of ``cache``.

    Raises:
        InputError: it says neither yes nor no.
    """
    try:
        return _WORDS[word.lower()]
    except KeyError:
        raise InputError("cache is yes or no") from None


class ProxyHandler(AccelSender):
    """A file by its address; several ``url`` are places of the same file.

    ``cache=no`` has it passed on as the origin sends it.  If it breaks off midway so does the
    connection; the transfer of the answer's ``X-Transfer-Id`` says why (`transfer.get`).
    """

    async def get(self) -> None:
        """Send it, or the range that is asked for."""
        use_cache = use_cache_of(self.argument("cache"))
        wanted = await self.proxying.wanted(self.principal, self.get_query_arguments("url"))
        await self.send(wanted, use_cache=use_cache)

    async def head(self) -> None:
        """As `get`, without the file."""
        await self.get()
