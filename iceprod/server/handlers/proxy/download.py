"""``POST /download``: the JSON form of IceProd 2.3, for a file, its size or its checksum."""

from __future__ import annotations

from typing import Literal

import msgspec

from iceprod.errors import FormatError
from iceprod.model.principal import Principal
from iceprod.server import client_certificate
from iceprod.server.handlers.proxy.accel import AccelSender
from iceprod.services.cache import Wanted
from iceprod.services.proxying import CHECKSUM


class Asked(msgspec.Struct):
    """The body of a request; ``url`` is one address, or several of the same file."""

    url: str | list[str]
    type: Literal["download", "size", "checksum"] = "download"
    cache: bool = True


class DownloadHandler(AccelSender):
    """Answers with the file, ``{"size": N}`` or ``{"checksum": HEX, "type": "sha512"}``."""

    async def _identify(self) -> Principal:
        """As of every request that any page could make a browser send: a cookie does not count."""
        if self.credential() is None:
            return await client_certificate.principal_of(self)
        return await super()._identify()

    async def post(self) -> None:
        """Do what is asked."""
        try:
            asked = msgspec.json.decode(self.request.body, type=Asked)
        except msgspec.DecodeError as exc:
            raise FormatError(f"the body is not as it should be: {exc}") from None
        urls = [asked.url] if isinstance(asked.url, str) else asked.url
        wanted = await self.proxying.wanted(self.principal, urls)
        if asked.type == "size":
            self.write_json({"size": await self.proxying.size(wanted)})
        elif asked.type == "checksum":
            found = await self.proxying.checksum(wanted, use_cache=asked.cache)
            self.write_json({"checksum": found, "type": CHECKSUM})
        else:
            await self.send(wanted, use_cache=asked.cache)

    async def leave_file_to_nginx(self, wanted: Wanted) -> bool:
        """Never: nginx would forget the body if it had to come back to us."""
        del wanted
        return False
