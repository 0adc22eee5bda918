"""A file of a GridFTP server into memory, against Globus's own client into nothing.

Both fetch the same file from the same server, with the same protection of data, each with a
login of its own, in turns.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import uvloop

from bench import relay
from bench.claims import Site, site
from bench.front import HOST, _user_token
from bench.harness import Result, Rounds, cpu_s
from bench.site_data import library
from iceprod.movers.base import WHOLE, Access, Span
from iceprod.movers.gridftp.mover import GridFtpMover
from tests.movers import gridftp_server

SIZE = 1 << 30
WARM_BYTES = 256 << 20

# Name, our options, options of globus-url-copy; with GSI, and without.
LEVELS = {
    "P9": ({}, []),  # data connections proven, data in the clear: what both do if not told otherwise
    "P9.plain": ({"dcau": "N"}, ["-nodcau"]),
    "P9.private": ({"protection": "P"}, ["-dcpriv"]),
}
NOTES = {
    "P9": "proven data connections",
    "P9.plain": "bare data connections",
    "P9.private": "encrypted data",
    "P9.ftp": "anonymous FTP",
}


@dataclass
class Turns:
    """Times and CPU of both, by round."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    our_cpu: list[float] = field(default_factory=list)
    their_cpu: list[float] = field(default_factory=list)

    def result(self, name: str, size: int = SIZE) -> Result:
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        figures = {
            "MB/s": round(size / statistics.median(self.ours) / 1e6),
            "globus-url-copy MB/s": round(size / statistics.median(self.theirs) / 1e6),
            "CPU s/GiB": round(statistics.median(self.our_cpu) * SIZE / size, 2),
            "globus-url-copy CPU s/GiB": round(statistics.median(self.their_cpu) * SIZE / size, 2),
        }
        where = "through a site" if name == "P9.relay" else "into memory"
        note = f"bytes/s {where} / globus-url-copy to /dev/null, {NOTES.get(name, NOTES['P9.plain'])}"
        return Result(name, ratios, 1.0, note, figures=figures)


def fetches(rounds: Rounds) -> list[Result]:
    """1 GiB at each protection level."""
    if shutil.which(gridftp_server.URL_COPY) is None:
        raise SystemExit("P9 needs globus-gridftp-server and globus-url-copy")
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-gridftp-", dir=_memory()) as name:
        folder, turns = Path(name), {level: Turns() for level in NOTES}
        _fill(folder / "large")
        with gridftp_server.with_gsi(folder) as gsi, gridftp_server.anonymous(folder) as ftp:
            for _ in rounds:
                for level, (options, flags) in LEVELS.items():
                    _take_turns(turns[level], gsi, folder / "large", gsi.access(**options), flags)
                _take_turns(turns["P9.ftp"], ftp, folder / "large", ftp.access(), [])
    return [each.result(level) for level, each in turns.items()]


def _memory() -> str | None:
    """A disk would be measured, too."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _fill(path: Path, size: int = SIZE) -> None:
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


def _take_turns(
    turns: Turns, server: gridftp_server.GridFtpServer, path: Path, access: Access, flags: list[str]
) -> None:
    started, cpu = time.perf_counter(), _cpu(resource.RUSAGE_CHILDREN)
    server.url_copy(*flags, f"{server.base}{path}", "file:///dev/null")
    turns.theirs.append(time.perf_counter() - started)
    turns.their_cpu.append(_cpu(resource.RUSAGE_CHILDREN) - cpu)
    # A server is not started anew for each file: what slept while the other worked wakes up first.
    uvloop.run(_fetch(server, path, access, Span(0, WARM_BYTES)))
    started, cpu = time.perf_counter(), _cpu(resource.RUSAGE_SELF)
    size = uvloop.run(_fetch(server, path, access))
    turns.ours.append(time.perf_counter() - started)
    turns.our_cpu.append(_cpu(resource.RUSAGE_SELF) - cpu)
    if size != SIZE:
        raise SystemExit(f"{size} bytes came of {SIZE}")


async def _fetch(server: gridftp_server.GridFtpServer, path: Path, access: Access, span: Span = WHOLE) -> int:
    mover, size = GridFtpMover(), 0
    async with mover.fetch(server.at(path), access, span=span) as incoming:
        while piece := await incoming.read():
            size += len(piece)
    await mover.close()
    return size


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def relayed(rounds: Rounds) -> Result:
    """256 MiB through a site to an HTTP client, which throws it away within the kernel."""
    turns, size = Turns(), relay.SIZE
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-gridftp-", dir=_memory()) as name:
        folder, path = Path(name), Path(name) / "large"
        _fill(path, size)
        with gridftp_server.with_gsi(folder) as gsi, _site_before(gsi) as running:
            token = _user_token(running.directory)
            _keep_credential(running.port, token, gsi)
            target = f"/proxy?url={quote(f'{gsi.base}{path}', safe='')}&cache=no"
            relay.fetch(running.port, target, token)
            for _ in rounds:
                started, cpu = time.perf_counter(), _cpu(resource.RUSAGE_CHILDREN)
                gsi.url_copy("-nodcau", f"{gsi.base}{path}", "file:///dev/null")
                turns.theirs.append(time.perf_counter() - started)
                turns.their_cpu.append(_cpu(resource.RUSAGE_CHILDREN) - cpu)
                cpu = cpu_s(running.process.pid)
                turns.ours.append(size / relay.fetch(running.port, target, token))
                turns.our_cpu.append(cpu_s(running.process.pid) - cpu)
    return turns.result("P9.relay", size)


@contextmanager
def _site_before(gsi: gridftp_server.GridFtpServer) -> Iterator[Site]:
    """A site that knows the server."""
    assert gsi.authority is not None
    far = {
        "url": f"{gsi.base}/",
        "private": True,
        "ca_path": str(gsi.authority.folder),
        "options": {"dcau": "N"},
    }
    os.environ["ICEPROD_FILES__ORIGINS"] = json.dumps({"far": far})
    try:
        with library() as made, site(made, []) as running:
            yield running
    finally:
        del os.environ["ICEPROD_FILES__ORIGINS"]


def _keep_credential(port: int, token: str, gsi: gridftp_server.GridFtpServer) -> None:
    assert gsi.proxy is not None
    params = {"origin": "far", "kind": "x509", "secret": gsi.proxy.pem.decode()}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "credential.put", "params": params})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = HTTPConnection(HOST, port, timeout=60)
    connection.request("POST", "/jsonrpc", body, headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if "result" not in answer:
        raise SystemExit(f"the credential was not kept: {answer}")


SUBJECTS = {"P9": fetches, "P9.relay": relayed}
