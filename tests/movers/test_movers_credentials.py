"""Who is let in, and whom is trusted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iceprod.errors import AccessDenied, NotFoundError, TransferFailed
from iceprod.movers.base import Access, Credential, Mover
from tests.movers.globus_server import COLLECTION, GlobusServer, globus_server
from tests.movers.nginx_server import NginxServer, https_server
from tests.movers.place import Place
from tests.movers.sftp_server import SftpServer, sftp_server
from tests.nginx_harness import Authority


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    with https_server(tmp_path_factory.mktemp("web")) as started:
        for folder in ("known", "certified"):
            (started.folder / folder).mkdir()
            (started.folder / folder / "a.i3").write_bytes(b"let in")
        yield started


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with sftp_server(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.fixture(scope="module")
def globus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlobusServer]:
    with globus_server(tmp_path_factory.mktemp("globus")) as started:
        yield started


def said_by(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def size_of(place: Place, path: str, **more: object) -> int | None:
    """The size of a file for who reaches it like that; the mover is closed after it."""
    access = dataclasses.replace(place.access, **more)
    try:
        return (await place.mover.stat(dataclasses.replace(place.root, path=path), access)).size_bytes
    finally:
        await place.mover.close()


async def test_a_token_is_shown(web: NginxServer) -> None:
    token = Credential("token", b"open-sesame")

    assert await size_of(web.place("token"), "/known/a.i3", credential=token) == 6
    with pytest.raises(AccessDenied):
        await size_of(web.place("no-token"), "/known/a.i3")


async def test_a_client_certificate_is_shown_to_whom_it_was_given_for(web: NginxServer) -> None:
    identity = web.authority.issue("alice")
    pem = identity.certificate.read_bytes() + identity.key.read_bytes()
    place = web.place("certified-one")
    with_certificate = dataclasses.replace(place.access, credential=Credential("x509", pem))
    location = dataclasses.replace(place.root, path="/certified/a.i3")

    assert (await place.mover.stat(location, with_certificate)).size_bytes == 6
    # The connection that has shown it is not another caller's.
    with pytest.raises(AccessDenied):
        await place.mover.stat(location, place.access)
    assert (await place.mover.stat(location, with_certificate)).size_bytes == 6
    await place.mover.close()


async def test_a_certificate_is_shown_beside_a_token(web: NginxServer) -> None:
    identity = web.authority.issue("bob")
    pem = identity.certificate.read_bytes() + identity.key.read_bytes()
    place = web.place("certified-beside")
    token = dataclasses.replace(place.access, credential=Credential("token", b"open-sesame"))
    both = dataclasses.replace(token, certificate=Credential("x509", pem))
    known, certified = (
        dataclasses.replace(place.root, path=f"/{name}/a.i3") for name in ("known", "certified")
    )

    assert (await place.mover.stat(known, both)).size_bytes == 6
    assert (await place.mover.stat(certified, both)).size_bytes == 6
    with pytest.raises(AccessDenied):
        await place.mover.stat(certified, token)
    await place.mover.close()


async def test_a_server_that_nobody_vouches_for_is_not_trusted(web: NginxServer, tmp_path: Path) -> None:
    other = Authority(tmp_path).certificate

    for authorities in (str(other), None):
        with pytest.raises(TransferFailed, match="certificate"):
            await size_of(web.place(f"untrusted-{authorities is None}"), "/x", ca_path=authorities)


async def test_authorities_may_be_a_directory(web: NginxServer, tmp_path: Path) -> None:
    certificate = web.authority.certificate
    name = said_by("openssl", "x509", "-hash", "-noout", "-in", str(certificate)).strip()
    (tmp_path / f"{name}.0").write_bytes(certificate.read_bytes())
    place = web.place("hashed")

    with pytest.raises(NotFoundError):
        await size_of(place, "/missing", ca_path=str(tmp_path))


def wrong_key(ssh: SftpServer) -> dict[str, str]:
    return {"host_key_sha256": "A" * 43}


def no_key(ssh: SftpServer) -> dict[str, str]:
    return {}


@pytest.mark.parametrize("options", [wrong_key, no_key])
async def test_an_ssh_server_has_to_be_known(
    ssh: SftpServer, options: Callable[[SftpServer], dict[str, str]]
) -> None:
    with pytest.raises(AccessDenied, match="key"):
        await size_of(ssh.place(f"ssh-{options.__name__}"), "/x", options=options(ssh))


async def test_known_hosts_are_asked(ssh: SftpServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    place = ssh.place("ssh-known")
    path = f"{place.root.path}/a.i3"
    (place.folder / "a.i3").write_bytes(b"12")
    (place.folder / "a.i3").chmod(0o644)

    known.write_text(f"[localhost]:{ssh.port} {ssh.host_key}\n")
    assert await size_of(place, path, options={"known_hosts": str(known)}) == 2
    for text in ("", f"[localhost]:{ssh.port} ssh-ed25519 {'A' * 68}\n"):
        known.write_text(text)
        place = ssh.place(f"ssh-unknown-{len(text)}")
        with pytest.raises(AccessDenied):
            await size_of(place, path, options={"known_hosts": str(known)})


async def test_another_key_is_not_let_in_by_the_connection_of_the_first(
    ssh: SftpServer, tmp_path: Path
) -> None:
    said_by("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other"))
    place = ssh.place("ssh-two")
    other = Credential("ssh", (tmp_path / "other").read_bytes(), ssh.user)
    (place.folder / "a.i3").write_bytes(b"12")
    location = place.at("a.i3")

    assert (await place.mover.stat(location, place.access)).size_bytes == 2
    with pytest.raises(AccessDenied):
        await place.mover.stat(location, dataclasses.replace(place.access, credential=other))
    assert (await place.mover.stat(location, place.access)).size_bytes == 2
    await place.mover.close()


@pytest.mark.parametrize("credential", [None, Credential("token", b"x")])
async def test_ssh_needs_a_key_or_a_password(ssh: SftpServer, credential: Credential | None) -> None:
    with pytest.raises(AccessDenied, match="needs"):
        await size_of(ssh.place(f"ssh-{credential is None}"), "/x", credential=credential)


@pytest.mark.parametrize("secret", [b"wrong", b'{"https": "x"}', b"{"])
async def test_globus_has_to_know_the_token(globus: GlobusServer, secret: bytes) -> None:
    with pytest.raises(AccessDenied) as raised:
        await size_of(globus.place(f"g{len(secret)}"), "/x", credential=Credential("token", secret))
    assert "wrong" not in str(raised.value)


async def test_globus_copies_between_collections(globus: GlobusServer) -> None:
    place = globus.place("copies")
    (place.folder / "a.i3").write_bytes(b"12345")
    seen: list[int] = []

    await place.mover.copy(
        place.at("a.i3"), place.at("b.i3"), place.access, to=place.access, progress=seen.append
    )

    assert (place.folder / "b.i3").read_bytes() == b"12345"
    assert seen == [1, 5]
    assert place.root.host == COLLECTION
    with pytest.raises(NotFoundError):
        await place.mover.copy(place.at("missing"), place.at("c.i3"), place.access, to=place.access)
    await place.mover.close()


async def test_a_task_of_globus_that_is_given_up_is_cancelled(globus: GlobusServer) -> None:
    place = globus.place("given-up")
    (place.folder / "a.i3").write_bytes(b"12345")
    globus.service.never_ends = True
    seen = asyncio.Event()

    task = asyncio.create_task(
        place.mover.copy(
            place.at("a.i3"), place.at("b.i3"), place.access, to=place.access, progress=lambda _: seen.set()
        )
    )
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    globus.service.never_ends = False
    assert len(globus.service.cancelled) == 1
    await place.mover.close()


async def test_each_use_of_globus_has_its_token(globus: GlobusServer) -> None:
    place = globus.place("one-token")
    (place.folder / "a.i3").write_bytes(b"12345")
    credential = Credential("token", json.dumps({"transfer": "transfer-token", "https": "no"}).encode())

    assert await size_of(place, f"{place.root.path}/a.i3", credential=credential) == 5
    access: Access = dataclasses.replace(place.access, credential=credential)
    mover: Mover = type(place.mover)()
    with pytest.raises(AccessDenied):
        async with mover.fetch(place.at("a.i3"), access):
            pass
    await mover.close()
