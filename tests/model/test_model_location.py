"""Addresses of files: one spelling each, and nothing that two programs may read differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.errors import InputError
from iceprod.model.location import PORTS, Location, parse_location

NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("HTTP://Example.ORG:80/a", "http://example.org/a"),
        ("https://example.org.:8443/a%20b?x=%2Fy", "https://example.org:8443/a%20b?x=%2Fy"),
        ("gsiftp://example.org", "gsiftp://example.org/"),
        ("ftp://[::0001]:2121/x", "ftp://[::1]:2121/x"),
        ("file:/data/x", "file:///data/x"),
        ("file://localhost/data/x", "file:///data/x"),
        ("http://example.org/a#part", None),
    ],
)
def test_an_address_has_one_spelling(text: str, spelled: str | None):
    if spelled is None:
        with pytest.raises(InputError):
            parse_location(text)
    else:
        assert str(parse_location(text)) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/data/x",
        "gopher://example.org/x",
        "http:///x",
        "http://user:secret@example.org/x",
        "http://user@example.org/x",
        "http://example.org:0/x",
        "http://example.org:65536/x",
        "http://example.org:/x",
        "http://example.org:8x/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f.0.0.1/x",
        "http://127.0.0.0x1/x",
        "http://0177.0.0.1/x",
        "http://[fe80::1%25eth0]/x",
        "http://[::1/x",
        "http://exa mple.org/x",
        "http://example.org\\@evil.org/x",
        "http://example.org/a/../b",
        "http://example.org/a/%2e%2E/b",
        "http://example.org/a/..;/b",
        "http://example.org/a/%2e%2e%3Bx=1/b",
        "http://example.org/a/.;/b",
        "http://example.org/a%2fb",
        "http://example.org/a%5cb",
        "http://example.org/a%00b",
        "http://example.org/a%0d%0aX: y",
        "http://example.org/a\r\nX: y",
        "http://example.org/%zz",
        "http://exämple.org/x",
        "file://server/x",
        "file:x",
        "http://example.org/" + "x" * 4096,
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused(text: str):
    with pytest.raises(InputError):
        parse_location(text)


@given(st.sampled_from(sorted(PORTS)), st.integers(1, 65535), st.lists(NAMES, max_size=5))
def test_a_location_is_found_again_from_its_address(scheme: str, port: int, names: list[str]):
    location = Location(scheme, "example.org", port, "/" + "/".join(names))

    assert parse_location(str(location)) == location


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_wrong_input(text: str):
    try:
        location = parse_location(text)
    except InputError:
        return
    assert parse_location(str(location)) == location


@pytest.mark.parametrize(
    ("text", "folder", "is_below"),
    [
        ("http://a.org/data/x", "http://a.org/data", True),
        ("http://a.org/data/x", "http://a.org/data/", True),
        ("http://a.org/data", "http://a.org/data/", True),
        ("http://a.org/x", "http://a.org/", True),
        ("http://a.org/database", "http://a.org/data", False),
        ("http://a.org:81/data/x", "http://a.org/data", False),
        ("https://a.org/data/x", "http://a.org/data", False),
        ("http://a.org.evil.org/data/x", "http://a.org/data", False),
    ],
)
def test_is_below_knows_scheme_host_port_and_whole_names(text: str, folder: str, is_below: bool):
    assert parse_location(text).is_below(parse_location(folder)) is is_below
