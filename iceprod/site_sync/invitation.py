"""The code by which a site that was invited joins.

It holds a secret, good for one use, and the fingerprint of the authority that vouches for the
inviting site's own certificate: so who has got the code safely knows at the first contact that
it has reached whom it means, and shows the secret to nobody else.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Final, Self

from iceprod.errors import InputError

_PREFIX: Final = "ij1_"
_SECRET: Final = 20
_FINGERPRINT: Final = 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """``secret`` and ``fingerprint`` (SHA-256), both hexadecimal."""

    secret: str
    fingerprint: str

    @classmethod
    def new(cls, fingerprint: str) -> Self:
        """One with a secret of 160 random bits."""
        return cls(secrets.token_hex(_SECRET), fingerprint)

    @property
    def code(self) -> str:
        """The one text that both are given as."""
        data = bytes.fromhex(self.secret + self.fingerprint)
        return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def read(cls, code: str) -> Self:
        """What a code holds.

        Raises:
            InputError: it is none.
        """
        prefix, body = code.strip()[: len(_PREFIX)], "".join(code.split())[len(_PREFIX) :]
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except ValueError:
            data = b""
        if prefix != _PREFIX or len(data) != _SECRET + _FINGERPRINT:
            raise InputError("this is no code of an invitation, or not all of it")
        return cls(data[:_SECRET].hex(), data[_SECRET:].hex())
