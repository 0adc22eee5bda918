"""The same load with nginx in front, TLS and all: claims, lists beside them, downloads.

nginx has the configuration that `iceprod nginx generate` writes, one process, and shares the
first core with the server, so that its work counts.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from bench import load, pilot_load, wire
from bench.claims import READY, SECONDS, site
from bench.harness import Result, Rounds, pin, server
from bench.latency import p99, read_lists, start_load
from bench.rpc_echo import SINGLE
from bench.site_data import library
from iceprod.config import Settings
from iceprod.server import nginx
from iceprod.services.ca import CertificateUse, SiteCA

DOWNLOAD_BYTES = 256 << 20
HOST = "127.0.0.1"
PROXIED = {"ICEPROD_SERVER__PROXIED": "true"}


def claims(rounds: Rounds) -> Result:
    """P3 with nginx before the server and before the yardstick."""
    ratios, slower, echoes, without = [], [], [], []
    with library() as made, server("bench.echo_servers", "tornado") as (echo, echo_port):
        for _ in rounds:
            with front(echo_port, echo_port) as address:
                echoes.append(load.run(echo.pid, address, load.post(SINGLE)).rate)
            with _proxied(), site(made, READY) as running, front(running.port, running.rpc_port) as address:
                slower.append(_slower(running.directory, address))
                without.append(_slower(running.directory, running.rpc_port))
            ratios.append(slower[-1] / echoes[-1])
    figures = {
        "calls/s": round(statistics.median(slower)),
        "calls/s without nginx": round(statistics.median(without)),
        "echo/s": round(statistics.median(echoes)),
    }
    note = "as P3, with nginx and TLS before the fast lane / before the bare echo"
    return Result("P3.nginx", ratios, 1.4, note, figures=figures)


def _slower(directory: Path, address: int | str) -> float:
    done = pilot_load.run(directory, address, SECONDS)
    return min(done["claims"] / done["claim_s"], done["finishes"] / done["finish_s"])


def lists(rounds: Rounds) -> Result:
    """P6 with nginx in front."""
    ratios, idle, busy = [], [], []
    with library() as made:
        for _ in rounds:
            with _proxied(), site(made, READY) as running, front(running.port, running.rpc_port) as address:
                idle.append(p99(read_lists(running, address, SECONDS * 2)))
                work = start_load(running, address)
                busy.append(p99(read_lists(running, address, SECONDS * 2)))
                work.wait()
            ratios.append(busy[-1] / idle[-1])
    figures = {
        "idle p99 ms": round(statistics.median(idle) * 1e3, 2),
        "busy p99 ms": round(statistics.median(busy) * 1e3, 2),
    }
    note = "p99 of lists while 64 pilots claim and finish / on an idle server, all through nginx"
    return Result("P6.nginx", ratios, 7.0, note, at_most=True, figures=figures)


def downloads(rounds: Rounds) -> Result:
    """A stored file through authorization and nginx, against the same file from the same nginx alone."""
    ratios, ours, plain = [], [], []
    with library() as made, _proxied(), site(made, []) as running:
        token, files = _user_token(running.directory), running.directory / "files"
        with (
            front(running.port, running.rpc_port, files) as address,
            _bare(f"root {files}/site_temp;") as bare,
        ):
            # Stored as users do it, so that the server knows its digest.
            _store(address, "/files/site_temp/large", token)
            for _ in rounds:
                plain.append(_fetched_per_s(bare, "/large", ""))
                ours.append(_fetched_per_s(address, "/files/site_temp/large", token))
                ratios.append(ours[-1] / plain[-1])
    figures = {
        "MB/s": round(statistics.median(ours) / 1e6),
        "plain nginx MB/s": round(statistics.median(plain) / 1e6),
    }
    note = f"bytes/s of a stored file of {DOWNLOAD_BYTES >> 20} MiB through our nginx / a bare one, with TLS"
    return Result("P8", ratios, 0.95, note, figures=figures)


def _user_token(directory: Path) -> str:
    token: str = json.loads((directory / "bench.json").read_text())["user"]
    return token


def _store(address: str, path: str, token: str) -> None:
    connection = HTTPConnection(HOST, timeout=60)
    connection.sock = wire.connect(address)
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(DOWNLOAD_BYTES)}
    pieces = (os.urandom(1 << 20) for _ in range(DOWNLOAD_BYTES >> 20))
    connection.request("PUT", path, pieces, headers)
    if connection.getresponse().status != 201:
        raise SystemExit(f"{path} was not stored")
    connection.close()


def _fetched_per_s(address: str, path: str, token: str, length: int = DOWNLOAD_BYTES) -> float:
    connection = HTTPConnection(HOST, timeout=60)
    connection.sock = wire.connect(address)
    started = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    buffer, size = bytearray(1 << 20), 0
    while count := answer.readinto(buffer):
        size += count
    took = time.perf_counter() - started
    connection.close()
    if answer.status != 200 or size != length:
        raise SystemExit(f"{path} was answered {answer.status} with {size} bytes")
    return size / took


@contextmanager
def front(port: int, rpc_port: int, files: Path | None = None, cache: Path | None = None) -> Iterator[str]:
    """Our nginx before a server that keeps its files in ``files``, and copies in ``cache``; its address."""
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-nginx-") as name:
        settings = _settings(Path(name), port=port, rpc_port=rpc_port, files=files, cache=cache)
        nginx.generate(settings)
        with _running(nginx.command(settings), settings.nginx.https_port) as address:
            yield address


def _settings(folder: Path, *, port: int, rpc_port: int, files: Path | None, cache: Path | None) -> Settings:
    certificate, key = _certificate(folder)
    return Settings(
        server={"data_dir": folder, "port": port, "rpc_port": rpc_port, "proxied": True},
        files={"path": files, "cache": {"path": cache}},
        nginx={
            "host": HOST,
            "https_port": _free_port(),
            "http_port": 0,
            "certificate": certificate,
            "certificate_key": key,
            "workers": 1,
            "rate": 0,
        },
    )


def _certificate(folder: Path) -> tuple[Path, Path]:
    authority = SiteCA.create(folder / "ca")
    authority.issue(HOST, use=CertificateUse.SERVER)
    return (
        authority.certificate_of(HOST, CertificateUse.SERVER),
        authority.key_of(HOST, CertificateUse.SERVER),
    )


@contextmanager
def _bare(serving: str) -> Iterator[str]:
    """An nginx that does nothing but what its configuration says in ``serving``."""
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-bare-") as name:
        folder, port = Path(name), _free_port()
        certificate, key = _certificate(folder)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}} http {{ {temporary} access_log off; sendfile on; tcp_nopush on;\n"
            f"server {{ listen {HOST}:{port} ssl http2; ssl_certificate {certificate};"
            f" ssl_certificate_key {key}; {serving} }} }}\n"
        )
        with _running(["nginx", "-c", str(folder / "nginx.conf")], port) as address:
            yield address


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, preexec_fn=lambda: pin(0))  # noqa: PLW1509 - one thread so far
    try:
        _wait(process, port)
        yield f"tls:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.perf_counter() + 10
    while process.poll() is None and time.perf_counter() < end:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("nginx did not start")


@contextmanager
def _proxied() -> Iterator[None]:
    """Servers started in the meantime know that nginx is in front of them."""
    os.environ.update(PROXIED)
    try:
        yield
    finally:
        for name in PROXIED:
            del os.environ[name]


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as bound:
        return int(bound.getsockname()[1])


SUBJECTS = {"P3.nginx": claims, "P6.nginx": lists, "P8": downloads}
