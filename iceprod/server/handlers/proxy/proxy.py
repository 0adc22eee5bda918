"""``GET|HEAD|PUT /proxy?url=…``: a file of an origin."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from iceprod.errors import InputError
from iceprod.server.handlers.files import parse_digest
from iceprod.server.handlers.proxy.accel import AccelSender
from iceprod.server.handlers.uploads import tus_headers
from iceprod.server.handlers.uploads.receiving import BodyHandler
from iceprod.services.uploads.passing import Passing
from iceprod.services.uploads.values import Announced
from iceprod.services.uploads.writing import Writing

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


class ProxyHandler(AccelSender, BodyHandler[Passing | Writing]):
    """A file by its address; several ``url`` are places of the same file.

    ``cache=no`` has it passed on as the origin sends it.  If it breaks off midway so does the
    connection; the transfer of the answer's ``X-Transfer-Id`` says why (`transfer.get`).

    A file that is sent goes on to the origin while it comes, if its length is told; else it is
    kept until all is there, because no origin takes what nobody knows the end of.
    """

    async def prepare(self) -> None:
        """Begin to pass a file on before its body is read, so that nothing is read in vain."""
        await super().prepare()
        if self.request.method == "PUT":
            if "Content-Range" in self.request.headers:
                raise InputError("files are sent whole; Content-Range is not taken")
            self.receive(await self._begun(self._target()))

    def _target(self) -> str:
        urls = self.get_query_arguments("url")
        if len(urls) != 1:
            raise InputError("a file is sent to one url")
        return urls[0]

    async def _begun(self, url: str) -> Passing | Writing:
        size = self.length_in("Content-Length")
        digest = parse_digest(self.request.headers.get("Digest"))
        sha256 = digest.hex() if digest else ""
        uploads = self.services.uploads
        if size is not None or "Transfer-Encoding" not in self.request.headers:
            return await uploads.passing.begin(self.principal, url, size=size or 0, sha256=sha256)
        await uploads.passing.admit(self.principal, url, size=None)
        checksums = {"sha256": sha256} if sha256 else {}
        announced = Announced(target=url, length=None, checksums=checksums, protocol="proxy")
        begun = await uploads.service.create(self.principal, announced)
        return await uploads.service.begin(self.principal, begun.view.upload_id, offset=0, size=None)

    async def put(self) -> None:
        """Tell that the file is at its origin (201), or on its way there (202)."""
        sink = self.received()
        if isinstance(sink, Passing):
            sha256 = await sink.finish()
            self.set_status(HTTPStatus.CREATED)
            self.write_json({"size_bytes": self.length_in("Content-Length") or 0, "sha256": sha256})
        elif sink is not None:
            view = await self.services.uploads.service.finish_here(sink)
            self.set_status(HTTPStatus.ACCEPTED)
            self.set_header("Location", f"{tus_headers.PATH}/{view.upload_id}")
            self.write_json(view)

    async def give_up(self, writing: Passing | Writing, reason: str) -> None:
        """Put nothing there."""
        if isinstance(writing, Passing):
            await writing.break_off()
        else:
            uploads = self.services.uploads.service
            await uploads.break_off(writing, reason)
            await uploads.cancel(self.principal, writing.held.upload_id)  # nobody knows its name

    async def get(self) -> None:
        """Send it, or the range that is asked for."""
        use_cache = use_cache_of(self.argument("cache"))
        wanted = await self.proxying.wanted(self.principal, self.get_query_arguments("url"))
        await self.send(wanted, use_cache=use_cache)

    async def head(self) -> None:
        """As `get`, without the file."""
        await self.get()
