"""TLS, who a client says it is, and who it is: against a real nginx."""

from __future__ import annotations

import socket
import ssl

import pycurl
import pytest

from tests.nginx_harness import Authority, needs_nginx

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

FORGED = {
    "X-SSL-Verify": "SUCCESS",
    "X-SSL-Subject-DN": "CN=root",
    "X-SSL-Issuer-DN": "CN=ca",
    "X-SSL-Fingerprint": "00",
    "X-SSL-Serial": "1",
    "X-Real-IP": "10.9.8.7",
    "X-Forwarded-For": "10.9.8.7",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil",
    "X-Scheme": "http",
    "Forwarded": "for=10.9.8.7",
    "X-File": "/etc/passwd",
    "X-File-Length": "12",
    "X-Original-URI": "/files/site_temp/x",
    "X-Accel-Redirect": "/_files/x",
    "X-Accel-Internal": "/etc/",
    "X-Request-Id": "f" * 32,
}


def asked(echo, upstream, path, **more):
    """The request as it reached the server."""
    answer = echo.ask(path, **more)
    assert answer.status == 200
    return upstream.requests(path)[-1].headers


def test_the_newest_http_is_spoken_over_tls(echo):
    answer = echo.ask("/x", options={pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS})
    assert (answer.status, answer.version) == (200, pycurl.CURL_HTTP_VERSION_2_0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_of_today_is_taken(echo, version):
    with echo.connect(minimum_version=version, maximum_version=version) as connection:
        assert connection.version() == version.name.replace("_", ".")
        assert {"AESGCM", "GCM", "CHACHA20"} & set(connection.cipher()[0].replace("_", "-").split("-"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_of_yesterday_is_refused(echo):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = ssl.create_default_context(cafile=str(echo.authority.certificate))
        # Without this, OpenSSL itself would not even try.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", echo.port), timeout=30) as plain,
            pytest.raises(ssl.SSLError) as refused,
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        assert "ALERT_PROTOCOL_VERSION" in str(refused.value)


def test_ciphers_without_forward_secrecy_are_refused(echo):
    context = ssl.create_default_context(cafile=str(echo.authority.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384:ECDHE-ECDSA-AES256-SHA384:AES128-SHA")
    with socket.create_connection(("127.0.0.1", echo.port), timeout=30) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_http_sends_everybody_on_to_https_and_keeps_method_and_query(echo, upstream):
    before = len(upstream.seen)
    plain = f"http://127.0.0.1:{echo.settings.nginx.http_port}"

    answer = echo.ask(f"{plain}/jsonrpc?a=%2B", method="POST", body=b"{}")

    assert answer.status == 308
    assert answer.headers["location"] == f"{echo.url}/jsonrpc?a=%2B"
    assert "strict-transport-security" not in answer.headers
    assert len(upstream.seen) == before


def test_plain_http_on_the_port_of_https_is_sent_on_as_well(echo):
    answer = echo.ask(f"http://127.0.0.1:{echo.port}/x")
    assert (answer.status, answer.headers["location"]) == (308, f"{echo.url}/x")


def test_browsers_are_told_to_come_by_https_only(echo, echo_with):
    assert echo.ask("/x").headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in echo_with(hsts_s=0).ask("/x").headers


def test_what_a_client_forges_reaches_nobody(echo, upstream):
    found = asked(echo, upstream, "/forged", headers=FORGED)

    assert {name: found[name.lower()] for name in FORGED if name.lower() in found} == {
        "X-SSL-Verify": "NONE",
        "X-Real-IP": "127.0.0.1",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Accel-Internal": "/_files/",
        "X-Request-Id": found["x-request-id"],
    }
    assert found["x-request-id"] != FORGED["X-Request-Id"]


@pytest.mark.parametrize("path", ["/jsonrpc", "/events/datasets/x", "/files/site_temp/x", "/"])
def test_no_way_to_the_server_lets_forged_headers_through(echo, upstream, path):
    upstream.seen.clear()
    for method in ("GET", "POST", "DELETE"):
        echo.ask(path, method=method, headers=FORGED, body=b"x" if method == "POST" else None)

    assert upstream.seen
    for seen in upstream.seen:
        told = {name: seen.headers.get(name.lower()) for name in FORGED}
        kept = {name for name, value in FORGED.items() if told[name] == value}
        # What nginx itself asks names the address that is asked for, here the very one.
        assert kept <= ({"X-Original-URI"} if seen.path.startswith("/_nginx/") else set()), (method, seen)


def test_a_client_certificate_says_who_it_is(echo, upstream, authority):
    found = asked(echo, upstream, "/who", identity=authority.issue("pilot-7"), headers=FORGED)

    assert found["x-ssl-verify"] == "SUCCESS"
    assert found["x-ssl-subject-dn"] == "CN=pilot-7,O=IceProd"
    assert found["x-ssl-issuer-dn"] == "CN=IceProd Test CA,O=IceProd"
    assert len(found["x-ssl-fingerprint"]) == 40
    assert int(found["x-ssl-serial"], 16) > 0


def test_a_client_without_a_certificate_is_taken_as_one_without(echo, upstream):
    found = asked(echo, upstream, "/nobody")
    assert {name for name in found if name.startswith("x-ssl")} == {"x-ssl-verify"}
    assert found["x-ssl-verify"] == "NONE"


@pytest.mark.parametrize("version", [pycurl.CURL_HTTP_VERSION_1_1, pycurl.CURL_HTTP_VERSION_2TLS])
def test_wrong_and_expired_certificates_are_refused_in_clear_words(
    echo, upstream, tmp_path, authority, version
):
    upstream.seen.clear()
    upstream.answers["/_nginx/refused-certificate"] = (403, {}, b"")
    expired = authority.issue("late", is_expired=True)
    stranger = Authority(tmp_path, "Somebody Else").issue("mallory")
    same_name = Authority(tmp_path / "same").issue("mallory")

    for identity, word in ((expired, "expired"), (stranger, "FAILED"), (same_name, "FAILED")):
        answer = echo.ask("/x", identity=identity, options={pycurl.HTTP_VERSION: version})
        assert answer.status == 403
        assert answer.json["error"]["code"] == "access_denied"
        assert word in answer.json["error"]["message"]
        assert "content-security-policy" in answer.headers
    assert {seen.path for seen in upstream.seen} == {"/_nginx/refused-certificate"}
    assert echo.ask("/x").status == 200


def test_a_revoked_certificate_is_refused(echo_with, upstream, authority):
    revoked, other = authority.issue("gone"), authority.issue("stays")
    front = echo_with(client_crl=authority.revoke(revoked))

    answer = front.ask("/x", identity=revoked)

    assert (answer.status, "revoked" in answer.json["error"]["message"]) == (403, True)
    assert asked(front, upstream, "/stays", identity=other)["x-ssl-verify"] == "SUCCESS"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("asks", [True, False])
def test_sessions_are_resumed_only_where_nobody_shows_a_certificate(echo_with, authority, version, asks):
    """Who resumes one is not verified again, so a certificate would count after it was revoked."""
    front = echo_with(client_ca=authority.certificate if asks else None)
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.minimum_version = context.maximum_version = version

    resumed, session = [], None
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", front.port), timeout=30)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):  # in TLS 1.3 a session comes with the answer
                pass
            resumed.append(connection.session_reused)
            session = connection.session

    assert resumed == [False, not asks]


@pytest.mark.parametrize("version", [pycurl.CURL_HTTP_VERSION_1_1, pycurl.CURL_HTTP_VERSION_2TLS])
def test_the_server_learns_by_what_address_it_was_asked(echo, upstream, version):
    found = asked(echo, upstream, "/host", options={pycurl.HTTP_VERSION: version})
    assert found["host"] == f"127.0.0.1:{echo.port}"


def test_without_an_authority_no_certificate_is_asked_for(echo_with, upstream, authority):
    front = echo_with(client_ca=None)
    found = asked(front, upstream, "/none", identity=authority.issue("pilot-8"), headers=FORGED)
    assert found["x-ssl-verify"] == "NONE"
    assert "x-ssl-subject-dn" not in found
