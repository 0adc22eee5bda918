"""What only directories of this machine can do wrong."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TransferFailed,
)
from iceprod.model.location import Location
from iceprod.movers import local_tree
from iceprod.movers.base import Access, Outgoing
from iceprod.movers.local import LocalMover
from tests.movers.place import reaching


@pytest.fixture
async def mover() -> AsyncIterator[LocalMover]:
    made = LocalMover()
    yield made
    await made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def at(path: Path | str) -> Location:
    return Location("file", "", 0, str(path))


def below(root: Path) -> Access:
    return reaching(root=str(root))


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def read(mover: LocalMover, location: Location, access: Access) -> bytes:
    async with mover.fetch(location, access) as incoming:
        return await incoming.read()


async def test_links_lead_nowhere(mover: LocalMover, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)

    for path in (root / "link", root / "folder" / "secret"):
        with pytest.raises(IceProdError):
            await read(mover, at(path), below(root))
        with pytest.raises(IceProdError):
            await mover.stat(at(path), below(root))
        with pytest.raises(IceProdError):
            await mover.put(at(path), below(root), Outgoing(1, one(b"x")))
    assert (root.parent / "secret").read_bytes() == b"secret"
    assert [each.name async for each in mover.list(at(root), below(root), limit=9)] == []


async def test_the_root_itself_may_be_a_link(mover: LocalMover, root: Path) -> None:
    (root / "a.i3").write_bytes(b"x")
    (root.parent / "alias").symlink_to(root)

    assert await read(mover, at(root.parent / "alias" / "a.i3"), below(root.parent / "alias")) == b"x"


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../secret", "{root}x/a", "{root}//a", "{root}/./a"])
async def test_nothing_else_is_reached(mover: LocalMover, root: Path, path: str) -> None:
    with pytest.raises((AccessDenied, InputError)):
        await read(mover, at(path.format(root=root)), below(root))


async def test_pipes_and_devices_are_no_files(mover: LocalMover, root: Path) -> None:
    os.mkfifo(root / "pipe")
    for path in (root / "pipe", "/dev/zero"):
        access = below(root) if path == root / "pipe" else below(Path("/dev"))
        with pytest.raises(NotFoundError):
            await read(mover, at(path), access)
        with pytest.raises(NotFoundError):
            await mover.stat(at(path), access)


async def test_a_directory_is_no_file(mover: LocalMover, root: Path) -> None:
    (root / "inner").mkdir()

    assert (await mover.stat(at(root / "inner"), below(root))).is_directory
    for path in (f"{root}/inner/", str(root / "inner")):
        with pytest.raises(IceProdError):
            await read(mover, at(path), below(root))
        with pytest.raises((ConflictError, InputError)):
            await mover.put(at(path), below(root), Outgoing(1, one(b"x")))
        with pytest.raises(IceProdError):
            await mover.delete(at(path), below(root))
    assert (root / "inner").is_dir()


async def test_a_file_in_the_way_of_a_directory_is_told(mover: LocalMover, root: Path) -> None:
    (root / "a.i3").write_bytes(b"x")

    with pytest.raises(ConflictError):
        await mover.put(at(root / "a.i3" / "b.i3"), below(root), Outgoing(1, one(b"x")))


async def test_folders_are_made_for_what_is_put(mover: LocalMover, root: Path) -> None:
    await mover.put(at(root / "a" / "b" / "c.i3"), below(root), Outgoing(1, one(b"x")))

    assert (root / "a/b/c.i3").read_bytes() == b"x"
    assert (root / "a/b/c.i3").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


async def test_a_file_that_shrinks_is_an_error(mover: LocalMover, root: Path) -> None:
    (root / "a.i3").write_bytes(bytes(3_000_000))
    async with mover.fetch(at(root / "a.i3"), below(root)) as incoming:
        await incoming.read()
        os.truncate(root / "a.i3", 1_500_000)
        await incoming.read()

        with pytest.raises(TransferFailed) as raised:
            await incoming.read()
    assert raised.value.detail["done_bytes"] == 1_500_000


async def test_a_file_that_is_replaced_stays_what_it_was(mover: LocalMover, root: Path) -> None:
    (root / "a.i3").write_bytes(b"former")
    async with mover.fetch(at(root / "a.i3"), below(root)) as incoming:
        await mover.put(at(root / "a.i3"), below(root), Outgoing(5, one(b"newer")))

        assert await incoming.read() == b"former"


async def test_a_file_system_without_nameless_files_will_do(
    mover: LocalMover, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on NFS.  The name that is used instead is not listed, and is gone afterwards.
    monkeypatch.setattr(local_tree, "_NAMELESS", os.O_WRONLY | os.O_DIRECTORY)

    async def looking() -> AsyncIterator[bytes]:
        yield b"x"
        assert [name[:15] for name in names(root)] == [local_tree.DRAFT]
        assert [each.name async for each in mover.list(at(root), below(root), limit=9)] == []
        yield b"y"

    await mover.put(at(root / "a.i3"), below(root), Outgoing(2, looking()))
    with pytest.raises(InputError):
        await mover.put(at(root / "b.i3"), below(root), Outgoing(3, one(b"x")))

    assert names(root) == ["a.i3"]


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_checksums_are_computed(mover: LocalMover, root: Path) -> None:
    (root / "a.i3").write_bytes(bytes(3_000_000))

    assert await mover.checksum(at(root / "a.i3"), below(root), "adler32") == adler(3_000_000)
    assert (
        await mover.checksum(at(root / "a.i3"), below(root), "sha512")
        == hashlib.sha512(bytes(3_000_000)).hexdigest()
    )
    with pytest.raises(InputError):
        await mover.checksum(at(root / "a.i3"), below(root), "crc7")


def adler(size: int) -> str:
    return f"{zlib.adler32(bytes(size)):08x}"
