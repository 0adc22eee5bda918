"""A file of a plain http origin to a client: through this server, and through nginx as it is shipped.

The origin is an nginx beside the client on the second core; the one that passes the file on has
the first core for itself.  The client throws away what it gets within the kernel, so that it is
no part of what is measured.
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
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from bench.claims import site
from bench.front import HOST, _bare, _fetched_per_s, _free_port, _proxied, _user_token, _wait, front
from bench.harness import Result, Rounds, cpu_s, pin
from bench.site_data import library

SIZE = 256 << 20
GIB = SIZE / (1 << 30)
SLOW_BYTES_PER_S = 20_000_000
SLOW_BYTES = 60_000_000
_PIECE = 4 << 20


@dataclass
class Passed:
    """What passing a file on took."""

    bytes_per_s: list[float] = field(default_factory=list)
    cpu_per_gib: list[float] = field(default_factory=list)

    def add(self, pids: list[int], port: int, path: str, token: str = "") -> None:
        before = sum(map(cpu_s, pids))
        self.bytes_per_s.append(fetch(port, path, token))
        self.cpu_per_gib.append((sum(map(cpu_s, pids)) - before) / GIB)


def relay(rounds: Rounds) -> list[Result]:
    """P7: bytes per second, CPU per GiB, and memory with a slow reader."""
    ours, theirs = Passed(), Passed()
    with origin() as far, plain_nginx(_proxying(far)) as shipped, relaying_site(far) as (running, token):
        path = proxy_path(far, "no")
        workers = _children(shipped.process.pid)
        for _ in rounds:
            theirs.add(workers, shipped.port, "/large")
            ours.add([running.process.pid], running.port, path, token)
        grown = [_grown(running, path, token) for _ in rounds]
    figures = {
        "MB/s": round(statistics.median(ours.bytes_per_s) / 1e6),
        "nginx MB/s": round(statistics.median(theirs.bytes_per_s) / 1e6),
        "CPU s/GiB": round(statistics.median(ours.cpu_per_gib), 3),
        "nginx CPU s/GiB": round(statistics.median(theirs.cpu_per_gib), 3),
    }
    speed = [our / their for our, their in zip(ours.bytes_per_s, theirs.bytes_per_s, strict=True)]
    cpu = [our / their for our, their in zip(ours.cpu_per_gib, theirs.cpu_per_gib, strict=True)]
    note = f"bytes/s of a file of {SIZE >> 20} MiB of an http origin / nginx proxy_pass as shipped"
    return [
        Result("P7", speed, 1.5, note, figures=figures),
        Result("P7.cpu", cpu, 0.5, "CPU per GiB of the same", at_most=True),
        Result("P7.memory", grown, 8.0, "MiB more memory with a reader of 20 MB/s", at_most=True),
    ]


def through_nginx(rounds: Rounds) -> list[Result]:
    """P8 for copies and for plain origins, against an nginx that has the file, and one that passes it on."""
    ours: dict[str, list[float]] = {"yes": [], "no": []}
    file, passing = [], []
    with (
        origin() as far,
        _bare(f"root {far.root};") as bare,
        _bare(_proxying(far)) as between,
        _proxied(),
        relaying_site(far) as (running, token),
    ):
        cache = running.directory / "cache"
        with front(running.port, running.rpc_port, cache=cache) as address:
            _fetched_per_s(address, proxy_path(far, "yes"), token, SIZE)
            while not list((cache / "copies").glob("*/*.json")):
                time.sleep(0.05)
            for _ in rounds:
                file.append(_fetched_per_s(bare, "/large", "", SIZE))
                passing.append(_fetched_per_s(between, "/large", "", SIZE))
                for kind, found in ours.items():
                    found.append(_fetched_per_s(address, proxy_path(far, kind), token, SIZE))
    what = f"bytes/s of {SIZE >> 20} MiB with TLS"
    return [
        _of("P8.cached", ours["yes"], file, f"{what}: a copy through our nginx / the file from a bare one"),
        _of(
            "P8.proxied",
            ours["no"],
            passing,
            f"{what}: of an origin through our nginx / by proxy_pass of a bare one",
            # What one connection more costs anybody: bare nginx with the file itself.
            **{"bare file MB/s": round(statistics.median(file) / 1e6)},
        ),
    ]


def _of(name: str, ours: list[float], theirs: list[float], note: str, **more: float) -> Result:
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    figures = {
        "MB/s": round(statistics.median(ours) / 1e6),
        "bare MB/s": round(statistics.median(theirs) / 1e6),
        **more,
    }
    return Result(name, ratios, 0.95, note, figures=figures)


def proxy_path(far: Nginx, cache: str) -> str:
    return f"/proxy?url={quote(f'http://{HOST}:{far.port}/large', safe='')}&cache={cache}"


@contextmanager
def relaying_site(far: Nginx) -> Iterator[tuple[object, str]]:
    """A site that knows the origin, and a user's token for it."""
    origins = {"far": {"url": f"http://{HOST}:{far.port}/", "private": True}}
    os.environ["ICEPROD_FILES__ORIGINS"] = json.dumps(origins)
    try:
        with library() as made, site(made, []) as running:
            yield running, _user_token(running.directory)
    finally:
        del os.environ["ICEPROD_FILES__ORIGINS"]


