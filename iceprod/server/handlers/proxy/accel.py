"""Having nginx send: copies from the disk, and files of plain http origins straight from there.

nginx offers its internal places by headers that it overwrites in every request, so that no
client can.  It goes wherever it is sent: so it gets an address that was resolved and checked
here, beside the name that the origin is to be asked by, and can't be led elsewhere by a name
that has changed meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from iceprod.model.location import Location
from iceprod.movers.base import Access
from iceprod.movers.dialing import checked_addresses
from iceprod.movers.http_wire import ascii_target
from iceprod.server import client_certificate
from iceprod.server.handlers.proxy.sending import Sender
from iceprod.services.accounting import flow_text
from iceprod.services.cache import Reading, Wanted

CACHE: Final = "/_cache/"
FETCH: Final = "/_fetch"
_HOLD_S: Final = 30.0
"""How long nginx may take to open a copy that it was told to send."""


class AccelSender(Sender):
    """A sender that leaves to nginx what nginx can send."""

    _is_left = False

    def _is_offered(self, header: str, place: str) -> bool:
        headers = self.request.headers
        is_offered = headers.get(header) == place and client_certificate.is_proxy_believed(self)
        # Of conditions on an ETag nginx knows If-Range alone.
        return is_offered and "If-None-Match" not in headers and "If-Match" not in headers

    def leave_copy_to_nginx(self, wanted: Wanted, reading: Reading) -> bool:
        """Tell nginx which copy to send."""
        name = self.proxying.cache.accel_name(wanted, reading)
        if name is None or not self._is_offered("X-Accel-Cache", CACHE):
            return False
        self.set_header("X-Accel-Redirect", CACHE + name)
        self._account(wanted)
        self._is_left = True
        return True

    def let_go(self, reading: Reading) -> None:
        """Close a copy, after a while if nginx has yet to open it: it could be evicted meanwhile."""
        if self._is_left:
            asyncio.get_running_loop().call_later(_HOLD_S, reading.close)
        else:
            reading.close()

    async def leave_file_to_nginx(self, wanted: Wanted) -> bool:
        """Tell nginx where to fetch a file, if it is one that it can fetch."""
        source = wanted.sources[0]
        is_simple = len(wanted.sources) == 1 and source.location.scheme == "http"
        credential = source.origin.access.credential
        if not is_simple or not self._is_offered("X-Accel-Fetch", FETCH):
            return False
        if credential is not None and credential.kind not in ("token", "password"):
            return False
        address = await checked_address(source.location, source.origin.access)
        self.set_header("X-Fetch-URL", f"http://{address}{ascii_target(source.location.target)}")
        self.set_header("X-Fetch-Host", source.location.authority)
        if credential is not None:
            self.set_header("X-Fetch-Authorization", _authorization(source.origin.access))
        self.describe_name(wanted)
        self.set_header("X-Accel-Redirect", FETCH)
        self._account(wanted)
        return True

    def _account(self, wanted: Wanted) -> None:
        """Say whose bytes nginx is going to send, and how fast it may."""
        self.set_header("X-Account", flow_text(self.proxying.flow(wanted)))
        speed = self.proxying.speed(wanted)
        if speed is not None:
            self.set_header("X-Accel-Limit-Rate", str(max(1, int(speed))))


async def checked_address(location: Location, access: Access) -> str:
    """``ADDRESS:PORT`` of an origin's host, the address being one that may be connected to.

    Raises:
        AccessDenied: one of its addresses may not.
        TransferFailed: it has none.
    """
    address = (await checked_addresses(location.host, location.port, access.policy))[0]
    return f"[{address}]:{location.port}" if ":" in address else f"{address}:{location.port}"


def _authorization(access: Access) -> str:
    credential = access.credential
    if credential is None:
        return ""
    if credential.kind == "token":
        return f"Bearer {credential.secret.decode('latin-1').strip()}"
    pair = credential.user.encode() + b":" + credential.secret
    return f"Basic {base64.b64encode(pair).decode()}"
