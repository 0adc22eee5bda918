"""What GridFTP says, byte by byte: replies, blocks, listings, tokens, policies. No network."""

from __future__ import annotations

import ssl
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from iceprod.errors import AccessDenied
from iceprod.movers.gridftp import gsi, listing, mode_e, replies
from iceprod.movers.gridftp.faults import ProtocolFault, Refused
from iceprod.movers.gridftp.options import read_options
from iceprod.movers.gridftp.parallel import WINDOW_BYTES, Window
from iceprod.movers.gridftp.proxies import read_identity, sign_proxy
from iceprod.movers.gridftp.trust import may_sign, same_name
from tests.movers.gridftp_server import Authority, Holder

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in parts, cut at those places."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(marks)]


@given(
    st.lists(st.tuples(st.integers(100, 699), st.lists(LINES, min_size=1, max_size=5)), max_size=5),
    st.lists(st.integers(0, 10_000)),
)
def test_replies_are_the_same_however_they_are_cut(said, places) -> None:
    expected, wire = [], b""
    for code, lines in said:
        # A line within a reply may look like anything but its end.
        body = [f" {line}" for line in lines[1:-1]]
        texts = [lines[0], *body, *lines[-1:]] if len(lines) > 1 else lines
        first, last = texts[0], texts[-1]
        if len(texts) == 1:
            wire += f"{code} {first}\r\n".encode()
        else:
            wire += f"{code}-{first}\r\n".encode() + "".join(f"{one}\r\n" for one in texts[1:-1]).encode()
            wire += f"{code} {last}\r\n".encode()
        expected.append(replies.Reply(code, tuple(texts)))
    parser, found = replies.ReplyParser(), []
    for part in cut(wire, places):
        parser.feed(part)
        while (reply := parser.next()) is not None:
            found.append(reply)
    assert found == expected


@given(st.binary(max_size=300))
def test_any_bytes_are_replies_or_a_fault(data: bytes) -> None:
    parser = replies.ReplyParser()
    parser.feed(data)
    try:
        while parser.next() is not None:
            pass
    except replies.ReplyError:
        pass


def test_addresses_are_read() -> None:
    assert replies.passive_address("Entering Passive Mode (10,1,2,3,195,80)") == ("10.1.2.3", 50000)
    assert replies.extended_port("Entering Extended Passive Mode (|||50469|)") == 50469
    assert replies.port_argument("10.1.2.3", 50000) == "10,1,2,3,195,80"
    striped = replies.Reply(229, ("Entering Striped Passive Mode.", " 10,1,2,3,1,0", " 10,1,2,4,1,0", "End"))
    assert replies.striped_addresses(striped) == [("10.1.2.3", 256), ("10.1.2.4", 256)]


@pytest.mark.parametrize("text", ["", "(1,2,3,4,5)", "(1,2,3,4,0,0)", "(256,2,3,4,5,6)", "(a,b,c,d,e,f)"])
def test_addresses_that_are_none_are_faults(text: str) -> None:
    with pytest.raises(replies.ReplyError):
        replies.passive_address(text)
    with pytest.raises(replies.ReplyError):
        replies.striped_addresses(replies.Reply(229, (text,)))


def test_markers_are_read() -> None:
    assert replies.restart_ranges(replies.Reply(111, ("Range Marker 0-29,30-89",))) == [(0, 29), (30, 89)]
    assert replies.restart_ranges(replies.Reply(150, ("0-29",))) == []
    performance = replies.Reply(
        112, ("Perf Marker", " Timestamp: 3", " Stripe Index: 0", " Stripe Bytes Transferred: 2048", "End.")
    )
    assert replies.performance(performance) == (0, 2048)
    assert replies.performance(replies.Reply(150, performance.lines)) is None


def test_features_are_read() -> None:
    told = replies.Reply(211, ("Features", " MLST Type*;Size*;", " CKSM MD5:10;", " ERET", "End"))
    assert replies.features(told) == {"MLST": "Type*;Size*;", "CKSM": "MD5:10;", "ERET": ""}


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (550, "GridFTP-Errno: 2", "absent"),
        (550, "GridFTP-Errno: 28", "full"),
        (550, "GridFTP-Errno: 21", "directory"),
        (553, "GlobusError: v=1 c=PATH_EXISTS", "exists"),
        (500, "Command failed : Path not allowed.", "denied"),
        (452, "", "full"),
        (550, "what a day", ""),
    ],
)
def test_reasons_are_understood(code: int, text: str, reason: str) -> None:
    assert Refused("RETR", replies.Reply(code, (text,))).reason == reason


BLOCKS = st.lists(st.tuples(st.integers(0, 2**40), st.binary(max_size=50)), max_size=8)


