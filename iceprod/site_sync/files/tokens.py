"""The tokens of errands at rest: sealed with the keys that credentials for origins are.

Whoever has a copy of the store, or a backup, but not the key file, reaches no file of a parent by
it.  Without its key a token cannot be used here either; the errand then needs to be lent anew.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Final

from iceprod.errors import ConflictError, Unavailable
from iceprod.model.federation import Errand
from iceprod.services.vault_keys import KeyRing
from iceprod.site_sync.messages import Lent

_PREFIX: Final = "sealed:"
"""With it begins what is sealed; what an earlier release has written down does not, and is the token."""


class ErrandTokens:
    """Seals what parents give, and opens it to reach their files."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def seal(self, lent: Sequence[Lent]) -> list[str]:
        """The tokens of tasks as they may be written down.

        Raises:
            Unavailable: the key file cannot be used.
        """
        return await asyncio.to_thread(lambda: [self._seal(one.lease_id, one.token) for one in lent])

    async def open(self, errand: Errand) -> str:
        """The token of an errand.

        Raises:
            Unavailable: its key is not there, or it was damaged.
        """
        if not errand.token.startswith(_PREFIX):
            return errand.token
        try:
            return await asyncio.to_thread(self._open, errand.lease_id, errand.token.removeprefix(_PREFIX))
        except (ConflictError, Unavailable):
            raise Unavailable(
                f"the key of the token for files of {errand.parent} is not in the key file of this server,"
                " or the token was damaged"
            ) from None

    def _seal(self, lease_id: str, token: str) -> str:
        sealed = self._keys.seal(token.encode(), _purpose(lease_id))
        return _PREFIX + base64.b64encode(sealed).decode()

    def _open(self, lease_id: str, text: str) -> str:
        try:
            sealed = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ConflictError("this is nothing that was sealed") from None
        return self._keys.open(sealed, _purpose(lease_id)).decode()


def _purpose(lease_id: str) -> bytes:
    """What a sealed token is good for: one errand, and never a credential."""
    return f"errand\n{lease_id}".encode()
