"""Settings: where they come from, and that everything wrong is told at once."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from iceprod import log
from iceprod.config import Settings, example_toml, load, reference_page
from iceprod.errors import ConfigError

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"


def write(folder: Path, text: str) -> Path:
    path = folder / "iceprod.toml"
    path.write_text(text)
    return path


def wrong(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        load(write(folder, text))
    return {field["path"]: field["message"] for field in refused.value.detail["fields"]}


def test_environment_wins_over_the_file_and_arguments_over_both(tmp_path, monkeypatch):
    path = write(tmp_path, "[server]\nport = 1\nrpc_port = 2\nhost = 'a'\n")
    monkeypatch.setenv("ICEPROD_SERVER__PORT", "11")
    monkeypatch.setenv("ICEPROD_SERVER__RPC_PORT", "12")

    server = load(path, overrides={"server": {"port": 21}}).server

    assert (server.port, server.rpc_port, server.host) == (21, 12, "a")


def test_everything_wrong_is_told_at_once_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ICEPROD_SCHEDULNG__LEASE_S", "3")
    text = """
        severs = 1
        server = {prot = 1, port = 99999}
        grids.a.cpus = 3
        failures.rules = [{name = 'x', limits = 1}]
    """

    found = wrong(tmp_path, text)

    assert found["server.prot"] == "there is no such setting; did you mean server.port?"
    assert found["grids.a.cpus"] == "there is no such setting; did you mean grids.a.cpu?"
    assert found["failures.rules.0.limits"].endswith("did you mean failures.rules.0.limit?")
    assert found["severs"].endswith("did you mean server?")
    assert found["ICEPROD_SCHEDULNG__LEASE_S"].endswith("did you mean scheduling?")
    assert "65535" in found["server.port"]
    assert len(found) == 6


@pytest.mark.parametrize("text", ["[server", "\x00", "[a]\n[a]"])
def test_what_is_no_toml_is_told(tmp_path, text):
    with pytest.raises(ConfigError, match="is not TOML"):
        load(write(tmp_path, text))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nothing.toml")


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        load().server.port = 1  # type: ignore[misc]


def test_example_is_a_valid_file_that_changes_nothing(tmp_path):
    assert load(write(tmp_path, example_toml())).model_dump() == load().model_dump()


def test_example_with_every_line_uncommented_is_valid(tmp_path):
    lines = example_toml().splitlines()
    kept = [line.removeprefix("# ") for line in lines[1:] if " = " in line or "[" in line[:4]]
    text = "\n".join(kept).replace('name = ""', 'name = "x"')
    for unset in ("path", "port", "cpu", "gpu", "memory", "disk"):
        text = re.sub(rf'^{unset} = ""$', "", text, flags=re.M)

    assert isinstance(load(write(tmp_path, text)), Settings)


def test_reference_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == reference_page(), "run: make docs"


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    made = io.StringIO()
    log.configure(form="json", stream=made)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)


def test_log_lines_are_objects_without_secrets(stream):
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("iceprod.a").info(
        "hello", passkey="abc", headers={"Cookie": "x=y"}, url="/x?token=it_abcdefgh.ijklmnop", n=3
    )
    logging.getLogger("iceprod.b").info("by %s", "iu_abcdefghijklmnop", extra={"authorization": "Bearer x"})
    structlog.contextvars.clear_contextvars()

    first, second = map(json.loads, stream.getvalue().splitlines())

    assert first["event"] == "hello"
    assert first["request_id"] == "r1"
    assert (first["passkey"], first["headers"], first["n"]) == ("[hidden]", {"Cookie": "[hidden]"}, 3)
    assert first["url"] == "/x?token=it_[hidden]"
    assert (second["event"], second["authorization"]) == ("by iu_[hidden]", "[hidden]")


def test_log_of_a_traceback_hides_secrets_too(stream):
    try:
        int("iu_abcdefghijklmnop")
    except ValueError:
        logging.getLogger("iceprod.c").exception("bad")

    (line,) = stream.getvalue().splitlines()
    assert "'iu_[hidden]'" in json.loads(line)["exception"]


def test_log_survives_values_that_are_no_json(stream):
    structlog.get_logger("iceprod.d").info("odd", what=object, deep=[[[[[[[[["x"]]]]]]]]], data=b"\xff")

    assert json.loads(stream.getvalue())["event"] == "odd"


def test_the_url_of_the_store_can_lie_in_a_file_of_its_own(tmp_path):
    secret = tmp_path / "url"
    secret.write_text("mongodb://ada:secret@host/db\n")

    settings = load(write(tmp_path, f"[store]\nurl_file = '{secret}'\n"))

    assert settings.store.url == "mongodb://ada:secret@host/db"
    assert settings.store_path is None
    assert "secret@" not in repr(settings)


def test_a_wrong_file_for_the_url_is_told_without_what_it_holds(tmp_path):
    secret = tmp_path / "url"
    secret.write_text("postgres://ada:secret@host/db\n")

    problems = [
        wrong(tmp_path, f"[store]\nurl_file = '{secret}'\n"),
        wrong(tmp_path, "[store]\nurl_file = '/nowhere/url'\n"),
        wrong(tmp_path, f"[store]\nurl_file = '{secret}'\nurl = 'sqlite:///x'\n"),
    ]

    assert [list(problem) for problem in problems] == [["store.url"], ["store"], ["store"]]
    assert "cannot read url_file /nowhere/url: No such file" in problems[1]["store"]
    assert "not both" in problems[2]["store"]
    assert "secret@" not in str(problems)