@dataclass(frozen=True)
class Nginx:
    """An nginx with a configuration of its own."""

    process: subprocess.Popen[bytes]
    port: int
    root: Path


@contextmanager
def origin() -> Iterator[Nginx]:
    """An nginx on the second core that has the file in memory."""
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-", dir=_memory()) as name:
        with (Path(name) / "large").open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
        Path(name).chmod(0o755)
        with plain_nginx(f"sendfile on; root {name};", core=1, root=Path(name)) as running:
            yield running


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _proxying(far: Nginx) -> str:
    """As its packages configure it, but for what is needed to start at all."""
    return f"location / {{ proxy_pass http://{HOST}:{far.port}; }}"


@contextmanager
def plain_nginx(server: str, *, core: int = 0, root: Path = Path("/")) -> Iterator[Nginx]:
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-nginx-") as name:
        folder, port = Path(name), _free_port()
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}} http {{ {temporary} access_log off; sendfile on; tcp_nopush on;\n"
            f"server {{ listen {HOST}:{port}; {server} }} }}\n"
        )
        process = subprocess.Popen(
            ["nginx", "-c", str(folder / "nginx.conf")],
            preexec_fn=lambda: pin(core),  # noqa: PLW1509 - one thread so far
        )
        try:
            _wait(process, port)
            yield Nginx(process, port, root)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _ask(port: int, path: str, token: str) -> tuple[socket.socket, int, int]:
    """A connection with the answer's body on it, its length, and how much has been read of it."""
    pin(1)
    connection = socket.create_connection((HOST, port), timeout=60)
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}Connection: close\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    text, _, body = head.partition(b"\r\n\r\n")
    if b" 200 " not in text.split(b"\r\n")[0]:
        raise SystemExit(f"{path} was answered {text.decode()}")
    length = next(
        int(line.partition(b":")[2])
        for line in text.split(b"\r\n")
        if line.lower().startswith(b"content-len")
    )
    return connection, length, len(body)


def fetch(port: int, path: str, token: str = "") -> float:
    """Bytes per second of a download."""
    started = time.perf_counter()
    connection, length, size = _ask(port, path, token)
    buffer = bytearray(_PIECE)
    while count := connection.recv_into(buffer, 0, socket.MSG_TRUNC):
        size += count
    connection.close()
    if size != length or size != SIZE:
        raise SystemExit(f"{path}: {size} bytes came of {length}")
    return size / (time.perf_counter() - started)


def _grown(running: object, path: str, token: str) -> float:
    """How many MiB a server has more while a slow reader is at a file."""
    pid = running.process.pid  # type: ignore[attr-defined]
    before = _resident(pid)
    connection, _, size = _ask(running.port, path, token)  # type: ignore[attr-defined]
    most, started = before, time.perf_counter()
    buffer = bytearray(1 << 18)
    while size < SLOW_BYTES:
        size += connection.recv_into(buffer)
        time.sleep(max(0.0, size / SLOW_BYTES_PER_S - (time.perf_counter() - started)))
        most = max(most, _resident(pid))
    connection.close()
    return (most - before) / (1 << 20)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


SUBJECTS = {"P7": relay, "P8.origins": through_nginx}