@given(BLOCKS, st.lists(st.integers(0, 10_000)))
def test_blocks_are_the_same_however_they_are_cut(blocks, places) -> None:
    wire = b"".join(mode_e.data_header(offset, len(data)) + data for offset, data in blocks)
    wire += mode_e.end_of_connection(connections=3)
    parser, found, headers = mode_e.BlockParser(), {}, []
    for part in cut(wire, places):
        left = part
        while left:
            piece, left = left[: parser.wanted], left[parser.wanted :]
            match parser.feed(piece):
                case mode_e.Header() as header:
                    headers.append(header)
                    found.setdefault(len(headers), b"")
                case (_, data):
                    found[len(headers)] += data
    assert [found[number + 1] for number in range(len(blocks))] == [data for _, data in blocks]
    assert [each.offset for each in headers[:-1]] == [offset for offset, _ in blocks]
    assert (headers[-1].connections, headers[-1].ends_connection) == (3, True)
    assert parser.is_between_blocks


@given(st.binary(min_size=17, max_size=17))
def test_any_header_is_one_or_a_fault(data: bytes) -> None:
    try:
        header = mode_e.decode(data)
    except mode_e.BlockError:
        return
    assert mode_e.encode(header) == data
    assert header.connections is None or 0 < header.connections <= 4096


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(RANGES)
def test_ranges_are_a_set_of_bytes(given_ranges) -> None:
    ranges, model = mode_e.Ranges(), set()
    for start, end in given_ranges:
        fresh = set(range(start, end)) - model
        assert ranges.add(start, end) == len(fresh)
        model |= fresh
    assert {byte for start, end in ranges for byte in range(start, end)} == model
    assert all(end < start for (_, end), (start, _) in pairwise(ranges))
    first = next((byte for byte in range(62) if byte not in model), 62)
    assert ranges.contiguous() == first
    ranges.forget(30)
    assert {byte for start, end in ranges for byte in range(start, end)} == {
        each for each in model if each >= 30
    }


@given(st.permutations(range(20)), st.integers(1, 9))
def test_a_window_gives_parts_in_their_order(order, size: int) -> None:
    data = bytes(range(20)) * size
    window, got = Window(len(data)), b""
    for number in order:
        window.put(number * size, data[number * size : (number + 1) * size])
        while part := window.take():
            got += part
    assert got == data
    assert window.is_empty


def test_a_window_is_as_wide_as_it_is() -> None:
    window = Window(1 << 40)
    assert window.has_room(WINDOW_BYTES - 1)
    assert not window.has_room(WINDOW_BYTES)
    window.put(0, b"x")
    with pytest.raises(mode_e.BlockError):
        window.put(0, b"x")
    assert window.take() == b"x"
    with pytest.raises(mode_e.BlockError):
        window.put(0, b"x")
    with pytest.raises(mode_e.BlockError):
        window.put((1 << 40) - 1, b"xy")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\x7f", exclude_categories=["Cc", "Cs"]), min_size=1
)


@given(NAMES.filter(lambda name: name not in (".", "..")), st.integers(0, 2**60))
def test_entries_have_their_names(name: str, size: int) -> None:
    entry = listing.parse_entry(f"Type=file;Size={size};Modify=20260102030405.5;UNIX.mode=0644; {name}")
    assert entry is not None
    assert entry.name == name
    assert (entry.facts.size_bytes, entry.facts.modified_at) == (size, 1767323045.5)


@given(st.text(max_size=80))
def test_any_line_is_an_entry_or_a_fault(line: str) -> None:
    try:
        entry = listing.parse_entry(line)
    except listing.ListingError:
        return
    assert entry is None or (entry.name not in (".", "..", "") and "/" not in entry.name)


@given(st.lists(NAMES), st.lists(st.integers(0, 10_000)))
def test_lines_are_the_same_however_they_are_cut(names, places) -> None:
    splitter, found = listing.LineSplitter(), []
    for part in cut("".join(f"{name}\r\n" for name in names).encode(), places):
        found += splitter.feed(part)
    assert found + splitter.finish() == names


@pytest.mark.parametrize("line", ["Type=cdir; .", "Type=pdir; ..", "Type=dir; /a/b/..", "Type=cdir; /a"])
def test_the_directory_itself_is_no_entry(line: str) -> None:
    try:
        assert listing.parse_entry(line) is None
    except listing.ListingError:
        assert ".." in line


@pytest.mark.parametrize("text", ["", "2026", "20261399000000", "x" * 14])
def test_times_that_are_none_are_none(text: str) -> None:
    assert listing.parse_time(text) is None


POLICY = """
# two authorities in one file
 access_id_CA      X509         '/C=DE/O=Grid/CN=Other'
 pos_rights        globus        CA:sign
 cond_subjects     globus       '"/C=DE/*"'
access_id_CA  X509  "/DC=test/CN=CA"   # ours
pos_rights    globus CA:sign
cond_subjects globus '"/DC=test/O=a?/*" "/DC=test/Email=x@y/*"'
"""


