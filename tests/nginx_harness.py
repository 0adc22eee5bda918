"""A real nginx in front of a real site, or of a server that only notes what it is asked."""

from __future__ import annotations

import datetime
import http.server
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pycurl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from iceprod.config import Settings, load
from iceprod.server import nginx as frontend

START_S = 30.0
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None, reason="needs nginx"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority made for the tests."""

    def __init__(self, folder: Path, name: str = "IceProd Test CA") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        folder.mkdir(parents=True, exist_ok=True)
        ca = x509.BasicConstraints(ca=True, path_length=None)
        made = (
            self._begin(self._name, self._key)
            .add_extension(ca, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, is_expired: bool = False, subject: x509.Name | None = None) -> Identity:
        """A certificate for ``name``, for this machine's addresses too."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        made = (
            self._begin(subject or _named(name), key, is_expired=is_expired)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        identity.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return identity

    def revoke(self, identity: Identity) -> Path:
        """A list of revoked certificates with that one alone."""
        now = datetime.datetime.now(datetime.UTC)
        serial = x509.load_pem_x509_certificate(identity.certificate.read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        listing = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - datetime.timedelta(hours=1))
            .next_update(now + datetime.timedelta(days=1))
            .add_revoked_certificate(revoked)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / "crl.pem"
        path.write_bytes(listing.public_bytes(serialization.Encoding.PEM))
        return path

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_expired: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        end = now - datetime.timedelta(hours=1) if is_expired else now + datetime.timedelta(days=2)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(end)
        )


def _named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "IceProd"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


@dataclass(frozen=True)
class Answer:
    """What came back; names of headers in lower case, repeated ones joined by a line feed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    version: int
    sent_bytes: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Front:
    """nginx with these settings; started on entering, ended by its pid on leaving."""

    settings: Settings
    authority: Authority
    process: subprocess.Popen[bytes] | None = None
    token: str = ""

    @property
    def port(self) -> int:
        return self.settings.nginx.https_port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def directory(self) -> Path:
        return self.settings.nginx_path

    def __enter__(self) -> Self:
        frontend.generate(self.settings)
        command = frontend.command(self.settings)
        said = self.directory / "stderr.log"
        with said.open("wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr)
        until(lambda: self.has_pid(self.process.pid) or self.process.poll() is not None)
        assert self.process.poll() is None, said.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def has_pid(self, pid: int) -> bool:
        file = self.directory / "nginx.pid"
        return file.exists() and file.read_text() == f"{pid}\n"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        token: str | None = None,
        curl: pycurl.Curl | None = None,
        options: Mapping[int, Any] | None = None,
    ) -> Answer:
        """One request over TLS; the server's certificate is verified."""
        own = curl is None
        handle = curl or pycurl.Curl()
        handle.reset()
        received, lines = io.BytesIO(), []
        handle.setopt(pycurl.URL, path if "://" in path else self.url + path)
        handle.setopt(pycurl.PATH_AS_IS, 1)
        handle.setopt(pycurl.CAINFO, str(self.authority.certificate))
        handle.setopt(pycurl.CUSTOMREQUEST, method)
        handle.setopt(pycurl.TIMEOUT, 60)
        handle.setopt(pycurl.WRITEDATA, received)
        handle.setopt(pycurl.HEADERFUNCTION, lines.append)
        if method == "HEAD":
            handle.setopt(pycurl.NOBODY, 1)
        if body is not None:
            handle.setopt(pycurl.UPLOAD, 1)
            handle.setopt(pycurl.READDATA, io.BytesIO(body))
            handle.setopt(pycurl.INFILESIZE, len(body))
        if identity is not None:
            handle.setopt(pycurl.SSLCERT, str(identity.certificate))
            handle.setopt(pycurl.SSLKEY, str(identity.key))
        given = {"Expect": "", **(headers or {})}
        if token is None:
            token = self.token
        if token:
            given["Authorization"] = f"Bearer {token}"
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in given.items()])
        for option, value in (options or {}).items():
            handle.setopt(option, value)
        try:
            handle.perform()
            return Answer(
                handle.getinfo(pycurl.RESPONSE_CODE),
                _headers(lines),
                received.getvalue(),
                handle.getinfo(pycurl.INFO_HTTP_VERSION),
                int(handle.getinfo(pycurl.SIZE_UPLOAD_T)),
            )
        finally:
            if own:
                handle.close()

    def connect(self, *, identity: Identity | None = None, **versions: ssl.TLSVersion) -> ssl.SSLSocket:
        """A connection for requests that no well-behaved client makes."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        for name, version in versions.items():
            setattr(context, name, version)
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        try:
            return context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise

    def access_log(self) -> list[dict[str, Any]]:
        """Every request that was logged."""
        return [json.loads(line) for line in (self.directory / "logs/access.log").read_text().splitlines()]


def _headers(lines: list[bytes]) -> dict[str, str]:
    """The headers of the last answer among those that came (100 Continue is one, too)."""
    found: dict[str, str] = {}
    for line in lines:
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            found = {}
        elif ":" in text:
            name, _, value = text.partition(":")
            key = name.strip().lower()
            found[key] = f"{found[key]}\n{value.strip()}" if key in found else value.strip()
    return found


def until(condition: Callable[[], Any], *, within_s: float = START_S) -> Any:
    """What ``condition`` returns once it is true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def front_settings(folder: Path, authority: Authority, **sections: Mapping[str, Any]) -> Settings:
    """Settings of a site behind an nginx on free ports."""
    site = authority.issue("localhost")
    nginx = {
        "host": "127.0.0.1",
        "https_port": free_port(),
        "http_port": free_port(),
        "certificate": site.certificate,
        "certificate_key": site.key,
        "client_ca": authority.certificate,
        "workers": 1,
        "connections": 256,
        "rate": 0,
        **sections.get("nginx", {}),
    }
    server = {"data_dir": folder, "proxied": True, **sections.get("server", {})}
    return load(overrides={**sections, "server": server, "nginx": nginx})


@dataclass(frozen=True)
class Seen:
    """A request as it reached the server behind nginx; names of headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Upstream:
    """A server that notes what it is asked, and answers what ``answers`` has for the path.

    An answer is ``(status, headers, body)``; 200 with nothing by default.
    """

    answers: dict[str, tuple[int, Mapping[str, str], bytes]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    @cached_property
    def _server(self) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        return server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def requests(self, path: str) -> list[Seen]:
        """Those for one path, without the sub-requests of nginx."""
        return [each for each in self.seen if each.path == path]


def _handler(upstream: Upstream) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            upstream.seen.append(Seen(self.command, self.path, headers, body))
            status, more, text = upstream.answers.get(self.path.partition("?")[0], (200, {}, b""))
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            if "Content-Length" in more:  # it may promise too much
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 - named by the library

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Handler


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in listing.split()]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
