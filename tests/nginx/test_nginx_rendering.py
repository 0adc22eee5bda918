"""The configuration as text: what may stand in it, and what must.  Needs no nginx."""

from __future__ import annotations

import gzip
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.config import Settings, load
from iceprod.errors import ConfigError
from iceprod.server import nginx as frontend
from iceprod.server import static
from iceprod.server.nginx.rendering import TEMPLATES
from iceprod.server.processes.directory import PORTS_FILE
from iceprod.services.filestore import FileTree

ROOT = Path(__file__).parent.parent.parent
HOSTILE = [
    '"; include /etc/passwd; #',
    "a\nb",
    "a;b",
    "{",
    "}",
    "$host",
    "a\\b",
    "'",
    "a\x00b",
    "a\x7fb",
    "a\u2028b",
]


def settings(folder: Path = Path("/srv/site"), **sections) -> Settings:
    nginx = {"certificate": "/etc/site.pem", "certificate_key": "/etc/site.key", **sections.get("nginx", {})}
    server = {"data_dir": folder, "proxied": True, **sections.get("server", {})}
    return load(overrides={**sections, "server": server, "nginx": nginx})


def places(error: ConfigError) -> set[str]:
    return {field["path"] for field in error.detail["fields"]}


def test_everything_that_is_missing_is_told_at_once():
    with pytest.raises(ConfigError) as refused:
        frontend.render(load(overrides={"server": {"port": 0, "data_dir": "/nowhere"}}))
    expected = {"server.proxied", "server.port", "nginx.certificate", "nginx.certificate_key"}
    assert places(refused.value) == expected


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("certificate", "nginx.certificate"),
        ("certificate_key", "nginx.certificate_key"),
        ("client_ca", "nginx.client_ca"),
        ("client_crl", "nginx.client_crl"),
        ("directory", "nginx.directory"),
        ("access_log", "nginx.access_log"),
    ],
)
def test_a_path_that_breaks_out_of_its_place_is_refused(setting, path, text):
    with pytest.raises(ConfigError) as refused:
        frontend.render(settings(nginx={setting: f"/srv/{text}"}))
    assert places(refused.value) == {path}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("setting", ["host", "names", "upstreams", "rpc_upstreams", "resolver", "program"])
def test_a_name_that_breaks_out_of_its_place_is_refused(setting, text):
    value = text if setting in ("host", "program") else [text]
    with pytest.raises(ConfigError):
        frontend.render(settings(nginx={setting: value}))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_servers_own_settings_may_not_break_out_either(text):
    for section in ({"server": {"data_dir": f"/srv/{text}"}}, {"files": {"path": f"/srv/{text}"}}):
        with pytest.raises(ConfigError):
            frontend.render(settings(**section))
    with pytest.raises(ConfigError):
        frontend.render(settings(server={"host": text}))


@given(st.text(min_size=1, max_size=20))
def test_whatever_a_path_is_it_stays_one_quoted_word(text):
    try:
        written = frontend.render(settings(nginx={"certificate": f"/srv/{text}"}))
    except ConfigError:
        return
    (line,) = [line for line in written.splitlines() if line.strip().startswith("ssl_certificate ")]
    assert re.fullmatch(r' *ssl_certificate "[^"\\$;{}\n]*";', line)


def test_no_place_in_a_template_is_left_empty():
    everything = settings(
        nginx={
            "client_ca": "/etc/ca.pem",
            "client_crl": "/etc/crl.pem",
            "names": ["site.org", "*.site.org"],
            "resolver": ["127.0.0.1"],
        }
    )
    for written in (frontend.render(settings()), frontend.render(everything)):
        assert re.findall(r"@[a-z_]+@|include snippets", written) == []
        assert written.count("{") == written.count("}")


def test_every_template_is_used():
    snippets = {path.name for path in (TEMPLATES / "snippets").iterdir()}
    used = set()
    for path in (TEMPLATES / "iceprod.conf.in", *(TEMPLATES / "snippets").iterdir()):
        used |= set(re.findall(r"include snippets/([a-z-]+\.conf);", path.read_text()))
    assert snippets - used == {"redirect.conf", "client-cert.conf"}
    assert {"tls.conf", "client-cert.conf", "static.conf", "uploads.conf", "proxy.conf"} <= snippets
    assert TEMPLATES.resolve() == ROOT / "nginx"


