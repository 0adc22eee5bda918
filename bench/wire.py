"""Connections of load generators, plain or with TLS.

An address is ``PORT`` or ``tls:PORT`` of this machine.  Certificates are not verified: who
measures knows whom it has started.
"""

from __future__ import annotations

import socket
import ssl

SIZE = 1 << 20


def connect(address: str) -> socket.socket:
    """A connection to ``address``."""
    scheme, _, port = address.rpartition(":")
    connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _context().wrap_socket(connection) if scheme else connection


def receive(connection: socket.socket) -> bytes:
    """What has arrived: of TLS all that is unpacked already, of which epoll knows nothing."""
    data = connection.recv(SIZE)
    while isinstance(connection, ssl.SSLSocket) and connection.pending():
        data += connection.recv(SIZE)
    return data


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
