"""A server that answers MongoDB's protocol with the same documents ever: it costs next to nothing.

So what is measured against it is the driver.  ``python -m bench._wire_server`` prints its port.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import cast

import bson
import uvloop

_HEAD = struct.Struct("<iiii")
_OP_MSG = 2013
_TASK = {
    "_id": "abcdefghijklm-1234567",
    "key": 1 << 45,
    "status": "processing",
    "version": 7,
    "tasks": [
        {"index": n, "status": "processing", "lease_id": "x" * 20, "lease_until": 1.5e9, "pilot_id": "p" * 13}
        for n in range(4)
    ],
}
_HELLO = {
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16777216,
    "maxMessageSizeBytes": 48000000,
    "maxWriteBatchSize": 100000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "logicalSessionTimeoutMinutes": 30,
    "ok": 1.0,
}
_ANSWERS = {
    b"find": {"cursor": {"firstBatch": [_TASK], "id": bson.Int64(0), "ns": "bench.jobs"}, "ok": 1.0},
    b"findAndModify": {"value": _TASK, "lastErrorObject": {"n": 1, "updatedExisting": True}, "ok": 1.0},
    b"update": {"n": 64, "nModified": 64, "ok": 1.0},
    b"delete": {"n": 0, "ok": 1.0},
    b"insert": {"n": 64, "ok": 1.0},
    b"hello": _HELLO,
    b"ismaster": _HELLO,
    b"isMaster": _HELLO,
}
_BODIES = {name: b"\0\0\0\0\0" + bson.encode(answer) for name, answer in _ANSWERS.items()}
_OK = b"\0\0\0\0\0" + bson.encode({"ok": 1.0})
_OLD = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(_HELLO)


class Connection(asyncio.Protocol):
    """One client; messages are answered as soon as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 16:
            length, number, _, kind = _HEAD.unpack_from(self._buffer)
            if len(self._buffer) < length:
                return
            if kind == _OP_MSG:
                # Flags, kind of section, length of the document, type of its first element: then its name.
                name = bytes(self._buffer[26 : self._buffer.index(0, 26)])
                body = _BODIES.get(name, _OK)
            else:
                body, kind = _OLD, 1
            del self._buffer[:length]
            self._transport.write(_HEAD.pack(16 + len(body), 0, number, kind) + body)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
