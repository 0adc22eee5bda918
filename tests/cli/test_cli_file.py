"""``iceprod file``: there and back, resumed, at origins and in the areas."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from iceprod.cli import file_transfer
from iceprod.cli.file import split_path, targets_for
from iceprod.cli.file_transfer import FileClient, UploadMemory
from iceprod.errors import InputError, TransferFailed
from tests.servers import RunningSite, until

DATA = random.Random(5).randbytes(3_000_000)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place that the site has as an origin."""
    return tmp_path_factory.mktemp("disk")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that serves a directory and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def web(disk: Path) -> Iterator[str]:
    """The same place by HTTP: its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(disk)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, disk: Path, web: str) -> Iterator[RunningSite]:
    origins = {"disk": {"url": f"file:{disk}", "write": True}, "web": {"url": web, "private": True}}
    settings = {"ICEPROD_FILES__ORIGINS": json.dumps(origins)}
    with RunningSite(tmp_path_factory.mktemp("site"), settings=settings) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that commands run in, with a file beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "data.bin").write_bytes(DATA)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_file_goes_to_an_origin_and_comes_back(command, here: Path, disk: Path):
    place = f"file://{disk}/round trip.bin"
    sent = command("file", "put", "../data.bin", place, "--json")
    listed = command("file", "ls", f"file://{disk}")
    told = command("file", "stat", place, "--json")
    fetched = command("file", "get", place, "--json")

    spelled = place.replace(" ", "%20")
    assert (sent.code, sent.json["items"][0]["place"]) == (0, spelled)
    assert (disk / "round trip.bin").read_bytes() == DATA
    assert "round trip.bin\t3 MB" in listed.out
    assert told.json["size_bytes"] == len(DATA)
    assert fetched.json["items"] == [{"place": spelled, "path": "round trip.bin", "size_bytes": len(DATA)}]
    assert (here / "round trip.bin").read_bytes() == DATA


def test_a_file_of_the_site_is_found_in_the_catalogue(command, here: Path):
    sent = command("file", "put", "../data.bin", "site_temp/cli/")
    found = command("file", "find", "site_temp/cli", "--dataset", "", "--json")
    listed = command("file", "ls", "site_temp/cli")
    fetched = command("file", "get", "site_temp/cli/data.bin", "-o", "other name")
    told = command("file", "stat", "site_temp/cli/data.bin")
    gone = command("file", "rm", "site_temp/cli/data.bin")
    absent = command("file", "stat", "site_temp/cli/data.bin")

    assert (sent.code, sent.err.splitlines()[-1]) == (0, "1 file, 3 MB, sent")
    sums = {item["name"]: item["checksums"]["sha256"] for item in found.json["items"]}
    assert sums == {"site_temp/cli/data.bin": hashlib.sha256(DATA).hexdigest()}
    assert listed.out.splitlines()[1].startswith("site_temp/cli/data.bin\t3 MB")
    assert (fetched.code, (here / "other name").read_bytes()) == (0, DATA)
    assert hashlib.sha256(DATA).hexdigest() in told.out
    assert (gone.code, absent.code) == (0, 3)


def test_files_are_copied_between_places_and_deleted(command, disk: Path):
    (disk / "first").write_bytes(b"12345")

    copied = command("file", "cp", f"file://{disk}/first", f"file://{disk}/second", "--json")
    gone = command("file", "rm", f"file://{disk}/first")

    assert copied.json["items"][0]["size_bytes"] == 5
    assert (gone.code, (disk / "second").read_bytes(), (disk / "first").exists()) == (0, b"12345", False)


def test_several_files_are_fetched_at_a_time(command, here: Path, disk: Path):
    for number in range(5):
        (disk / f"part{number}").write_bytes(DATA[number * 1000 :])

    fetched = command("file", "get", *(f"file://{disk}/part{n}" for n in range(5)), "-j", "3")

    assert fetched.code == 0
    assert [(here / f"part{n}").read_bytes() == DATA[n * 1000 :] for n in range(5)] == [True] * 5


def test_origins_are_listed(command, disk: Path, web: str):
    assert command("file", "ls").out.splitlines() == [
        "name\turl\twritable\tgroups",
        f"disk\tfile://{disk}\tyes\t",
        f"web\t{web}/\tno\t",
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("get", "file:///etc/passwd"), 4, "no origin of this site holds"),
        (("get", "site_temp/none"), 3, "no file"),
        (("put", "none", "site_temp/x"), 2, "none is no file"),
        (("cp", "site_temp/x", "site_temp/y"), 2, "cp copies between origins"),
        (("ls", "nowhere"), 2, "no URL and no path of an area"),
        (("cache", "pin", "none"), 2, "there is no copy"),
    ],
)
def test_what_cannot_be_done_is_told(
    command, here: Path, arguments: tuple[str, ...], status: int, words: str
):
    ended = command("file", *arguments)

    assert (ended.code, words in ended.err) == (status, True), ended.err


def test_copies_are_shown_pinned_and_removed(command, here: Path, disk: Path, web: str):
    (disk / "kept").write_bytes(DATA)
    place = f"{web}/kept"
    fetched = command("file", "get", place)
    assert fetched.code == 0, fetched.err

    def copies() -> list[dict[str, object]]:
        return command("file", "cache", "show", "--json").json["items"]

    shown = until(lambda: [item for item in copies() if item["url"] == place])
    pinned = command("file", "cache", "pin", place)
    again = command("file", "cache", "show")
    removed = command("file", "cache", "evict", place)

    assert [item["pinned"] for item in shown] == [False]
    assert (pinned.code, removed.code) == (0, 0)
    assert any(line.endswith(f"pinned\t{place}") for line in again.out.splitlines())
    assert place not in {item["url"] for item in copies()}


def test_a_download_goes_on_where_it_broke_off(site: RunningSite, here: Path, disk: Path):
    (disk / "long").write_bytes(DATA)
    client = FileClient(site.url, site.token)
    place, seen = f"file://{disk}/long", []

    class Enough(Exception):
        pass

    def stop(done: int, _total: int | None) -> None:
        if done > 1_000_000:
            raise Enough

    with pytest.raises(Enough):
        client.fetch(place, here / "long", moved=stop)
    broken = (here / "long.part").stat().st_size
    client.fetch(place, here / "long", moved=lambda done, total: seen.append((done, total)))

    assert 1_000_000 < broken < len(DATA)
    assert seen[0][0] > broken
    assert {total for _, total in seen} == {len(DATA)}
    assert (here / "long").read_bytes() == DATA
    assert os.listdir(here) == ["long"]


def test_a_download_of_a_file_that_changed_begins_anew(site: RunningSite, here: Path, disk: Path):
    (disk / "changed").write_bytes(DATA)
    client = FileClient(site.url, site.token)
    (here / "changed.part").write_bytes(b"of another version")
    (here / ".changed.part.etag").write_text('"0123"')

    client.fetch(f"file://{disk}/changed", here / "changed", moved=lambda *_: None)

    assert (here / "changed").read_bytes() == DATA


def test_an_upload_goes_on_where_it_broke_off(
    site: RunningSite, here: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(file_transfer, "PART_BYTES", 1_000_000)
    memory, seen = UploadMemory(here / "memory.json"), []
    client, place = FileClient(site.url, site.token), f"file://{disk}/up"

    class Enough(Exception):
        pass

    def stop(done: int, _total: int | None) -> None:
        if done >= 1_000_000:
            raise Enough

    with pytest.raises(Enough):
        client.store(here.parent / "data.bin", place, memory=memory, moved=stop)
    first = json.loads((here / "memory.json").read_text())
    upload_id = client.store(
        here.parent / "data.bin", place, memory=memory, moved=lambda done, _total: seen.append(done)
    )

    assert len(first) == 1
    assert seen == [1_000_000, 2_000_000, 3_000_000]
    assert list(first.values()) == [f"/tus/{upload_id}"]
    assert json.loads((here / "memory.json").read_text()) == {}


def test_a_site_that_is_away_is_given_up_in_the_end(here: Path, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(file_transfer.time, "sleep", slept.append)

    with pytest.raises(TransferFailed):
        FileClient("http://127.0.0.1:1", "").fetch("site_temp/x", here / "x", moved=lambda *_: None)

    assert len(slept) == file_transfer.TRIES - 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("site_temp/a/b", ("", "site_temp/a/b")),
        ("job_temp/d1/3/x", ("d1", "job_temp/3/x")),
        ("/files/dataset_temp/d1/x", ("d1", "dataset_temp/x")),
    ],
)
def test_paths_of_areas_are_names_in_the_catalogue(path: str, expected: tuple[str, str]):
    assert split_path(path) == expected


def test_two_files_never_become_one(tmp_path: Path):
    with pytest.raises(InputError):
        targets_for(("site_temp/a/x", "site_temp/b/x"), tmp_path)
    with pytest.raises(InputError):
        targets_for(("site_temp/a", "site_temp/b"), tmp_path / "absent")
