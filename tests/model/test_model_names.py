"""Distinguished names: three spellings, one meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.errors import InputError
from iceprod.model.names import Name, parse, parse_rfc4514, parse_slashes

CN, ORG, OU = "2.5.4.3", "2.5.4.10", "2.5.4.11"
DC, UID = "0.9.2342.19200300.100.1.25", "0.9.2342.19200300.100.1.1"

oids = st.sampled_from([CN, ORG, OU, DC, UID, "1.2.840.113549.1.9.1", "1.3.6.1.4.1.99999.1"])
awkward = st.sampled_from(
    [
        ",",
        "+",
        "=",
        "\\",
        '"',
        "#",
        " ",
        ";",
        "<",
        "/",
        "é",
        "日",
        "\n",
        "\0",
        "\u202e",
        "A",
        "0",
        "\U0001f9ca",
    ]
)
values = st.one_of(st.lists(awkward, max_size=8).map("".join), st.text(max_size=12)).filter(
    lambda text: text.isascii() or not any(0xD800 <= ord(one) < 0xE000 for one in text)
)
parts = st.lists(st.tuples(oids, values), min_size=1, max_size=3)
names = st.lists(parts, min_size=1, max_size=5).map(Name.of)


def openssl_spelling(name: Name) -> str:
    """As OpenSSL writes for RFC 2253, by its own rules: another program's escapes, not ours."""

    def value(text: str) -> str:
        shown = []
        for place, one in enumerate(text):
            at_edge = (one == " " and place in (0, len(text) - 1)) or (one == "#" and place == 0)
            if one in ',+"\\<>;' or at_edge:
                shown.append("\\" + one)
            elif " " <= one <= "~":
                shown.append(one)
            else:
                shown.extend(f"\\{byte:02X}" for byte in one.encode())
        return "".join(shown)

    return ",".join("+".join(f"{oid}={value(text)}" for oid, text in part) for part in reversed(name.parts))


@given(names)
def test_the_text_of_a_name_means_that_name(name: Name) -> None:
    assert parse_rfc4514(name.text) == name
    assert parse_rfc4514(name.text).text == name.text


@given(names, names)
def test_different_names_have_different_texts(one: Name, other: Name) -> None:
    assert (one == other) == (one.text == other.text)


@given(names)
def test_what_openssl_writes_is_read(name: Name) -> None:
    assert parse_rfc4514(openssl_spelling(name)) == name


@given(names)
def test_a_text_is_printable_and_in_one_line(name: Name) -> None:
    assert name.text.isascii()
    assert name.text.isprintable()


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    try:
        name = parse(text)
    except InputError:
        return
    assert parse_rfc4514(name.text) == name


plain = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="/\\"), min_size=1, max_size=12
)


@given(
    st.lists(st.tuples(st.sampled_from([("CN", CN), ("O", ORG), ("DC", DC)]), plain), min_size=1, max_size=5)
)
def test_both_spellings_of_a_plain_name_mean_the_same(pairs: list[tuple[tuple[str, str], str]]) -> None:
    slashes = "".join(f"/{short}={value}" for (short, _), value in pairs)
    expected = Name.of([[(oid, value)] for (_, oid), value in pairs])

    assert parse(slashes) == expected
    assert parse(expected.text) == expected


@pytest.mark.parametrize(
    ("slashes", "text"),
    [
        ("/DC=test/DC=iceprod/CN=alice", "CN=alice,DC=iceprod,DC=test"),
        ("/O=Grid/CN=host/www.example.org", "CN=host/www.example.org,O=Grid"),
        ("/O=Grid, Inc./CN=a+b", "CN=a\\+b,O=Grid\\, Inc."),
        ("/O=Grid/CN=Ren\\xC3\\xA9", "CN=Ren\\C3\\A9,O=Grid"),
        ("/O=Grid/CN=Ada/emailAddress=ada@example.org", "emailAddress=ada@example.org,CN=Ada,O=Grid"),
        ("/O=Grid/USERID=ada", "UID=ada,O=Grid"),
    ],
)
def test_globus_spelling_is_read(slashes: str, text: str) -> None:
    assert parse(slashes).text == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("CN = Ada, O = Grid", None),  # a space before a value has to be escaped
        ("cn=Ada,o=Grid", "CN=Ada,O=Grid"),
        ("2.5.4.3=Ada,2.5.4.10=Grid", "CN=Ada,O=Grid"),
        ("CN=Ada, O=Grid", "CN=Ada,O=Grid"),
        ("UID=7+CN=Ada,O=Grid", "UID=7+CN=Ada,O=Grid"),
        ("CN=Ada+UID=7,O=Grid", "UID=7+CN=Ada,O=Grid"),
        ("1.3.6.1.4.1.99999.1=#0C02C3A9,O=Grid", "1.3.6.1.4.1.99999.1=\\C3\\A9,O=Grid"),
        ("CN=#1E04006100E9", "CN=a\\C3\\A9"),
        ("CN=\\#1E04", "CN=\\#1E04"),
        ("CN=a\\=b", "CN=a=b"),
        ("CN=,O=Grid", "CN=,O=Grid"),
    ],
)
def test_rfc4514_spelling_is_read(given: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(InputError):
            parse(given)
    else:
        assert parse(given).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ada",
        "/",
        "//CN=a",
        "/Ada",
        "x/CN=Ada",
        "CN=a,",
        "CN=a+",
        ",CN=a",
        "=a",
        "CN",
        "CN=a;O=b",
        'CN="a,O=b"',
        "CN=a\\",
        "CN=a\\x",
        "CN=\\FF",  # no UTF-8
        "CN=#",
        "CN=#0",
        "CN=#0C05",
        "CN=#0401FF",  # an OCTET STRING is no text
        "CN=#0C8101",
        "XYZ=a",
        "9.9.9=a",
        "2.05.4=a",
        "CN=\ud800",
        "CN=" + "a" * 5000,
        "1" + ".1" * 3000 + "=a",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_a_part_of_two_values_is_not_two_parts() -> None:
    assert parse("CN=a+CN=b") != parse("CN=a,CN=b")
    assert parse("CN=a+CN=b") == parse("CN=b+CN=a")
    assert parse_slashes("/CN=b/CN=a") == parse("CN=a,CN=b")
