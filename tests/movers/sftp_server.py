"""A real OpenSSH server that speaks sftp alone, to one key."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from iceprod.model.location import Location
from iceprod.movers.base import Credential
from iceprod.movers.sftp import SftpMover
from tests.movers.nginx_server import listens
from tests.movers.place import Place, Server, reaching, small_disk
from tests.nginx_harness import free_port, until

_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {own}/host
HostKey {own}/host_ecdsa
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {own}/authorized
Subsystem sftp internal-sftp
ForceCommand {command}
MaxStartups 100
LogLevel ERROR
"""
_FINGERPRINT = re.compile(r"SHA256:(\S+)")


class SftpServer(Server):
    def __init__(self, folder: Path, own: Path, *, has_small_disk: bool) -> None:
        self.folder = folder
        self.port = free_port()
        # Who tests as root logs in as somebody who may not do everything.
        self.user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.key = (own / "user").read_bytes()
        self.fingerprints = [_fingerprint(own / f"{name}.pub") for name in ("host", "host_ecdsa")]
        self.fingerprint = self.fingerprints[0]
        self.host_key = " ".join((own / "host.pub").read_text().split()[:2])
        self._has_small_disk = has_small_disk

    def place(self, folder: str) -> Place:
        path = self.folder / folder
        path.mkdir()
        path.chmod(0o777)
        top = Location("sftp", "localhost", self.port, str(self.folder))
        forbidden = self.folder / f"{folder}-forbidden"
        forbidden.write_bytes(b"secret")
        forbidden.chmod(0)
        return Place(
            SftpMover(),
            reaching(
                credential=Credential("ssh", self.key, self.user),
                options={"host_key_sha256": self.fingerprint},
            ),
            top.child(folder),
            path,
            forbidden=top.child(forbidden.name),
            full=top.child("full") if self._has_small_disk else None,
            port=self.port,
            # Encryption takes its time.
            large_bytes=100 * 1024 * 1024,
        )


def _fingerprint(key: Path) -> str:
    said = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], check=True, capture_output=True, text=True)
    return _FINGERPRINT.search(said.stdout)[1]


@contextlib.contextmanager
def sftp_server(_: Path, *, command: str = "internal-sftp") -> Iterator[SftpServer]:
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs sshd")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # Whoever logs in has to get as far as the folder, which pytest's own lets nobody.
    with tempfile.TemporaryDirectory(prefix="iceprod-sftp-") as made:
        Path(made).chmod(0o755)
        with _running(program, Path(made), command) as server:
            yield server


@contextlib.contextmanager
def _running(program: str, folder: Path, command: str) -> Iterator[SftpServer]:
    own = folder / "ssh"
    own.mkdir()
    for name, kind in (("host", "ed25519"), ("host_ecdsa", "ecdsa"), ("user", "ed25519")):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(own / name)], check=True)
    shutil.copy(own / "user.pub", own / "authorized")
    with small_disk(folder / "full") as full:
        server = SftpServer(folder, own, has_small_disk=full is not None)
        config = own / "sshd_config"
        config.write_text(_CONFIG.format(port=server.port, own=own, command=command))
        log = own / "log"
        process = subprocess.Popen(
            [program, "-D", "-f", str(config), "-E", str(log)], stdin=subprocess.DEVNULL
        )
        try:
            until(lambda: listens(server.port) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            process.terminate()
            process.wait(30)
