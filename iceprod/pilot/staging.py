"""Moving a task's files in and out: addresses, optional files, compression, retries."""

from __future__ import annotations

import itertools
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from iceprod.model.plan import File, Transfer
from iceprod.pilot import http_files
from iceprod.pilot.assignment import Failure, TaskFailure
from iceprod.pilot.client import back_off_s
from iceprod.pilot.http_files import Broken, Missing, Refused, file_digest
from iceprod.pilot.packing import is_packed, pack, unpack
from iceprod.pilot.sandbox import Sandbox
from iceprod.pilot.through_site import NO_RELAY, Relay, described

TRIES = 6
PATIENCE_S = 6 * 3600.0  # with the server itself: it may be down for long, and finished work is worth keeping
_BASES = {"permanent": "data_url", "resource": "resource_url"}


@dataclass(slots=True)
class Stager:
    """Moves the files of one task; every method blocks, and is called in a thread.

    ``urls`` has the addresses of the areas; ``files_url`` is the server's file store.  The
    task's ``token`` is shown there and to the site that is the ``relay``, to nobody else.
    ``stats`` collects one record per transfer, for the task's statistics.
    """

    sandbox: Sandbox
    urls: Mapping[str, str]
    files_url: str
    token: str
    say: Callable[[str], None]
    relay: Relay = NO_RELAY
    stopped: threading.Event = field(default_factory=threading.Event)
    stats: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"download": [], "upload": []})

    def fetch(self, file: File) -> None:
        """Bring an input into the sandbox; raises TaskFailure if it must be there and is not."""
        if file.transfer is Transfer.NO:
            return
        path = self.sandbox.local(file.local)
        if path.exists():
            self.say(f"input {file.local} is already there")
            return
        url = self.url(file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._timed("download", url, path, once=lambda: self._fetch_once(url, path))
            if file.compression and is_packed(url) and file.compression != "none":
                unpack(path)
        except Missing as exc:
            if file.transfer is not Transfer.MAYBE:
                raise _failed(f"input {file.local}", exc) from exc
            self.say(f"optional input {file.local} does not exist")
        except (OSError, tarfile.TarError) as exc:
            raise _failed(f"input {file.local}", exc) from exc

    def store(self, file: File) -> None:
        """Publish an output; raises TaskFailure if it must be there and is not, or can't be sent."""
        if file.transfer is Transfer.NO:
            return
        path = self.sandbox.local(file.local)
        if not path.exists():
            if file.transfer is Transfer.MAYBE:
                self.say(f"optional output {file.local} was not made")
                return
            raise TaskFailure(Failure("transfer", f"output {file.local} does not exist"))
        url = self.url(file)
        try:
            ready = self._packed(file, path, url)
            self._timed("upload", url, ready, once=lambda: self._store_once(ready, url))
            self._tell_catalogue(ready, url)
        except OSError as exc:
            raise _failed(f"output {file.local}", exc) from exc

    def url(self, file: File) -> str:
        """The full address of ``file``.

        Raises:
            TaskFailure: its area has no address here.
        """
        if _scheme(file.remote):
            return file.remote
        base = self.urls.get(_BASES.get(file.area, file.area), "")
        if not base:
            name = _BASES.get(file.area, file.area)
            raise TaskFailure(Failure("config", f"{file.remote}: this site has no address for {name}"))
        remote = file.remote if _scheme(base) == "file" else quote(file.remote, safe="/:@!$&'()*+,;=~")
        return f"{base.rstrip('/')}/{remote.lstrip('/')}"

    def _packed(self, file: File, path: Path, url: str) -> Path:
        """What to send: the file, or what it is packed into where its address says so."""
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        if not path.is_dir():
            _check_file(path)
        if path.is_dir() and not is_packed(name):
            raise OSError(f"{file.local} is a directory")
        if path.is_dir() or (file.compression and is_packed(name) and not is_packed(path.name)):
            packed = self.sandbox.tmp / name
            pack(path, packed)
            return packed
        return path

    def _timed(self, kind: str, url: str, path: Path, *, once: Callable[[], None]) -> None:
        started = time.monotonic()
        record: dict[str, Any] = {"name": url, "error": True}
        self.stats[kind].append(record)
        try:
            self._repeated(once, is_ours=self._is_ours(url))
            duration_s = max(time.monotonic() - started, 1e-6)
            size = path.stat().st_size
            record.update(error=False, size=size, rate_MBps=round(size / duration_s / 1e6, 3))
            self.say(f"{kind} {url} ({size} bytes, {duration_s:.3f} s)")
        finally:
            record["duration"] = round(time.monotonic() - started, 3)

    def _repeated(self, once: Callable[[], None], *, is_ours: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        failures = 0  # but for those of our own site, which is waited for
        for attempt in itertools.count(1):
            try:
                return once()
            except Broken as exc:
                failures += not is_ours or exc.is_elsewhere
                if time.monotonic() > deadline or failures >= TRIES:
                    raise
                self.say(f"try {attempt} failed: {exc}")
                if self.stopped.wait(back_off_s(attempt)):
                    raise Refused("the task was stopped") from exc
        return None

    def _tell_catalogue(self, path: Path, url: str) -> None:
        """Have the site know of an output that it did not see; what it says no to is no failure."""
        if not self.relay.base_url or url.startswith(self.files_url):
            return
        file = described(path, url)
        if file is None:
            return
        try:
            self._repeated(lambda: self.relay.register([file], self._credential), is_ours=True)
        except (Missing, Refused) as exc:
            self.say(f"{url} is not in the catalogue: {exc}")

    def _fetch_once(self, url: str, path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        scheme = _scheme(url)
        if self.relay.takes(url):
            self.relay.fetch(url, part, self._credential)
        elif scheme == "file":
            _copy_verified(_file_path(url), part)
        elif scheme in ("http", "https"):
            http_files.fetch(url, part, self._headers(url))
        else:
            raise _unspoken(url, scheme)
        part.replace(path)

    def _store_once(self, path: Path, url: str) -> None:
        scheme = _scheme(url)
        if self.relay.takes(url):
            self.relay.store(path, url, self._credential, wait=self._wait)
        elif scheme == "file":
            target = _file_path(url)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part-{os.getpid()}-{time.monotonic_ns()}")
            try:
                _copy_verified(path, part)
                if self.stopped.is_set():
                    raise Refused("the task was stopped")
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        elif scheme in ("http", "https"):
            http_files.send(path, url, self._headers(url))
        else:
            raise _unspoken(url, scheme)

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise Refused("the task was stopped")

    @property
    def _credential(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _headers(self, url: str) -> dict[str, str]:
        is_files = bool(self.files_url) and url.startswith(self.files_url)
        return self._credential if is_files else {}

    def _is_ours(self, url: str) -> bool:
        """Whether our own site moves it, which may be down for long."""
        return (bool(self.files_url) and url.startswith(self.files_url)) or self.relay.takes(url)


def _scheme(url: str) -> str:
    head, separator, _ = url.partition(":")
    is_scheme = bool(separator) and len(head) > 1 and head[:1].isalpha()
    return head.lower() if is_scheme and head.replace("+", "").isalnum() and "/" not in head else ""


def _unspoken(url: str, scheme: str) -> Refused:
    hint = "an administrator may add its place to the site's origins (files.origins)"
    return Refused(f"{url}: this pilot does not speak {scheme or 'that protocol'}; {hint}")


def _file_path(url: str) -> Path:
    """The path in ``file:/a/b`` or ``file:///a/b``; percent signs are only undone in the latter."""
    rest = url.split(":", 1)[1]
    return Path(unquote(rest[2:])) if rest.startswith("//") else Path(rest)


def _check_file(path: Path) -> None:
    """Refuse pipes, which would hold a thread for ever, and devices, which have no end."""
    if not path.is_file():
        raise Refused(f"{path.name} is no file")


def _copy_verified(source: Path, target: Path) -> None:
    """Copy a file and read it back: a full or failing disk is noticed here, not by the next task."""
    if not source.exists():
        raise Missing(f"{source} does not exist")
    _check_file(source)
    shutil.copyfile(source, target)
    shutil.copymode(source, target)
    if file_digest(source) != file_digest(target):
        raise Broken(f"{target}: the checksum is wrong")


def _failed(what: str, exc: Exception) -> TaskFailure:
    """A transfer's failure; a full disk and the like say so in the system's words."""
    reason = f"{exc.strerror}: {exc.filename}" if isinstance(exc, OSError) and exc.strerror else str(exc)
    return TaskFailure(Failure("transfer", f"{what}: {reason}"))
