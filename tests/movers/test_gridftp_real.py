"""The client against globus-gridftp-server, with globus-url-copy as the witness."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import zlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from iceprod.errors import AccessDenied, ConflictError, IceProdError, InputError, NotFoundError
from iceprod.model.location import parse_location
from iceprod.movers.base import WHOLE, Access, Credential, Outgoing, Span
from iceprod.movers.gridftp.mover import GridFtpMover
from tests.movers.gridftp_server import Authority, GridFtpServer, anonymous, with_gsi
from tests.movers.place import reaching

DATA = random.Random(7).randbytes(5_000_003)

# Options of ours, and of globus-url-copy that mean the same.
WAYS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "ftp": ("ftp", {}, []),
    "ftp-streams": ("ftp", {"streams": "4"}, ["-p", "4"]),
    "ftp-striped": ("ftp", {"striped": "yes", "streams": "2"}, ["-p", "2"]),
    "proven": ("gsi", {}, []),
    "bare": ("gsi", {"dcau": "N"}, ["-nodcau"]),
    "no-delegation": ("gsi", {"delegate": "no"}, ["-nodcau"]),
    "full-delegation": ("gsi", {"delegate": "full"}, []),
    "safe": ("gsi", {"protection": "S"}, ["-dcsafe"]),
    "private": ("gsi", {"protection": "P"}, ["-dcpriv"]),
    "proven-streams": ("gsi", {"streams": "3"}, ["-p", "3"]),
    "private-streams": ("gsi", {"streams": "3", "protection": "P"}, ["-p", "3", "-dcpriv"]),
}


@pytest.fixture(scope="module")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridFtpServer]:
    with anonymous(tmp_path_factory.mktemp("ftp")) as server:
        yield server


@pytest.fixture(scope="module")
def gsi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridFtpServer]:
    with with_gsi(tmp_path_factory.mktemp("gsi")) as server:
        yield server


@pytest.fixture
async def mover() -> AsyncIterator[GridFtpMover]:
    made = GridFtpMover()
    yield made
    await made.close()


async def pieces_of(data: bytes, size: int = 700_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def outgoing(data: bytes = DATA) -> Outgoing:
    return Outgoing(len(data), pieces_of(data), {"adler32": f"{zlib.adler32(data):08x}"})


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def fetched(
    mover: GridFtpMover, server: GridFtpServer, path: Path, access: Access, span: Span = WHOLE
) -> bytes:
    got = bytearray()
    async with mover.fetch(server.at(path), access, span=span) as incoming:
        while piece := await incoming.read():
            got += piece
    return bytes(got)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_both_clients_get_what_the_other_stored(
    mover: GridFtpMover, ftp: GridFtpServer, gsi: GridFtpServer, tmp_path: Path, way: str
) -> None:
    kind, options, flags = WAYS[way]
    server = ftp if kind == "ftp" else gsi
    access, local = server.access(**options), tmp_path / "local.i3"
    ours, theirs = tmp_path / "not" / "yet" / "ours.i3", tmp_path / "theirs.i3"

    await mover.put(server.at(ours), access, outgoing())
    await asyncio.to_thread(server.url_copy, *flags, f"{server.base}{ours}", f"file://{local}")
    assert local.read_bytes() == DATA
    assert names_in(ours.parent) == ["ours.i3"]

    await asyncio.to_thread(server.url_copy, *flags, f"file://{local}", f"{server.base}{theirs}")
    assert await fetched(mover, server, theirs, access) == DATA
    for span in (Span(0, 1), Span(1_000_001, 2_000_000), Span(4_999_999), Span(len(DATA))):
        end = None if span.length is None else span.offset + span.length
        assert await fetched(mover, server, theirs, access, span) == DATA[span.offset : end]

    copied = tmp_path / "copies" / "copied.i3"
    await mover.copy(server.at(theirs), server.at(copied), access, to=access)
    assert copied.read_bytes() == DATA
    found = {
        each.name: each.facts.size_bytes async for each in mover.list(server.at(tmp_path), access, limit=9)
    }
    assert found == {"copies": None, "not": None, "local.i3": len(DATA), "theirs.i3": len(DATA)}


@pytest.mark.parametrize("streams", ["1", "3"])
async def test_it_works_by_ipv6(mover: GridFtpMover, tmp_path: Path, streams: str) -> None:
    with anonymous(tmp_path, address="::1") as server:
        access, path = server.access(streams=streams), tmp_path / "hits.i3"
        await mover.put(server.at(path), access, outgoing())
        assert await fetched(mover, server, path, access) == DATA
        await mover.copy(server.at(path), server.at(tmp_path / "copy.i3"), access, to=access)
        assert (tmp_path / "copy.i3").read_bytes() == DATA


@pytest.mark.slow
async def test_all_data_nodes_of_a_striped_server_take_part(mover: GridFtpMover, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(2):
            (folder := tmp_path / f"node{number}").mkdir()
            node = stack.enter_context(anonymous(folder, "-dn"))
            nodes.append(f"127.0.0.1:{node.port}")
        server = stack.enter_context(anonymous(tmp_path, "-r", ",".join(nodes)))
        access, path = server.access(striped="yes", streams="4"), tmp_path / "hits.i3"

        await mover.put(server.at(path), access, outgoing())

        assert path.read_bytes() == DATA
        assert await fetched(mover, server, path, access) == DATA


async def test_a_file_goes_from_server_to_server(
    mover: GridFtpMover, ftp: GridFtpServer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source.i3", tmp_path / "inner" / "target.i3"
    source.write_bytes(DATA)
    with anonymous(tmp_path) as other:
        await mover.copy(ftp.at(source), other.at(target), ftp.access(), to=other.access())
        assert target.read_bytes() == DATA
        source.write_bytes(b"newer")
        await mover.copy(ftp.at(source), other.at(target), ftp.access(), to=other.access())
        assert target.read_bytes() == b"newer"
        with pytest.raises(NotFoundError):
            await mover.copy(ftp.at(tmp_path / "no"), other.at(target), ftp.access(), to=other.access())
        with pytest.raises(IceProdError):
            await mover.copy(ftp.at(source), other.at(Path("/proc/no")), ftp.access(), to=other.access())
    assert names_in(target.parent) == ["target.i3"]


async def test_checksums_are_the_servers(mover: GridFtpMover, ftp: GridFtpServer, tmp_path: Path) -> None:
    (path := tmp_path / "hits.i3").write_bytes(b"neutrino")
    found = {
        name: await mover.checksum(ftp.at(path), ftp.access(), name)
        for name in ("adler32", "md5", "sha256", "crc32c")
    }
    assert found == {
        "adler32": f"{zlib.adler32(b'neutrino'):08x}",
        "md5": hashlib.md5(b"neutrino").hexdigest(),
        "sha256": hashlib.sha256(b"neutrino").hexdigest(),
        "crc32c": None,
    }


async def test_a_file_is_stored_under_its_name_where_that_is_wanted(
    mover: GridFtpMover, ftp: GridFtpServer, tmp_path: Path
) -> None:
    path = tmp_path / "hits.i3"
    await mover.put(ftp.at(path), ftp.access(atomic="no", parents="no", verify="no"), outgoing())
    assert path.read_bytes() == DATA
    body = Outgoing(len(DATA) + 1, pieces_of(DATA))
    with pytest.raises(InputError):
        await mover.put(ftp.at(tmp_path / "short.i3"), ftp.access(atomic="no"), body)
    await mover.close()
    assert not (tmp_path / "short.i3").exists()
    with pytest.raises(IceProdError):
        await mover.put(ftp.at(tmp_path / "not" / "there"), ftp.access(parents="no"), outgoing())


async def test_directories_are_not_files(mover: GridFtpMover, ftp: GridFtpServer, tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    with pytest.raises(InputError):
        await fetched(mover, ftp, folder, ftp.access())
    with pytest.raises(ConflictError):
        await mover.put(ftp.at(folder), ftp.access(), outgoing(b"x"))
    with pytest.raises(ConflictError):
        await mover.delete(ftp.at(folder), ftp.access())
    await mover.close()
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("options", [{}, {"dcau": "N"}], ids=["proven", "bare"])
async def test_the_connection_itself_is_given_where_data_is_plain(
    mover: GridFtpMover, gsi: GridFtpServer, tmp_path: Path, options: dict[str, str]
) -> None:
    (path := tmp_path / "hits.i3").write_bytes(DATA)
    loop, access = asyncio.get_running_loop(), gsi.access(**options)

    async with mover.fetch(gsi.at(path), access, span=Span(1000)) as incoming:
        plain = incoming.plain()
        assert plain is not None
        got = bytearray(plain.head)
        while len(got) < len(plain.head) + plain.length:
            got += await loop.sock_recv(plain.sock, 1 << 20)
    assert bytes(got) == DATA[1000:]

    async with mover.fetch(gsi.at(path), access) as incoming:
        plain = incoming.plain()
        assert plain is not None
        assert await loop.sock_recv(plain.sock, 1000)
    assert (await mover.stat(gsi.at(path), access)).size_bytes == len(DATA)


async def test_no_connection_is_given_where_tls_is_on_it(
    mover: GridFtpMover, gsi: GridFtpServer, ftp: GridFtpServer, tmp_path: Path
) -> None:
    (path := tmp_path / "hits.i3").write_bytes(DATA)
    async with mover.fetch(gsi.at(path), gsi.access(protection="P")) as incoming:
        assert incoming.plain() is None
    async with mover.fetch(ftp.at(path), ftp.access(streams="2")) as incoming:
        assert incoming.plain() is None


async def refusal(mover: GridFtpMover, server: GridFtpServer, access: Access) -> str:
    with pytest.raises(AccessDenied) as raised:
        await mover.stat(server.at("/"), access)
    return raised.value.message


async def test_only_the_right_credential_will_do(
    mover: GridFtpMover, gsi: GridFtpServer, ftp: GridFtpServer
) -> None:
    assert gsi.authority is not None
    assert gsi.proxy is not None
    access, alice = gsi.access(dcau="N"), gsi.authority.user("alice")

    def having(secret: bytes, kind: str = "x509") -> Access:
        return dataclasses.replace(access, credential=Credential(kind, secret))

    assert (await mover.stat(gsi.at("/"), having(alice.pem))).is_directory
    assert (await mover.stat(gsi.at("/"), having(alice.proxy(limited=True).pem))).is_directory
    assert (await mover.stat(gsi.at("/"), having(alice.proxy().proxy().pem))).is_directory
    assert "expired" in await refusal(mover, gsi, having(alice.proxy(age=timedelta(days=1, hours=1)).pem))
    assert "530" in await refusal(mover, gsi, having(gsi.authority.user("mallory").pem))
    assert "PEM" in await refusal(mover, gsi, having(b"no pem"))
    assert "not that of" in await refusal(
        mover, gsi, having(gsi.proxy.pem.split(b"-----BEGIN P")[0] + alice.key_pem)
    )
    assert "x509" in await refusal(mover, gsi, having(b"token", "token"))
    assert "x509" in await refusal(mover, gsi, dataclasses.replace(access, credential=None))
    assert "password" in await refusal(
        mover, ftp, dataclasses.replace(ftp.access(), credential=access.credential)
    )


async def test_only_the_right_server_will_do(mover: GridFtpMover, gsi: GridFtpServer, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "stranger", "Other CA")
    elsewhere = dataclasses.replace(gsi.access(dcau="N"), ca_path=str(stranger.folder))
    assert "not trusted" in await refusal(mover, gsi, elsewhere)

    expected = gsi.access(dcau="N", subject="/DC=test/DC=iceprod/CN=localhost")
    assert (await mover.stat(gsi.at("/"), expected)).is_directory
    assert "another" in await refusal(
        mover, gsi, gsi.access(dcau="N", subject="/DC=test/DC=iceprod/CN=other")
    )

    with with_gsi(tmp_path, authority=gsi.authority, names=["elsewhere.example"]) as other:
        said = await refusal(mover, other, other.access(dcau="N"))
        assert "not trusted" in said
        named = other.access(dcau="N", subject="/DC=test/DC=iceprod/CN=elsewhere.example")
        assert (await mover.stat(other.at("/"), named)).is_directory


async def test_signing_policies_and_revocations_count(mover: GridFtpMover, tmp_path: Path) -> None:
    with with_gsi(tmp_path) as server:
        authority, access = server.authority, server.access(dcau="N")
        assert authority is not None
        authority.revoke()
        assert (await mover.stat(server.at("/"), access)).is_directory
        await mover.close()

        authority.allow("/DC=test/DC=other/*")
        assert "signing_policy" in await refusal(mover, server, access)
        authority.allow("/DC=test/DC=iceprod/*")
        authority.revoke(next_update=timedelta(days=-1))
        assert "out of date" in await refusal(mover, server, access)
        authority.revoke(authority.user("bob"), server.host)
        assert "revoked" in await refusal(mover, server, access)
        (authority.folder / f"{authority.stem}.r0").write_text("garbage")
        assert "can't be read" in await refusal(mover, server, access)


@pytest.mark.parametrize(
    "options",
    [
        {"protecton": "P"},
        {"protection": "X"},
        {"streams": "0"},
        {"streams": "many"},
        {"streams": "65"},
        {"atomic": "maybe"},
        {"data_hosts": "everywhere"},
        {"delegate": "no", "dcau": "A"},
        {"delegate": "no", "protection": "P"},
        {"dcau": "N", "protection": "P"},
    ],
    ids=str,
)
async def test_options_that_make_no_sense_are_told(mover: GridFtpMover, options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        await mover.stat(parse_location("ftp://127.0.0.1:1/x"), reaching(options=options))
