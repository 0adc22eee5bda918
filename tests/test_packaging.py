"""What is installed, and that the files of bin/ stay thin."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "iceprod"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    # A build writes beside setup.py: give it a tree of its own.
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "iceprod"):
        (copy / name).symlink_to(ROOT / name)
    code = (
        "import setuptools.build_meta as b, os, sys; os.chdir(sys.argv[1]); print(b.build_wheel(sys.argv[2]))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(copy), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: set[str]) -> None:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {str(path.relative_to(ROOT)) for path in files}

    assert expected - wheel == set()


@pytest.mark.slow
def test_the_wheel_holds_the_templates_for_nginx(wheel: set[str]) -> None:
    # They are in a folder beside the package, which a link in the package leads to.
    files = (path for path in (ROOT / "nginx").rglob("*") if path.suffix in (".in", ".conf"))
    expected = {f"iceprod/server/nginx/templates/{path.relative_to(ROOT / 'nginx')}" for path in files}

    assert len(expected) > 5
    assert expected - wheel == set()


@pytest.mark.slow
def test_the_wheel_holds_nothing_but_the_package(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"iceprod"}


def test_console_scripts_and_bin_call_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == {
        "iceprod": "iceprod.cli.main:main",
        "iceprod-pilot": "iceprod.pilot.main:main",
    }
    assert "iceprod.cli.main" in (ROOT / "bin/iceprod").read_text()
    assert "iceprod.pilot.main" in (ROOT / "bin/iceprod-pilot").read_text()


@pytest.mark.parametrize("name", ["iceprod", "iceprod-pilot"])
def test_a_bin_file_is_ten_lines_at_most(name: str) -> None:
    assert len((ROOT / "bin" / name).read_text().splitlines()) <= 10


@pytest.mark.parametrize("name", ["iceprod", "iceprod-pilot", "quickstart", "test", "setup-venv"])
def test_a_bin_file_may_be_run(name: str) -> None:
    assert (ROOT / "bin" / name).stat().st_mode & 0o111


def test_every_script_is_valid_shell() -> None:
    for script in ("bin/iceprod", "bin/quickstart", "bin/setup-venv", "bin/test", ".ci/run"):
        shell = (ROOT / script).read_text().splitlines()[0].split("/")[-1].split()[-1]
        run = subprocess.run([shell, "-n", str(ROOT / script)], capture_output=True, text=True, check=False)
        assert (script, run.returncode, run.stderr) == (script, 0, "")


def test_named_packages_are_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"tornado", "motor", "jsonrpcclient", "pycurl", "globus-sdk", "asyncssh"}

    required = {dependency.split(">")[0] for dependency in project["dependencies"]}

    assert wanted - required == set()
    assert "pytest-tornado==0.8.1" in project["optional-dependencies"]["test"]
