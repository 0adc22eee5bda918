"""Whom a chain of certificates speaks for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from x509_harness import (
    ANY_LANGUAGE,
    DRAFT_PROXY_INFO,
    INDEPENDENT,
    LIMITED,
    Holder,
    holder,
    key_usage,
    name_of,
    proxy_info,
    self_signed,
    signed_by,
    tlv,
)

from iceprod.errors import InputError, NotAuthenticated
from iceprod.model import names
from iceprod.services import client_chain
from iceprod.services.ca import SiteCA
from iceprod.services.client_chain import end_entity, identity_of, name_text

CN, ORG, DC = "2.5.4.3", "2.5.4.10", "0.9.2342.19200300.100.1.25"
ALICE = "CN=alice,OU=users,O=Test"


@pytest.fixture
def ca(tmp_path: Path) -> SiteCA:
    return SiteCA.create(tmp_path / "ca", name="Test")


@pytest.fixture
def alice(ca: SiteCA) -> Holder:
    return holder(ca, "alice")


def verified(ca: SiteCA, shown: Holder) -> list[bytes]:
    """The chain as TLS gives it: up to the authority."""
    root = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    return [*shown.chain, root.public_bytes(serialization.Encoding.DER)]


def test_a_certificate_speaks_for_its_subject(ca: SiteCA, alice: Holder) -> None:
    identity = identity_of(verified(ca, alice))

    assert (identity.subject, identity.issuer, identity.is_limited) == (ALICE, "CN=Test CA,O=Test", False)
    assert identity.ends_at == alice.certificate.not_valid_after_utc.timestamp()
    assert identity.numbers[0] == ("CN=Test CA,O=Test", alice.certificate.serial_number)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_proxy_speaks_for_whom_it_was_made_by(ca: SiteCA, alice: Holder, depth: int) -> None:
    shown = alice
    for n in range(depth):
        shown = shown.proxy(name=str(n), days=1.0 / (n + 1))

    identity = identity_of(verified(ca, shown))

    assert (identity.subject, identity.is_limited) == (ALICE, False)
    assert identity.ends_at == shown.certificate.not_valid_after_utc.timestamp()
    assert identity.numbers[0][1] == alice.certificate.serial_number


@pytest.mark.parametrize("languages", [(LIMITED, None), (None, LIMITED), (LIMITED, LIMITED)])
def test_one_limited_proxy_limits_all_that_follow(
    ca: SiteCA, alice: Holder, languages: tuple[str | None, ...]
) -> None:
    shown = alice
    for language in languages:
        shown = shown.proxy(info=proxy_info(language) if language else None)

    identity = identity_of(verified(ca, shown))

    assert (identity.subject, identity.is_limited) == (ALICE, True)


def test_a_subject_that_looks_like_a_proxy_is_nobody_elses(ca: SiteCA, alice: Holder) -> None:
    imitation = signed_by(ca, x509.Name([*alice.certificate.subject.rdns, *name_of((CN, "12345")).rdns]))

    assert identity_of(verified(ca, imitation)).subject == f"CN=12345,{ALICE}"


def test_a_path_length_is_kept(ca: SiteCA, alice: Holder) -> None:
    last = alice.proxy(info=proxy_info(path_length=0))
    one_more = alice.proxy(info=proxy_info(path_length=1)).proxy()

    assert identity_of(verified(ca, last)).subject == ALICE
    assert identity_of(verified(ca, one_more)).subject == ALICE
    with pytest.raises(NotAuthenticated, match="more proxies below"):
        identity_of(verified(ca, last.proxy()))
    with pytest.raises(NotAuthenticated, match="more proxies below"):
        identity_of(verified(ca, one_more.proxy()))


NAMES = (x509.SubjectAlternativeName([x509.DNSName("a.example.org")]), False)
AUTHORITY = (x509.BasicConstraints(ca=True, path_length=None), True)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"info": proxy_info(INDEPENDENT)}, "independent"),
        ({"info": proxy_info(ANY_LANGUAGE)}, "policy"),
        ({"info": proxy_info("06032a0304")}, "policy"),
        ({"info": proxy_info(policy=b"do little")}, "policy"),
        ({"info": tlv(0x30)}, "RFC 3820"),
        ({"info": tlv(0x30, tlv(0x02, b"\xff"), tlv(0x30, bytes.fromhex(LIMITED)))}, "RFC 3820"),
        ({"info": b"\x30\x80\0\0"}, "DER"),
        ({"info": b"\x30\x05\x30"}, "DER"),
        ({"info": b"x"}, "DER"),
        ({"critical": False}, "critical"),
        ({"oid": DRAFT_PROXY_INFO}, "before RFC 3820"),
        ({"oid": "", "name": "proxy"}, "before RFC 3820"),
        ({"oid": "", "name": "limited proxy"}, "before RFC 3820"),
        ({"subject": name_of((CN, "bob"))}, "named"),
        ({"subject": name_of((ORG, "Test"), (CN, "bob"), (CN, "1"))}, "named"),
        ({"more": [NAMES]}, "one name"),
        ({"more": [AUTHORITY]}, "may not"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "signed"),
    ],
)
def test_a_proxy_that_is_not_as_it_should_be_is_refused(
    ca: SiteCA, alice: Holder, made: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotAuthenticated, match=reason):
        identity_of(verified(ca, alice.proxy(**made)))


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=30).map(lambda inner: tlv(0x30, inner))))
def test_any_bytes_are_a_proxys_information_or_a_clear_error(der: bytes) -> None:
    try:
        info = client_chain._read_info(der)
    except (NotAuthenticated, ValueError):
        return
    assert info.path_length is None or info.path_length >= 0


def test_who_may_not_sign_makes_no_proxies(ca: SiteCA) -> None:
    mute = signed_by(ca, name_of((CN, "mute")), extensions=[(key_usage(digital_signature=False), True)])

    assert identity_of(verified(ca, mute)).subject == "CN=mute"
    with pytest.raises(NotAuthenticated, match="may not"):
        identity_of(verified(ca, mute.proxy()))


def test_an_authority_is_nobody(ca: SiteCA) -> None:
    root = x509.load_pem_x509_certificate(ca.certificate.read_bytes())

    with pytest.raises(NotAuthenticated, match="authority"):
        identity_of([root.public_bytes(serialization.Encoding.DER)])


def test_a_chain_without_an_end_is_refused(alice: Holder) -> None:
    with pytest.raises(NotAuthenticated, match="ends with a proxy"):
        identity_of(alice.proxy().chain[:1])
    with pytest.raises(NotAuthenticated, match="chain"):
        identity_of([])
    with pytest.raises(NotAuthenticated, match="chain"):
        identity_of(alice.chain * 40)
    with pytest.raises(NotAuthenticated, match="cannot be read"):
        identity_of([b"\x30\x03abc"])


def test_the_names_of_a_certificate_are_read_from_pem(alice: Holder) -> None:
    assert end_entity(alice.pem().decode()) == (ALICE, "CN=Test CA,O=Test")


def test_what_cannot_be_added_is_refused(ca: SiteCA, alice: Holder) -> None:
    for pem, reason in (
        (alice.proxy().pem().decode(), "proxy"),
        (alice.proxy(oid=DRAFT_PROXY_INFO).pem().decode(), "before RFC 3820"),
        (ca.certificate.read_text(), "authority"),
        ("nothing", "no certificate"),
    ):
        with pytest.raises(InputError, match=reason):
            end_entity(pem)


def test_a_name_without_parts_is_nobody(ca: SiteCA) -> None:
    with pytest.raises(NotAuthenticated, match="parts"):
        identity_of(verified(ca, signed_by(ca, x509.Name([]))))


HOSTILE = [
    name_of((ORG, "Grid, Inc."), (CN, 'a+b="c"<d>;\\')),
    name_of((ORG, " #spaces "), (CN, "#0C0141")),
    name_of((DC, "org"), (DC, "example"), (CN, "Zoë 日本 \u202e\U0001f9ca")),
    name_of((CN, "one\ntwo\tthree\x7f")),
    name_of((CN, "alice\x00.evil")),
    name_of((CN, "alice,OU=users,O=Test")),
    name_of((CN, "/O=Test/CN=alice")),
    name_of(("1.3.6.1.4.1.99999.7", "own type"), (CN, "x")),
    name_of(("1.2.840.113549.1.9.1", "a@example.org"), ("0.9.2342.19200300.100.1.1", "7"), ("2.5.4.5", "8")),
    name_of(
        ("2.5.4.9", "Street 1"), ("2.5.4.42", "Ada"), ("2.5.4.4", "L."), ("2.5.4.20", "1"), ("2.5.4.97", "n")
    ),
    x509.Name(
        [
            x509.RelativeDistinguishedName(
                [
                    x509.NameAttribute(x509.ObjectIdentifier(CN), "a+b"),
                    x509.NameAttribute(x509.ObjectIdentifier(ORG), "c,d"),
                ]
            )
        ]
    ),
]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_openssl_spells_a_name_so_that_it_is_known_again(name: x509.Name) -> None:
    shown = self_signed(name)

    done = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253"],
        input=shown.certificate.public_bytes(serialization.Encoding.PEM),
        capture_output=True,
        check=True,
    )

    spelt = done.stdout.decode().removeprefix("subject=").removesuffix("\n")
    assert names.parse(spelt).text == name_text(name)
