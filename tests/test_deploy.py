"""The files of the folder deploy: they load, they verify, and what they name exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from iceprod.cli.main import iceprod
from iceprod.config import Settings, load
from iceprod.server.nginx import render
from iceprod.server.processes import sockets

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = ("iceprod.service", "iceprod.socket", "iceprod-rpc.socket")


def settings_of(path: Path, tmp_path: Path) -> Settings:
    """What a file of settings makes; secrets that it names are there."""
    given = tomllib.loads(path.read_text())
    named = given["store"]["url_file"]
    secret = tmp_path / "store-url"
    secret.write_text("mongodb://iceprod:pw@db/iceprod\n")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(named, str(secret)))
    return load(copy)


@pytest.mark.parametrize("name", ["iceprod.example.toml", "compose/iceprod.toml"])
def test_settings_load_and_fit_together(name, tmp_path):
    settings = settings_of(DEPLOY / name, tmp_path)

    assert settings.store_path is None
    assert settings.server.proxied
    assert settings.server.url.startswith("https://")
    assert settings.nginx.certificate is not None


def values(unit: str, key: str) -> list[str]:
    """What a unit file assigns to ``key``."""
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def command_of(words: list[str]) -> click.Command:
    """The command that a command line of ``iceprod`` names, with options that it has."""
    command: click.Command = iceprod
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    known = {name for param in command.params for name in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
    return command


def test_units_verify(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        text = text.replace("/opt/iceprod/bin/iceprod", "/bin/true")
        text = re.sub(r"^(User|Group)=.*", r"\1=root", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)

    command = [program, "verify", *(str(tmp_path / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_does_what_the_commands_can():
    for line in (*values("iceprod.service", "ExecStart"), *values("iceprod.service", "ExecReload")):
        program, *words = shlex.split(line)
        assert program == "/opt/iceprod/bin/iceprod"
        assert command_of(words).name in {"serve", "restart"}
    assert values("iceprod.service", "Type") == ["notify"]
    assert values("iceprod.service", "RestartPreventExitStatus") == ["78"]
    assert values("iceprod.service", "Sockets") == ["iceprod.socket iceprod-rpc.socket"]


def test_the_service_may_write_where_the_example_of_settings_says(tmp_path):
    (writable,) = values("iceprod.service", "ReadWritePaths")
    settings = settings_of(DEPLOY / "iceprod.example.toml", tmp_path)

    assert values("iceprod.service", "ProtectSystem") == ["strict"]
    assert settings.files_path.is_relative_to(writable.removeprefix("-"))
    assert str(settings.data_dir) == f"/var/lib/{values('iceprod.service', 'StateDirectory')[0]}"


def test_sockets_are_named_as_the_server_knows_them():
    ports = Settings().server
    for unit, name, port in (
        ("iceprod.socket", "http", ports.port),
        ("iceprod-rpc.socket", "rpc", ports.rpc_port),
    ):
        assert values(unit, "FileDescriptorName") == [name]
        assert name in sockets.NAMES
        assert values(unit, "ListenStream") == [f"127.0.0.1:{port}"]
        assert values(unit, "Service") == ["iceprod.service"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def test_compose_has_nginx_two_servers_and_a_database(compose):
    assert set(compose["services"]) == {"nginx", "iceprod-1", "iceprod-2", "mongo"}
    for name in ("nginx", "iceprod-1", "iceprod-2"):
        service = compose["services"][name]
        assert command_of(list(service["command"])).name in {"serve", "run"}
        dockerfile = DEPLOY / "compose" / service["build"]["context"] / service["build"]["dockerfile"]
        assert 'ENTRYPOINT ["iceprod"]' in dockerfile.read_text()
    for name, service in compose["services"].items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert compose["services"][other]["healthcheck"]["test"]


def test_compose_uses_what_it_declares(compose):
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).is_file()
            else:
                assert source in compose["volumes"]
            assert target.startswith("/")


def test_compose_fits_its_settings(compose, tmp_path):
    settings = settings_of(DEPLOY / "compose" / "iceprod.toml", tmp_path)
    servers = [name for name in compose["services"] if name.startswith("iceprod-")]

    assert set(settings.nginx.upstreams) == {f"{name}:{settings.server.port}" for name in servers}
    assert set(settings.nginx.rpc_upstreams) == {f"{name}:{settings.server.rpc_port}" for name in servers}
    nginx = settings.nginx
    ports = {port.partition(":")[2] for port in compose["services"]["nginx"]["ports"]}
    assert ports == {str(nginx.https_port), str(nginx.http_port)}
    for name in servers:
        service = compose["services"][name]
        assert f"127.0.0.1:{settings.server.port}/readyz" in service["healthcheck"]["test"][-1]
        assert float(service["stop_grace_period"].removesuffix("s")) > 2 * settings.server.drain_s
        assert any(volume.endswith(f":{settings.files_path}") for volume in service["volumes"])
    secrets = {f"/run/secrets/{name}" for name in compose["services"]["nginx"]["secrets"]}
    assert {str(nginx.certificate), str(nginx.certificate_key)} <= secrets


def test_secrets_do_not_get_into_the_image(compose):
    ignored = [line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()]

    for secret in compose["secrets"].values():
        path = (DEPLOY / "compose" / secret["file"]).relative_to(ROOT)
        assert {str(folder) for folder in path.parents} & set(ignored), path


def test_nginx_is_set_up_without_the_database(compose, tmp_path, monkeypatch):
    service = compose["services"]["nginx"]
    assert set(service["secrets"]) == {"certificate", "certificate-key"}

    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load(DEPLOY / "compose" / "iceprod.toml", overrides={"server": {"data_dir": tmp_path}})
    assert settings.store.url == ""
    assert "ssl_certificate_key" in render(settings)


def test_only_nginx_can_be_reached_from_outside(compose):
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["nginx"]
