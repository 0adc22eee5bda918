"""The command as a whole: help, mistakes, exit codes, completion."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from iceprod import errors
from iceprod.cli import exits
from iceprod.cli.main import iceprod
from iceprod.rpc.codes import CODES
from tests.servers import Ran

Command = Callable[..., Ran]


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of each command and group."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


COMMANDS = every_command(iceprod)


def test_every_error_has_an_exit_code() -> None:
    assert set(exits.EXIT_CODES) == set(CODES)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], bare: Command) -> None:
    ran = bare(*words, "--help")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: iceprod {' '.join(words)}")


def test_help_is_quick() -> None:
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "iceprod.cli.main", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    # Processor time, which others on the same machine prolong less than time on the clock.
    assert min(times) < 0.3


def test_who_stops_reading_ends_the_command_as_a_shell_expects() -> None:
    command = [sys.executable, "-m", "iceprod.cli.main", "config", "check", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()

    assert (process.returncode, complaint) == (141, b"")


def test_help_imports_neither_server_nor_client() -> None:
    code = (
        "import sys\nfrom iceprod.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "bad = {'tornado', 'rich', 'pydantic', 'pycurl', 'msgspec'} & set(sys.modules)\n"
        "assert not bad, bad"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_command_gets_a_suggestion(bare: Command) -> None:
    ran = bare("datset", "list")

    assert ran.code == 2
    assert "Did you mean 'dataset'?" in ran.err


def test_without_a_site_a_command_says_how_to_name_one(bare: Command) -> None:
    ran = bare("dataset", "list")

    assert ran.code == 2
    assert "--url" in ran.err
    assert "ICEPROD_URL" in ran.err
    assert "iceprod login" in ran.err


def test_an_address_that_is_none_is_refused(bare: Command) -> None:
    ran = bare("dataset", "list", "--url", "localhost:1")

    assert (ran.code, ran.out) == (2, "")
    assert "has to begin with http://" in ran.err


def test_a_site_that_is_away_is_told_from_a_wrong_call(bare: Command) -> None:
    ran = bare("dataset", "list", "--url", "http://127.0.0.1:9")

    assert ran.code == 5
    assert "next: is the server running" in ran.err


def test_wrong_settings_end_with_78(bare: Command, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("[server]\nprot = 1\n")

    ran = bare("serve", "--config", str(file))

    assert ran.code == 78
    assert "did you mean server.port?" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for(shell: str, bare: Command) -> None:
    ran = bare("completion", shell)

    assert ran.code == 0
    assert "_ICEPROD_COMPLETE" in ran.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFoundError("dataset", "x"), 3),
        (errors.AccessDenied("no"), 4),
        (errors.NotAuthenticated("who?"), 4),
        (errors.Unavailable("away"), 5),
        (errors.ConfigError("wrong"), 78),
        (errors.InputError("wrong", fields=[{"path": "/a", "message": "is odd"}]), 2),
        (errors.InvalidTransition("no"), 1),
    ],
)
def test_an_error_gives_its_exit_code(
    error: errors.IceProdError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits.told(error) == code
    assert capsys.readouterr().err.startswith(f"error: {error.message}\n")
