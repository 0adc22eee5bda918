"""Restarts of a real server under load: not one failed request, nothing lost that was answered."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from iceprod.server.processes import roster
from iceprod.services.ca import CertificateUse, SiteCA
from tests.servers import Ran, RunningSite, run, until
from tests.store.mongo_server import MongoServer
from tests.traffic import traffic

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

QUICK = {"ICEPROD_LOG__ACCESS": "false", "ICEPROD_SERVER__DRAIN_S": "5"}
# A process that restarts itself leaves as soon as its clients have; on a slow machine these may be
# idle for long.  One that was replaced by another waits for them in any case.
PATIENT = {**QUICK, "ICEPROD_SERVER__DRAIN_S": "25"}


def test_a_server_of_one_process_restarts_itself_under_load(tmp_path):
    with RunningSite(tmp_path, settings=PATIENT) as site:
        with traffic(site) as clients:
            clients.has_grown()
            restarted = restart(tmp_path)
            assert (restarted.code, restarted.err.strip()) == (0, "restarted")
            clients.has_grown()
            assert clients.done["viewer"] > 0

        assert clients.submitted
        assert clients.finished
        present = roster.read(tmp_path)
        assert site.process is not None
        assert present is not None
        assert present.pid == site.process.pid


@pytest.mark.mongo
def test_several_processes_are_replaced_under_load(tmp_path):
    with MongoServer(tmp_path / "mongo") as database:
        settings = {**QUICK, "ICEPROD_STORE__URL": database.url("iceprod")}
        arguments = ("--processes", "2")
        with RunningSite(tmp_path / "site", settings=settings, arguments=arguments) as site:
            former = pids(site)
            with traffic(site) as clients:
                for _ in range(2):
                    clients.has_grown()
                    restarted = restart(site.folder)
                    assert (restarted.code, restarted.err.strip()) == (0, "restarted")
                clients.has_grown()
                assert clients.done["viewer"] > 0

            assert clients.submitted
            assert clients.finished
            assert not former & pids(site)
            check_doctor(site)


def restart(folder: Path) -> Ran:
    return run("restart", "--data", str(folder), timeout_s=300)


def check_doctor(site: RunningSite) -> None:
    """The doctor sees all of it."""
    environment = {**site.settings, "ICEPROD_SERVER__PROCESSES": "2"}
    ran = run("doctor", "--data", str(site.folder), "--json", env=environment)

    found = {item["check"]: item for item in ran.json["items"]}
    assert found["processes"]["message"] == "2 share the store"
    assert found["duties"]["message"].startswith("held by ")
    assert found["server"]["message"].startswith("2 processes")
    assert all(found[name]["verdict"] == "ok" for name in ("store", "address", "clock", "server.rpc_port"))


@pytest.mark.nginx
def test_a_server_with_nginx_in_front_is_replaced_under_load(tmp_path):
    ca = SiteCA.create(tmp_path / "ca")
    ca.issue("127.0.0.1", use=CertificateUse.SERVER)
    settings = {**PATIENT, **front(ca)}
    trusted = str(ca.certificate)
    with RunningSite(tmp_path / "site", settings=settings, arguments=("--nginx",), ca_file=trusted) as site:
        former = nginx_pid(site)
        with traffic(site) as clients:
            clients.has_grown()
            restarted = restart(site.folder)
            assert (restarted.code, restarted.err.strip()) == (0, "restarted")
            clients.has_grown()

        assert clients.finished
        assert nginx_pid(site) == former
        os.kill(former, signal.SIGKILL)
        until(lambda: nginx_pid(site) not in (0, former))
        until(lambda: site.call("dataset.list")["items"])
        assert site.process is not None
        master = psutil.Process(nginx_pid(site))
        site.stop()
        assert not master.is_running()


def front(ca: SiteCA) -> dict[str, str]:
    """Settings of an nginx with TLS on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    return {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_SERVER__URL": f"https://127.0.0.1:{port}",
        "ICEPROD_SERVER__RPC_URL": f"https://127.0.0.1:{port}",
        "ICEPROD_NGINX__HOST": "127.0.0.1",
        "ICEPROD_NGINX__HTTPS_PORT": str(port),
        "ICEPROD_NGINX__HTTP_PORT": "0",
        "ICEPROD_NGINX__CERTIFICATE": str(ca.certificate_of("127.0.0.1", CertificateUse.SERVER)),
        "ICEPROD_NGINX__CERTIFICATE_KEY": str(ca.key_of("127.0.0.1", CertificateUse.SERVER)),
    }


def nginx_pid(site: RunningSite) -> int:
    """The master process of nginx; 0 while there is none."""
    path = site.folder / "nginx" / "nginx.pid"
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else 0


def pids(site: RunningSite) -> set[int]:
    present = roster.read(site.folder)
    assert present is not None
    assert len(present.members) == 2
    return {member.pid for member in present.members}


def test_wrong_settings_do_not_end_a_server_that_runs(tmp_path):
    config = tmp_path / "iceprod.toml"
    config.write_text("[pages]\nrows = 20\n")
    with RunningSite(tmp_path / "site", settings=QUICK, arguments=("--config", str(config))) as site:
        config.write_text("[pages]\nrows = -1\n")

        ran = restart(site.folder)

        assert ran.code == 5
        assert "the former ones go on" in ran.err
        assert site.call("dataset.list")["items"] == []


def test_there_is_nothing_to_restart_where_no_server_runs(tmp_path):
    ran = run("restart", "--data", str(tmp_path))

    assert ran.code == 3
    assert "no running server" in ran.err
