"""Writing what nginx needs: its configuration, its directories, the static files."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iceprod import ids
from iceprod.config import Settings
from iceprod.errors import ConfigError
from iceprod.server import static
from iceprod.server.nginx.rendering import render
from iceprod.server.nginx.values import CONFIG_FILE, owner_of, static_path
from iceprod.services.filestore import FileTree

_SHRINKS: Final = frozenset({".css", ".js", ".svg", ".html", ".json", ".txt", ".map", ".toml"})
_KEPT_BUILDS: Final = 2
"""The former build stays, for workers that go on until their last request is answered."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Where the configuration is, of which build the static files are, and whether anything is new."""

    config: Path
    build: str
    is_new: bool


def config_path(settings: Settings) -> Path:
    """Where `generate` writes the configuration."""
    return settings.nginx_path / CONFIG_FILE


def is_fresh(settings: Settings) -> bool:
    """Whether the configuration on disk is what the settings make."""
    try:
        return config_path(settings).read_text(encoding="utf-8") == render(settings)
    except OSError:
        return False


def generate(settings: Settings) -> Generated:
    """Write configuration and static files, each whole or not at all.

    Raises:
        ConfigError: a setting does not do, or the directory can't be written.
    """
    text = render(settings)
    target = config_path(settings)
    try:
        _make_directories(settings)
        _write_static(settings)
        is_new = not (target.exists() and target.read_text(encoding="utf-8") == text)
        if is_new:
            _replace(target, text.encode())
    except OSError as exc:
        message = f"cannot write {exc.filename or target}: {exc.strerror}"
        raise ConfigError(message, fields=[{"path": "nginx.directory", "message": message}]) from None
    return Generated(target, static.build_id(), is_new)


def _make_directories(settings: Settings) -> None:
    """All that nginx needs; where it writes as root, root's own."""
    directory, owner = settings.nginx_path, owner_of(settings)
    access_log = settings.nginx.access_log
    written_first = [directory / "logs"]
    if access_log is not None:
        written_first.append(access_log.expanduser().absolute().parent)
    me = (os.geteuid(), os.getegid())
    for folder in written_first:
        _make(folder, me, mode=0o700 if owner[0] == me[0] else 0o755)
    handovers = (FileTree(path).handover for path in (settings.files_path, settings.uploads_path))
    for folder in (directory / "temp", directory / "static", *handovers):
        _make(folder, owner)


def _make(folder: Path, owner: tuple[int, int], *, mode: int = 0o700) -> None:
    """A directory and what leads to it, where it is new."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700)
            path.chmod(mode)
            _give(path, owner)


def _give(path: Path, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:
        os.chown(path, *owner)


def _write_static(settings: Settings) -> None:
    """A copy of the static files, so that a new version of the package does not change an old build."""
    target, owner = static_path(settings), owner_of(settings)
    if target.exists():
        return
    draft = target.with_name(f"new-{ids.new_id()}")
    try:
        for source in _sources():
            copy = draft / source.relative_to(static.ROOT)
            _make(copy.parent, owner)
            for path, data in _forms(copy, source.read_bytes()):
                path.write_bytes(data)
                _give(path, owner)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _drop_old_builds(target.parent)


def _sources() -> Iterator[Path]:
    return (path for path in sorted(static.ROOT.rglob("*")) if path.is_file())


def _forms(path: Path, data: bytes) -> Iterator[tuple[Path, bytes]]:
    """The file itself, and where that is shorter its compressed sibling."""
    yield path, data
    if path.suffix in _SHRINKS:
        short = gzip.compress(data, 9, mtime=0)
        if len(short) < len(data):
            yield path.with_name(f"{path.name}.gz"), short


def _drop_old_builds(folder: Path) -> None:
    builds = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in builds[_KEPT_BUILDS:]:
        shutil.rmtree(path, ignore_errors=True)


def _replace(target: Path, data: bytes) -> None:
    draft = target.with_name(f".{target.name}.{ids.new_id()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
