"""What only ssh servers have: their keys, logins and extensions, and answers that no good one gives."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncssh
import pytest

from iceprod.errors import AccessDenied, ConflictError, InputError, TransferFailed
from iceprod.model.location import Location
from iceprod.movers.base import Credential
from iceprod.movers.sftp import SftpMover
from tests.movers.place import Place, reaching
from tests.movers.sftp_server import SftpServer, sftp_server
from tests.movers.test_movers_contract import MIB, at_work, fetched, kept, noise, outgoing, reading

OLD_SERVER = "internal-sftp -P posix-rename,limits,statvfs"
"""As one that has no extensions of OpenSSH's."""


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with sftp_server(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="module")
def old_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with sftp_server(tmp_path_factory.mktemp("sftp"), command=OLD_SERVER) as server:
        yield server


async def test_a_file_is_replaced_in_one_step(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Whoever may not delete can't have deleted the former file before.
    with sftp_server(tmp_path_factory.mktemp("sftp"), command="internal-sftp -P remove,rename") as server:
        place = server.place("in-one-step")
        location = kept(place, "hits.i3", b"former")

        await place.mover.put(location, place.access, outgoing(b"newer"))

        assert (place.folder / "hits.i3").read_bytes() == b"newer"
        await place.mover.close()


async def test_a_server_without_extensions_will_do(old_ssh: SftpServer) -> None:
    place = old_ssh.place("old")
    location = kept(place, "hits.i3", b"former")
    data = noise(3 * MIB)

    await place.mover.put(location, place.access, outgoing(data))

    assert [each.name for each in place.folder.iterdir()] == ["hits.i3"]
    assert await fetched(place, location) == data
    await place.mover.put(place.at("new.i3"), place.access, outgoing(b"new"))
    assert (place.folder / "new.i3").read_bytes() == b"new"
    await place.mover.close()


async def test_folders_are_made_for_what_is_put(ssh: SftpServer) -> None:
    place = ssh.place("folders")
    location = place.at("a").child("b").child("hits.i3")

    await place.mover.put(location, place.access, outgoing(b"x"))

    assert (place.folder / "a" / "b" / "hits.i3").read_bytes() == b"x"
    await place.mover.close()


async def test_a_directory_is_in_the_way_of_a_file(ssh: SftpServer) -> None:
    place = ssh.place("in-the-way")
    (place.folder / "hits.i3").mkdir()

    with pytest.raises(ConflictError):
        await place.mover.put(place.at("hits.i3"), place.access, outgoing(b"x"))
    with pytest.raises(ConflictError):
        await place.mover.put(kept(place, "file", b"").child("hits.i3"), place.access, outgoing(b"x"))
    with pytest.raises(InputError, match="directory"):
        await fetched(place, place.at("hits.i3"))
    assert (await place.mover.stat(place.at("hits.i3"), place.access)).is_directory
    await place.mover.close()


async def test_times_are_listed(ssh: SftpServer) -> None:
    place = ssh.place("times")
    location = kept(place, "hits.i3", b"123")
    (place.folder / "link").symlink_to("hits.i3")

    found = {each.name: each.facts async for each in place.mover.list(place.root, place.access, limit=9)}

    assert found["hits.i3"] == await place.mover.stat(location, place.access)
    assert found["hits.i3"].modified_at is not None
    assert found["link"].size_bytes is None
    await place.mover.close()


async def test_a_file_that_changes_while_it_is_read_is_an_error(ssh: SftpServer) -> None:
    place = ssh.place("changing")
    location = kept(place, "hits.i3", noise(3 * MIB))

    async with place.mover.fetch(location, place.access) as incoming:
        await incoming.read()
        kept(place, "hits.i3", noise(3 * MIB + 1))
        with pytest.raises(ConflictError):
            assert [piece async for piece in reading(incoming)]
    await place.mover.close()


async def test_a_fingerprint_may_be_of_any_of_the_keys(ssh: SftpServer) -> None:
    for number, fingerprint in enumerate(ssh.fingerprints):
        place = ssh.place(f"key-{number}")
        access = dataclasses.replace(place.access, options={"host_key_sha256": f"SHA256:{fingerprint}"})
        assert (await place.mover.stat(place.root, access)).is_directory
        await place.mover.close()
    assert len(ssh.fingerprints) == 2


@pytest.mark.parametrize("secret", [b"no key at all", b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
async def test_a_key_that_is_none_is_told(ssh: SftpServer, secret: bytes) -> None:
    place = ssh.place(f"bad-key-{len(secret)}")
    access = dataclasses.replace(place.access, credential=Credential("ssh", secret, ssh.user))

    with pytest.raises(AccessDenied, match="no private key"):
        await place.mover.stat(place.root, access)


async def test_known_hosts_that_cannot_be_read_are_told(ssh: SftpServer) -> None:
    place = ssh.place("no-known-hosts")
    access = dataclasses.replace(place.access, options={"known_hosts": "/nowhere"})

    with pytest.raises(AccessDenied, match="known_hosts"):
        await place.mover.stat(place.root, access)


async def test_nothing_of_this_machines_users_counts(
    ssh: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  ProxyCommand false\n  User somebody\n  Port 1\n")
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(ssh.key)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = ssh.place("own-home")
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.setblocking(False)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

        assert (await place.mover.stat(place.root, place.access)).is_directory
        for credential in (Credential("ssh", other, ssh.user), Credential("password", b"x", ssh.user)):
            with pytest.raises(AccessDenied, match="credential"):
                await place.mover.stat(place.root, dataclasses.replace(place.access, credential=credential))

        with pytest.raises(BlockingIOError):
            agent.accept()
    assert [each for each in caplog.records if each.name.startswith("asyncssh")] == []
    await place.mover.close()


def test_the_server_starts_without_what_few_need() -> None:
    said = "import iceprod.movers.sftp, sys; sys.exit('asyncssh' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0


class _Login(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("ada", "päss")


@asynccontextmanager
async def odd_server(folder: Path, files: type[asyncssh.SFTPServer]) -> AsyncIterator[Place]:
    """A server in this process that answers as ``files`` does."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=_Login,
        sftp_factory=partial(files, chroot=str(folder).encode()),
    )
    place = Place(
        SftpMover(),
        reaching(
            credential=Credential("password", "päss".encode(), "ada"),
            options={"host_key_sha256": key.get_fingerprint("sha256")},
            stall_timeout_s=0.5,
        ),
        Location("sftp", "localhost", listener.get_port(), "/"),
        folder,
    )
    before = at_work()
    try:
        yield place
        await place.mover.close()
        async with asyncio.timeout(10):
            while {each for each in at_work() - before if "iceprod" in repr(each)}:
                await asyncio.sleep(0)
    finally:
        listener.close()
        await listener.wait_closed()


async def test_a_password_logs_in(tmp_path: Path) -> None:
    async with odd_server(tmp_path, asyncssh.SFTPServer) as place:
        location = kept(place, "hits.i3", b"123")
        wrong = dataclasses.replace(place.access, credential=Credential("password", b"wrong-one", "ada"))

        assert await fetched(place, location) == b"123"
        with pytest.raises(AccessDenied) as raised:
            await place.mover.stat(location, wrong)
    assert "wrong-one" not in f"{raised.value!r} {raised.value.detail}"


class _GivesLess(asyncssh.SFTPServer):
    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return super().read(file_obj, offset, max(1, size // 3))  # type: ignore[return-value]


class _GivesMore(asyncssh.SFTPServer):
    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return super().read(file_obj, offset, size) + b"x"  # type: ignore[operator]


class _SaysNothing(asyncssh.SFTPServer):
    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for number in range(300):
            yield asyncssh.SFTPName(b"%d" % number, b"")
        await asyncio.get_running_loop().create_future()


class _IsSlow(asyncssh.SFTPServer):
    turn = asyncio.Lock()

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        async with self.turn:
            # One after the other, as by a thin line.
            await asyncio.sleep(0.2)
            return super().read(file_obj, offset, size)  # type: ignore[return-value]


async def test_what_comes_in_smaller_parts_is_put_together(tmp_path: Path) -> None:
    async with odd_server(tmp_path, _GivesLess) as place:
        data = noise(MIB + 1)
        assert await fetched(place, kept(place, "hits.i3", data)) == data


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the server's own files
async def test_more_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    async with odd_server(tmp_path, _GivesMore) as place:
        with pytest.raises(TransferFailed, match="more than"):
            await fetched(place, kept(place, "hits.i3", noise(MIB)))


async def test_a_server_that_answers_slowly_has_not_stalled(tmp_path: Path) -> None:
    async with odd_server(tmp_path, _IsSlow) as place:
        access = dataclasses.replace(place.access, stall_timeout_s=1.2)
        data = noise(MIB)
        there = dataclasses.replace(place, access=access)
        assert await fetched(there, kept(place, "hits.i3", data)) == data


async def test_a_listing_that_stalls_is_ended(tmp_path: Path) -> None:
    async with odd_server(tmp_path, _SaysNothing) as place:
        with pytest.raises(TransferFailed, match="nothing moved"):
            assert [each async for each in place.mover.list(place.root, place.access, limit=999)]


async def test_a_listing_that_is_cancelled_is_ended(tmp_path: Path) -> None:
    async with odd_server(tmp_path, _SaysNothing) as place:
        begun = asyncio.Event()

        async def look() -> None:
            async for _ in place.mover.list(place.root, place.access, limit=999):
                begun.set()

        task = asyncio.create_task(look())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