def test_addresses_of_the_server_are_those_that_it_listens_on(tmp_path):
    def upstreams(**server) -> list[str]:
        return re.findall(r"server (\S+) fail_timeout", frontend.render(settings(tmp_path, server=server)))

    assert upstreams() == ["127.0.0.1:8080", "127.0.0.1:8081"]
    assert upstreams(rpc_lane=False) == ["127.0.0.1:8080", "127.0.0.1:8080"]
    assert upstreams(host="0.0.0.0", port=1, rpc_port=2) == ["127.0.0.1:1", "127.0.0.1:2"]
    assert upstreams(host="::", port=1, rpc_port=2) == ["[::1]:1", "[::1]:2"]
    (tmp_path / PORTS_FILE).write_text('{"server.port": 7, "server.rpc_port": 8}')
    assert upstreams(port=0, rpc_port=0) == ["127.0.0.1:7", "127.0.0.1:8"]


def test_several_servers_can_be_named():
    nginx = {"upstreams": ["a:1", "[fe80::1]:2"], "rpc_upstreams": ["c:3"]}
    written = frontend.render(settings(nginx=nginx))
    assert re.findall(r"server (\S+) fail_timeout", written) == ["a:1", "[fe80::1]:2", "c:3"]
    alone = frontend.render(settings(nginx={"upstreams": ["a:1"]}))
    assert re.findall(r"server (\S+) fail_timeout", alone) == ["a:1", "a:1"]


def test_http_is_sent_on_to_the_first_name():
    assert "return 308 https://site.org$request_uri;" in frontend.render(
        settings(nginx={"names": ["site.org", "b"]})
    )
    assert "return 308 https://$host$request_uri;" in frontend.render(
        settings(nginx={"names": ["*.site.org"]})
    )
    assert "https://b:8443$request_uri" in frontend.render(
        settings(nginx={"names": ["b"], "https_port": 8443})
    )
    assert "return 308 https://$host$request_uri;" not in frontend.render(settings(nginx={"http_port": 0}))


def test_what_is_off_is_not_there():
    quiet = frontend.render(settings(nginx={"rate": 0, "connections_per_address": 0}))
    assert not re.search(r"limit_(req|conn)(_zone)? ", quiet)
    assert "ssl_verify_client" not in quiet


def test_limits_are_those_of_the_server():
    written = frontend.render(
        settings(server={"max_form_bytes": 111}, rpc={"max_message_bytes": 222}, files={"max_bytes": 333})
    )
    found = {int(each) for each in re.findall(r"client_max_body_size (\d+);", written)}
    assert found == {0, 111, 222, 333 + 64 * 1024}


def test_workers_are_the_users_whose_files_the_servers_are(tmp_path):
    found = re.search(r"^user (\S+) (\S+);", frontend.render(settings(tmp_path)), re.M)
    assert bool(found) == (os.geteuid() == 0)


def test_generating_writes_everything_once(tmp_path):
    given = settings(tmp_path)

    made = frontend.generate(given)

    assert made.is_new
    assert made.config.read_text() == frontend.render(given)
    assert frontend.is_fresh(given)
    folder = given.nginx_path / "static" / static.build_id()
    for source in (path for path in static.ROOT.rglob("*") if path.is_file()):
        copy = folder / source.relative_to(static.ROOT)
        assert copy.read_bytes() == source.read_bytes()
        packed = copy.with_name(f"{copy.name}.gz")
        if packed.exists():
            assert gzip.decompress(packed.read_bytes()) == source.read_bytes()
    assert (folder / "css" / "site.css.gz").exists()
    assert FileTree(given.files_path).handover.is_dir()
    for private in (given.nginx_path, given.files_path):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not frontend.generate(given).is_new
    assert list(given.nginx_path.glob(".*")) == []


def test_the_former_build_stays_and_no_older_one(tmp_path):
    given = settings(tmp_path)
    folder = given.nginx_path / "static"
    for age, name in ((3000, "aaaa"), (2000, "bbbb"), (1000, "cccc")):
        (folder / name).mkdir(parents=True)
        moment = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (moment, moment))

    frontend.generate(given)

    assert {path.name for path in folder.iterdir()} == {static.build_id(), "cccc"}


def test_a_directory_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "nginx").write_text("a file")
    with pytest.raises(ConfigError) as refused:
        frontend.generate(settings(tmp_path))
    assert places(refused.value) == {"nginx.directory"}
