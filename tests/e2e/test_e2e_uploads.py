"""Uploads outlive kill -9: what is whole is there and right, what is not goes on where it was.

tuspy is a client that others have written; the hundred uploads at once are by plain requests, so
that the test knows what the server has said of each.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.storage.filestorage import FileStorage

from tests import havoc
from tests.servers import RunningSite, until

pytestmark = [
    pytest.mark.e2e,
    # tuspy leaves the closing of its files to chance.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

UPLOADS = 100
KILLS = 3
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RunningSite]:
    with RunningSite(tmp_path / "site") as running:
        yield running


@pytest.fixture(scope="module")
def steady_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """One that is not killed."""
    with RunningSite(tmp_path_factory.mktemp("steady") / "site") as running:
        yield running


def restart(site: RunningSite) -> None:
    site.stop(kill=True)
    site.start_again()


def client_of(site: RunningSite) -> TusClient:
    return TusClient(f"{site.url}/tus", headers={"Authorization": f"Bearer {site.token}"})


def stored(site: RunningSite, name: str) -> bytes | None:
    answer = requests.get(
        f"{site.url}/files/site_temp/{name}", headers={"Authorization": f"Bearer {site.token}"}, timeout=60
    )
    return answer.content if answer.status_code == 200 else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hits.npz"
    path.write_bytes(random.Random(1).randbytes(5_000_000))
    return path


def test_tuspy_goes_on_after_the_server_was_killed(site: RunningSite, file: Path, tmp_path: Path):
    data = file.read_bytes()
    metadata = {"path": "site_temp/", "filename": file.name, "sha256": hashlib.sha256(data).hexdigest()}
    urls = FileStorage(str(tmp_path / "urls.json"))
    given = {"chunk_size": 300_000, "metadata": metadata, "store_url": True, "url_storage": urls}
    first = client_of(site).uploader(str(file), upload_checksum=True, **given)
    for _ in range(7):
        first.upload_chunk()

    restart(site)

    # Another run of the client: it finds the address in its own notes, and asks the server how far.
    second = client_of(site).uploader(str(file), upload_checksum=True, **given)
    assert (second.url, second.offset) == (first.url, 2_100_000)
    assert stored(site, file.name) is None
    second.upload()
    assert stored(site, file.name) == data
    urls.close()


def test_tuspy_survives_kills_in_the_middle_of_its_requests(site: RunningSite, file: Path):
    uploader = client_of(site).uploader(
        str(file), chunk_size=40_000, metadata={"path": "site_temp/survivor"}, retries=200, retry_delay=0.1
    )
    sender = threading.Thread(target=uploader.upload)
    uploader.upload_chunk()
    sender.start()
    kills = 0
    while sender.is_alive() and kills < 3:
        at = uploader.offset
        until(lambda at=at: uploader.offset > at + 200_000 or not sender.is_alive())
        restart(site)
        kills += 1
    sender.join(120)
    assert kills == 3
    assert stored(site, "survivor") == file.read_bytes()


def test_what_came_before_the_server_was_stopped_counts(tmp_path: Path):
    settings = {"ICEPROD_SERVER__DRAIN_S": "1"}
    with RunningSite(tmp_path / "site", settings=settings) as site:
        bearer = {**TUS, "Authorization": f"Bearer {site.token}"}
        place = f"path {b64encode(b'site_temp/x').decode()}"
        made = requests.post(
            f"{site.url}/tus",
            headers={**bearer, "Upload-Length": "900000", "Upload-Metadata": place},
            timeout=60,
        )
        path = made.headers["Location"]
        lines = [f"PATCH {path} HTTP/1.1", "Host: x", "Upload-Offset: 0", "Content-Length: 900000"]
        lines += [f"{name}: {value}" for name, value in bearer.items()]
        lines += ["Content-Type: application/offset+octet-stream", "", ""]
        host, port = site.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall("\r\n".join(lines).encode() + b"x" * 700_000)
            data = next((site.folder / "uploads").rglob("data"))
            until(lambda: data.stat().st_size)
            site.stop()
        site.start_again()
        head = requests.head(site.url + path, headers=bearer, timeout=60)
        assert int(head.headers["Upload-Offset"]) == 700_000


@pytest.mark.parametrize("size", [0, 1, 299_999])
def test_tuspy_uploads_small_files(steady_site: RunningSite, tmp_path: Path, size: int):
    path = tmp_path / "small"
    path.write_bytes(b"x" * size)
    client_of(steady_site).uploader(str(path), metadata={"path": "site_temp/small"}).upload()
    assert stored(steady_site, "small") == b"x" * size


def test_tuspy_is_told_what_it_may_not(steady_site: RunningSite, file: Path):
    stranger = TusClient(f"{steady_site.url}/tus")
    # Of a file that it opens itself, tuspy leaves closing it to chance when it is refused.
    with file.open("rb") as stream, pytest.raises(TusCommunicationError) as refused:
        stranger.uploader(file_stream=stream, metadata={"path": "site_temp/x"}).upload()
    assert refused.value.status_code == 401
    wrong = {"path": "site_temp/x", "sha256": "0" * 64}
    with file.open("rb") as stream, pytest.raises(TusUploadFailed) as failed:
        client_of(steady_site).uploader(file_stream=stream, metadata=wrong).upload()
    assert failed.value.status_code == 422
    assert stored(steady_site, "x") is None


class Sender:
    """One file, sent in parts of any size until the server says that it has it."""

    def __init__(self, site: RunningSite, number: int) -> None:
        self._site = site
        self._dice = random.Random(havoc.SEED + number)
        self.name = f"file-{number}"
        self.data = self._dice.randbytes(self._dice.choice([0, 1, 70_000, 700_000, 2_000_000]))
        self.url = ""
        self.promised = 0
        self.is_done = False

    def send(self) -> None:
        while not self.is_done:
            try:
                self._step()
            except requests.RequestException:  # the server is away
                threading.Event().wait(0.1)

    def _step(self) -> None:
        if not self.url:
            self._create()
            return
        head = requests.head(self.url, headers=self._headers(), timeout=60)
        if head.status_code == 423:  # the former connection is not known to be dead yet
            return
        assert head.status_code == 200, head.status_code
        offset = int(head.headers["Upload-Offset"])
        assert self.promised <= offset <= len(self.data)
        if offset == len(self.data):
            self.is_done = True
            return
        self._patch(offset)

    def _create(self) -> None:
        digest = hashlib.sha256(self.data).hexdigest()
        place = {"path": f"site_temp/{self.name}", "sha256": digest}
        told = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in place.items())
        given = {"Upload-Length": str(len(self.data)), "Upload-Metadata": told}
        made = requests.post(f"{self._site.url}/tus", headers=self._headers(**given), timeout=60)
        assert made.status_code == 201, made.text
        self.url = self._site.url + made.headers["Location"]

    def _patch(self, offset: int) -> None:
        size = self._dice.choice([1, 1000, 50_000, 300_000, 2_000_000])
        part = self.data[offset : offset + size]
        given = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        answer = requests.patch(
            self.url, data=self._dribble(part), headers=self._headers(**given), timeout=60
        )
        assert answer.status_code in (204, 409, 423), (answer.status_code, answer.text)
        if answer.status_code == 204:
            self.promised = int(answer.headers["Upload-Offset"])
            assert self.promised == offset + len(part)

    def _dribble(self, part: bytes) -> Iterator[bytes]:
        for start in range(0, len(part), 20_000):
            yield part[start : start + 20_000]

    def _headers(self, **more: str) -> dict[str, str]:
        return {**TUS, "Authorization": f"Bearer {self._site.token}", **more}


@pytest.mark.slow
def test_a_hundred_uploads_outlive_kills(site: RunningSite):
    senders = [Sender(site, number) for number in range(UPLOADS)]
    dice = random.Random(havoc.SEED)
    with ThreadPoolExecutor(25) as threads:
        running = [threads.submit(sender.send) for sender in senders]
        for _ in range(KILLS):
            before = sum(sender.is_done for sender in senders)
            until(
                lambda before=before: sum(s.is_done for s in senders) >= min(UPLOADS, before + UPLOADS // 6)
            )
            threading.Event().wait(dice.random() / 3)
            site.stop(kill=True)
            _check_what_is_there(site, senders)
            site.start_again()
        for each in running:
            each.result(timeout=120)
    assert all(stored(site, sender.name) == sender.data for sender in senders)
    # One whose creation nobody heard of stays open; what was between two steps is brought to an end.
    until(lambda: _stages(site) <= {"stored", "open"})
    assert not list((site.folder / "files" / ".incoming").iterdir())


def _stages(site: RunningSite) -> set[str]:
    return {view["stage"] for view in site.call("upload.list", limit=1000)["items"]}


def _check_what_is_there(site: RunningSite, senders: list[Sender]) -> None:
    """While the server is down: every file is whole and right, and those that were promised are there."""
    folder = site.folder / "files" / "site_temp"
    there = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
    for sender in senders:
        if sender.name in there:
            assert there[sender.name] == sender.data
        if sender.promised == len(sender.data) and sender.data:
            assert sender.name in there
