"""The front end: what is served is small, ours, and valid."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

STATIC = Path(__file__).parent.parent / "iceprod" / "static"
TEMPLATES = STATIC.parent / "server" / "templates"
SCRIPTS = sorted((STATIC / "js").rglob("*.js"))
SHEETS = sorted((STATIC / "css").rglob("*.css"))
PAGES = sorted(TEMPLATES.rglob("*.html"))
VENDORED = STATIC / "vendor" / "VENDORED.toml"

_OTHER_HOST = re.compile(r"(?:https?:)?//(?!www\.w3\.org/)[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.I)
_INLINE = re.compile(r"\son[a-z]+\s*=|\sstyle\s*=|<style\b|javascript:|<script(?![^>]*\bsrc=)", re.I)


def name_of(path: Path) -> str:
    return str(path.relative_to(STATIC.parent))


def small(paths: list[Path]) -> int:
    """What the files take on the wire."""
    return sum(len(gzip.compress(path.read_bytes())) for path in paths)


def test_styles_stay_within_their_budget() -> None:
    assert small(SHEETS) <= 10 * 1024


def loaded_by(script: Path) -> set[Path]:
    """A script and all that it has a browser load."""
    found, left = set(), [script]
    while left:
        path = left.pop()
        found.add(path)
        named = re.findall(
            r"""(?:from\s+|import\s+|URL\()"(\.{1,2}/[^"]+\.js)\"""", path.read_text(encoding="utf-8")
        )
        left += {(path.parent / name).resolve() for name in named} - found
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_scripts_of_a_page_stay_within_its_budget(page: Path) -> None:
    layout = (TEMPLATES / "layout.html").read_text(encoding="utf-8")
    named = re.findall(r"frame\.static }}/(js/[^\"]+)", layout + page.read_text(encoding="utf-8"))
    scripts = {each for name in named for each in loaded_by(STATIC / name)}

    assert STATIC / "js" / "dialog.js" in scripts  # which every page asks by
    assert small(sorted(scripts)) <= 15 * 1024


@pytest.mark.parametrize("path", [*SCRIPTS, *SHEETS, *PAGES], ids=name_of)
def test_nothing_mentions_another_host(path: Path) -> None:
    assert _OTHER_HOST.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_templates_have_no_inline_script_or_style(path: Path) -> None:
    assert _INLINE.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_import_relatively(path: Path) -> None:
    wanted = re.findall(r"""(?:from|import)\s+["']([^"']+)["']""", path.read_text(encoding="utf-8"))

    assert [name for name in wanted if not name.startswith("./") and not name.startswith("../")] == []
    assert [name for name in wanted if not (path.parent / name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_are_valid(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    # As a module, whatever a package.json says.
    done = subprocess.run(
        [node, "--check", "--input-type=module"], input=path.read_bytes(), capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not VENDORED.exists(), reason="nothing is vendored")
def test_vendored_files_are_what_they_were() -> None:
    listed = tomllib.loads(VENDORED.read_text())
    expected = {name: digest for entry in listed.values() for name, digest in entry["files"].items()}

    found = {
        str(path.relative_to(VENDORED.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDORED.parent.rglob("*")
        if path.is_file() and path != VENDORED
    }
    assert found == expected
