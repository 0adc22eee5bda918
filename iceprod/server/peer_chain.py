"""The chain of certificates that a TLS connection has verified: the one place that asks for it.

The standard library tells the peer's own certificate only (``getpeercert``), and for a proxy
certificate that is not enough: whom it speaks for stands in the certificate behind it.  From
CPython 3.13 on ``SSLSocket.get_verified_chain`` is public; 3.10 to 3.12 have the same method
on the private object inside.  It is not replaced by what the peer has *sent*, which may be
anything: where the verified chain can't be had, nobody is known.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from iceprod.errors import NotAuthenticated
from iceprod.services.client_chain import ClientIdentity, identity_of


def verified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """Certificates in DER, the peer's own first, up to the authority.

    Raises:
        NotAuthenticated: nothing was verified in this very connection.
    """
    public: Callable[[], list[bytes]] | None = getattr(connection, "get_verified_chain", None)
    if public is not None:
        found: list[Any] | None = public()
    else:
        inner = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        found = inner.get_verified_chain() if inner is not None else None
    # A resumed session has no chain; the port offers none, so this is not to be expected.
    if not found:
        raise NotAuthenticated("the certificate of this connection was not verified")
    return [one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found]


Revoked = Callable[[ClientIdentity], bool]
"""Whether a certificate of a chain has been revoked by now."""


class ShownChain:
    """What the client of one connection has shown; found out once, asked at each request.

    It may be made before the handshake, but asked only after that.
    """

    def __init__(self, connection: ssl.SSLSocket, revoked: Revoked) -> None:
        self._connection = connection
        self._revoked = revoked
        self._found: ClientIdentity | NotAuthenticated | None = None

    @property
    def names(self) -> tuple[str, str]:
        """Subject and issuer, as far as `identity` has found them out; else both empty."""
        found = self._found
        return (found.subject, found.issuer) if isinstance(found, ClientIdentity) else ("", "")

    def identity(self) -> ClientIdentity:
        """Whom the chain speaks for.

        Raises:
            NotAuthenticated: nobody, or a certificate of it was revoked meanwhile.
        """
        if self._found is None:
            try:
                self._found = identity_of(verified_chain(self._connection))
            except NotAuthenticated as exc:
                self._found = exc
        if isinstance(self._found, NotAuthenticated):
            raise NotAuthenticated(self._found.message)
        if self._revoked(self._found):
            raise NotAuthenticated("the certificate has been revoked")
        return self._found
