"""Files of other places, fetched and stored through the site that the pilot works for.

The site speaks protocols that this pilot does not, has the credentials for them, keeps copies,
and may be the only way out of a cluster's network.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iceprod.errors import InputError
from iceprod.model.location import Location, parse_location
from iceprod.pilot import http_files
from iceprod.pilot.http_files import Broken, Refused

POLL_S = 1.0
"""How often it is asked whether a file has reached its place."""
_FAILED = frozenset({"failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Relay:
    """The site, and below which addresses files go through it; ``base_url`` has no slash at its end."""

    base_url: str = ""
    prefixes: tuple[str, ...] = ()

    def takes(self, url: str) -> bool:
        """Whether a file of that address is moved by the site."""
        here = _location(url) if self.prefixes else None
        places = (_location(prefix) for prefix in self.prefixes)
        return here is not None and any(place is not None and here.is_below(place) for place in places)

    def fetch(self, url: str, path: Path, headers: Mapping[str, str]) -> None:
        """Get the file at ``url`` into ``path``; raises as `http_files.fetch`."""
        http_files.fetch(f"{self.base_url}/proxy?url={urllib.parse.quote(url, safe='')}", path, headers)

    def store(
        self, path: Path, url: str, headers: Mapping[str, str], *, wait: Callable[[float], object]
    ) -> None:
        """Put ``path`` at ``url``, and wait until it has come there.

        ``wait`` sleeps, and raises to give up.  Raises Refused or Broken.
        """
        digest = hashlib.sha512()
        with path.open("rb") as file:
            while block := file.read(http_files.BLOCK_BYTES):
                digest.update(block)
        announced = {
            "url": url,
            "size": path.stat().st_size,
            "checksum": digest.hexdigest(),
            "checksum_type": "sha512",
        }
        begun = http_files.post_json(f"{self.base_url}/upload", announced, headers)
        place = f"{self.base_url}{begun['upload']}"
        http_files.send(path, place, {})
        while True:
            told = http_files.post_json(f"{place}/check", {}, {})
            if told.get("stored"):
                return
            if told.get("result") is False or told.get("stage") in _FAILED:
                raise Refused(f"{url}: {told.get('error') or 'the site could not put it there'}")
            wait(POLL_S)

    def register(self, files: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> None:
        """Tell the site's catalogue of files that were put elsewhere; raises Refused or Broken."""
        call = {"jsonrpc": "2.0", "id": 1, "method": "file.register", "params": {"files": list(files)}}
        answer = http_files.post_json(f"{self.base_url}/jsonrpc", call, headers)
        error = answer.get("error")
        if error:
            kind = Broken if (error.get("data") or {}).get("retryable") else Refused
            raise kind(f"the site's catalogue: {error.get('message')}")


NO_RELAY = Relay()
"""No site, as in an offline run."""


def described(path: Path, url: str) -> dict[str, Any] | None:
    """A file as the catalogue wants to know it, by the path of its address; None if that names no place."""
    location = _location(url)
    name = "" if location is None else location.path.strip("/")
    if not name:
        return None
    size = path.stat().st_size
    sums = {"sha256": http_files.file_digest(path).hex()}
    return {"name": name, "size_bytes": size, "checksums": sums, "url": str(location)}


def _location(url: str) -> Location | None:
    try:
        return parse_location(url)
    except InputError:
        return None
