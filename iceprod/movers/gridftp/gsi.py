"""GSI: TLS in tokens, with the delegation that Globus puts behind the handshake. No I/O.

After TLS's handshake the client says in one byte whether it delegates.  If so, the server
answers with a certificate request, and gets the proxy signed for it and the chain behind it.
The same is spoken on the control connection (tokens in ADAT) and on data connections (bare).
Sources: GFD.24; RFC 2228 for the tokens; what globus-gridftp-server was seen to do.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator
from typing import Any, Final

from iceprod.movers.gridftp.faults import ProtocolFault

NO_DELEGATION: Final = b"0"
DELEGATION: Final = b"D"
_READ: Final = 64 * 1024
_MAX_REQUEST: Final = 64 * 1024

Tokens = Generator[bytes, bytes, None]


class GsiError(ProtocolFault):
    """The other side does not keep to the protocol."""


class Secured:
    """One end of a TLS connection that has no connection: bytes in, bytes out."""

    def __init__(
        self, context: ssl.SSLContext, *, server_name: str | None = None, accepts: bool = False
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=accepts, server_hostname=server_name)

    @property
    def peer(self) -> bytes:
        """The other side's certificate in DER; empty where it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def version(self) -> str:
        """TLS's version; empty until the handshake is done."""
        return self._tls.version() or ""

    def take(self, token: bytes) -> None:
        """Take what came from the other side."""
        self._in.write(token)

    def give(self) -> bytes:
        """What is to be sent to the other side."""
        return self._out.read()

    def rest(self) -> bytes:
        """What was taken and is no part of TLS any more."""
        return self._in.read()

    def handshake(self) -> bool:
        """Go on with the handshake as far as can be; whether it is done.

        Raises:
            ssl.SSLError: the other side is not what it should be.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encipher(self, data: bytes | memoryview) -> bytes:
        """The record (or records) of some bytes, to be sent."""
        self._tls.write(data)
        return self._out.read()

    def decipher_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with what has come; how many bytes that were. 0: nothing more for now."""
        filled = 0
        while filled < len(buffer):
            try:
                # With a buffer the count is returned; the types at hand don't know.
                count: Any = self._tls.read(len(buffer) - filled, buffer[filled:])
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break
            if not count:
                break
            filled += int(count)
        return filled

    def decipher(self, token: bytes) -> bytes:
        """All that a token holds."""
        self._in.write(token)
        held = bytearray()
        while True:
            try:
                part = self._tls.read(_READ)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return bytes(held)
            if not part:
                return bytes(held)
            held += part


def initiate(
    tls: Secured, *, check: Callable[[bytes], None], sign: Callable[[bytes], list[bytes]] | None
) -> Tokens:
    """Tokens of the client: yields what is to be sent, is sent what was answered.

    ``check`` sees the server's certificate before anything is told to it; ``sign`` makes
    certificates of a request where the client delegates.

    Raises:
        GsiError: the server says what it may not.
        ssl.SSLError: TLS does not trust it.
    """
    while not tls.handshake():
        tls.take((yield tls.give()))
    check(tls.peer)
    if last := tls.give():
        # TLS 1.3: the client speaks last. The server's answer is tickets and an empty byte.
        tls.decipher((yield last))
    answer = tls.decipher((yield tls.encipher(NO_DELEGATION if sign is None else DELEGATION)))
    if sign is None:
        return
    request = answer.lstrip(b"\0")
    if not request or len(request) > _MAX_REQUEST:
        raise GsiError("the server asks for no proxy")
    try:
        certificates = sign(request)
    except ValueError as error:
        raise GsiError(str(error)) from None
    # One record for each: in one record for all the server takes the first and garbles the rest.
    tls.decipher((yield b"".join(tls.encipher(one) for one in certificates)))
