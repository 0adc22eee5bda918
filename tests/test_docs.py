"""The documents are true: links lead somewhere, generated pages are fresh, examples run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reference import FOLDER, PAGES
from tests.servers import RunningSite

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "changelog.d").glob("*.md"),
    ]
)
GRID = '{"local": {"max_pilots": 2, "cpu": 1, "memory": 0.5, "disk": 0.5}}'
SMALL = {
    "version": 3.1,
    "tasks": [{"name": "a", "requirements": {"memory": 0.1}, "trays": [{"modules": [{"src": "/bin/true"}]}]}],
}

ORIGINS = '{"archive": {"url": "https://archive.example.org/data"}}'

_BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_WORDS = re.compile(r"\b(TODO|FIXME|TBD|coming soon|lorem)\b", re.I)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def with_examples() -> list[Path]:
    """The documents that have blocks to run."""
    return [path for path in DOCUMENTS if "<!-- run -->" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(path: Path) -> None:
    links = [link.split("#")[0] for link in _LINK.findall(path.read_text(encoding="utf-8"))]
    local = [link for link in links if link and not link.startswith(("http://", "https://"))]

    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents_are_finished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert _WORDS.findall(text) == []
    assert text.strip()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_generated_pages_are_fresh(name: str) -> None:
    # If this fails: make docs
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.is_dir():
            waiting += page.glob("*.md")
        elif page.suffix == ".md":
            links = _LINK.findall(page.read_text(encoding="utf-8"))
            found = ((page.parent / link.split("#")[0]).resolve() for link in links if "://" not in link)
            waiting += [target for target in found if target.exists()]

    assert [name_of(path) for path in (ROOT / "docs").rglob("*.md") if path not in seen] == []


def test_contributing_is_two_screens_at_most() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 80


@pytest.mark.parametrize("path", sorted((ROOT / "changelog.d").glob("*.md")), ids=name_of)
def test_a_fragment_is_one_sentence_of_a_known_kind(path: Path) -> None:
    assert path.name.split(".")[-2] in {"added", "changed", "fixed", "removed", "security"}
    assert len(path.read_text().strip().splitlines()) == 1


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site whose local grid runs what the documents submit, and that knows an origin."""
    settings = {"ICEPROD_FILES__ORIGINS": ORIGINS}
    with RunningSite(tmp_path_factory.mktemp("site"), grids=GRID, settings=settings) as running:
        yield running


@pytest.mark.e2e
@pytest.mark.parametrize("path", with_examples(), ids=name_of)
def test_examples_run(path: Path, site: RunningSite, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "dataset.json").write_text(json.dumps(SMALL))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "iceprod"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m iceprod.cli.main "$@"\n')
    command.chmod(0o755)
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        _do(block, tmp_path, site)


def _do(block: re.Match[str], folder: Path, site: RunningSite) -> None:
    """Run one block, or write the file that it shows."""
    if block["file"]:
        (folder / block["file"]).write_text(block["text"])
        return
    interpreter = {"sh": ["sh", "-eu", "-c"], "python": [sys.executable, "-W", "ignore", "-c"]}[block["kind"]]
    text = block["text"].replace("/tmp/", f"{folder}/")
    done = subprocess.run(
        [*interpreter, text],
        cwd=folder,
        env={
            **os.environ,
            **site.environment,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "DATA": str(site.folder),
            "XDG_CONFIG_HOME": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{block['text']}\n{done.stdout}\n{done.stderr}"