@pytest.mark.parametrize(
    ("authority", "subject", "may"),
    [
        ("/DC=test/CN=CA", "/DC=test/O=ab/CN=x", True),
        ("/DC=test/CN=CA", "/DC=test/O=abc/CN=x", False),
        ("/DC=test/CN=CA", "/DC=test/emailAddress=x@y/CN=z", True),
        ("/DC=test/CN=CA", "/C=DE/CN=x", False),
        ("/C=DE/O=Grid/CN=Other", "/C=DE/CN=x", True),
        ("/DC=test/CN=Unknown", "/DC=test/O=ab/CN=x", False),
    ],
)
def test_policies_say_who_signs_what(authority: str, subject: str, may: bool) -> None:
    assert may_sign(POLICY, authority, subject) is may
    assert not may_sign(POLICY.replace("CA:sign", "CA:other"), authority, subject)
    assert not may_sign("", authority, subject)


def test_names_are_the_same_in_all_spellings() -> None:
    assert same_name("/O=x/Email=a@b/USERID=c", "/O=x/emailAddress=a@b/UID=c")
    assert not same_name("/O=x/CN=a", "/O=x/CN=b")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authorities"))


@pytest.fixture(scope="module")
def alice(authority: Authority) -> Holder:
    return authority.user("alice")


def request_for(key: rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("limited", [True, False])
def test_a_proxy_is_signed_as_asked(
    authority: Authority, alice: Holder, tmp_path: Path, limited: bool
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    chain = sign_proxy(read_identity(alice.pem), request_for(key), limited=limited)

    proxy, above = (x509.load_der_x509_certificate(each) for each in chain)
    assert proxy.public_key() == key.public_key()
    assert proxy.issuer == above.subject == alice.certificate.subject
    assert proxy.not_valid_after_utc <= above.not_valid_after_utc
    held = Holder(proxy, key, (above,))
    assert read_identity(held.pem).is_limited is limited
    # What comes of a limited proxy is limited whatever is asked.
    again = sign_proxy(read_identity(held.pem), request_for(key), limited=False)
    assert (
        read_identity(Holder(x509.load_der_x509_certificate(again[0]), key, (proxy, above)).pem).is_limited
        is limited
    )


@pytest.mark.parametrize("request_der", [b"", b"garbage", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_request_is_not_signed(alice: Holder, request_der: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        sign_proxy(read_identity(alice.pem), request_der, limited=True)


def test_credentials_show_nothing_of_themselves(alice: Holder) -> None:
    identity = read_identity(alice.pem)
    assert "PRIVATE" not in repr(identity)
    with pytest.raises(AccessDenied) as raised:
        read_identity(alice.pem.replace(b"MII", b"XXX"))
    assert "XXX" not in f"{raised.value!r} {raised.value.__cause__}"


def spoken(host: Holder, alice: Holder, authority: Authority, *, sign, version, name: str = "localhost"):
    """The client's tokens answered by a server of TLS; the server's end and what it got at last."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.maximum_version = version
    read_identity(host.pem).show(accepting)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(capath=str(authority.folder))
    read_identity(alice.pem).show(client)
    tls, server = gsi.Secured(client, server_name=name), gsi.Secured(accepting, accepts=True)
    seen: list[bytes] = []
    tokens = gsi.initiate(tls, check=seen.append, sign=sign)
    token, got = next(tokens), b""
    for _ in range(10):
        server.take(token)
        if server.handshake():
            got = server.decipher(b"")
        answer = server.encipher(b"\0") if not got and server.version == "TLSv1.3" else server.give()
        try:
            token = tokens.send(answer if got == b"" else server.encipher(b"\0garbage"))
        except StopIteration:
            break
    assert seen == [host.certificate.public_bytes(serialization.Encoding.DER)]
    return got


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_client_says_whether_it_delegates(authority: Authority, alice: Holder, version) -> None:
    host = authority.host("localhost")
    asked: list[bytes] = []

    def sign(request: bytes) -> list[bytes]:
        asked.append(request)
        raise ValueError("no request")

    assert spoken(host, alice, authority, sign=None, version=version) == b"0"
    with pytest.raises(ProtocolFault, match="no request"):
        spoken(host, alice, authority, sign=sign, version=version)
    assert asked == [b"garbage"]
    with pytest.raises(ssl.SSLCertVerificationError):
        spoken(host, alice, authority, sign=None, version=version, name="elsewhere")


def test_options_stand_for_what_they_say() -> None:
    assert read_options({}).delegates
    assert not read_options({"delegate": "no"}).delegates
    assert read_options({"streams": "8", "striped": "yes"}).streams == 8
    near = read_options({"data_hosts": "10.0.0.0/8, fd00::/8"})
    assert near.allows_data_host("10.2.3.4", "192.0.2.1")
    assert near.allows_data_host("192.0.2.1", "::ffff:192.0.2.1")
    assert not near.allows_data_host("11.2.3.4", "192.0.2.1")
