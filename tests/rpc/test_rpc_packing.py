"""Compressed messages: taken where they are what they say, and never much work for few bytes."""

from __future__ import annotations

import gzip
import zlib

import pytest

from iceprod.rpc.packing import pack, unpack

MESSAGE = b'{"jsonrpc": "2.0", "method": "echo", "params": {"value": "e"}, "id": 1}'


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " gzip "])
def test_what_was_packed_is_unpacked(coding: str) -> None:
    assert unpack(pack(MESSAGE), coding, limit=1000) == MESSAGE
    assert unpack(gzip.compress(MESSAGE), coding, limit=1000) == MESSAGE
    assert gzip.decompress(pack(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("coding", ["", "identity"])
def test_what_is_not_packed_stays_as_it_is(coding: str) -> None:
    assert unpack(MESSAGE, coding, limit=1000) == MESSAGE


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip"])
def test_another_coding_is_not_read(coding: str) -> None:
    assert unpack(MESSAGE, coding, limit=1000) == b""


@pytest.mark.parametrize(
    "body",
    [b"", MESSAGE, pack(MESSAGE)[:-1], pack(MESSAGE)[:20], zlib.compress(MESSAGE), b"\x1f\x8b" + b"\0" * 40],
)
def test_what_is_damaged_is_not_read(body: bytes) -> None:
    assert unpack(body, "gzip", limit=1000) == b""


def test_of_what_is_too_long_there_is_one_byte_more_than_the_limit() -> None:
    text = bytes(range(256)) * 10

    assert len(unpack(pack(text), "gzip", limit=1000)) == 1001
    assert unpack(pack(text), "gzip", limit=len(text)) == text


def test_few_bytes_are_not_made_many() -> None:
    bomb = pack(b"[" * 10_000_000)

    assert len(bomb) < 20_000
    assert unpack(bomb, "gzip", limit=16 * 1024 * 1024) == b""
