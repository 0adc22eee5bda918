"""What ``iceprod doctor`` finds, and that it says what to do about it."""

from __future__ import annotations

import os

import pytest

from iceprod import clock
from iceprod.config import Settings, load
from iceprod.server.diagnosis import Finding, Verdict, diagnose
from iceprod.server.process import Server
from iceprod.server.processes import roster
from iceprod.server.processes.roster import Member, Roster
from iceprod.services.ca import CertificateUse, SiteCA


def settings_of(folder, **sections) -> Settings:
    server = {"data_dir": folder / "data", "port": 0, "rpc_port": 0, **sections.pop("server", {})}
    return load(overrides={"server": server, "grids": {}, **sections})


async def findings(settings: Settings) -> dict[str, Finding]:
    """What was found by its check; whatever is not well comes with advice."""
    found = await diagnose(settings)
    for one in found:
        assert bool(one.advice) is (one.verdict is not Verdict.OK), one
    return {one.check: one for one in found}


async def test_a_new_site_is_well(tmp_path):
    found = await findings(settings_of(tmp_path))

    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert {
        "python",
        "data directory",
        "disk",
        "open files",
        "store",
        "server.port",
        "server.rpc_port",
    } <= set(found)
    assert not (tmp_path / "data").exists()


async def test_a_directory_that_others_can_read_is_told(tmp_path):
    settings = settings_of(tmp_path)
    settings.data_dir.mkdir(mode=0o755)

    found = (await findings(settings))["data directory"]

    assert found.verdict is Verdict.WARNING
    assert found.advice.startswith(f"chmod 700 {settings.data_dir}")


async def test_fewer_open_files_than_clients_are_told(tmp_path):
    found = await findings(settings_of(tmp_path, pages={"max_streams": 10**9}))

    assert found["open files"].verdict is Verdict.WARNING
    assert "LimitNOFILE" in found["open files"].advice


async def test_a_server_that_runs_is_well(tmp_path):
    settings = settings_of(tmp_path)
    server = Server(settings)
    await server.start()
    now = clock.now()
    roster.write(settings.data_dir, Roster(os.getpid(), now, (Member(0, os.getpid(), now),)))
    try:
        found = await findings(settings)
    finally:
        await server.stop()

    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["server"].message == f"1 process, signals go to {os.getpid()}"
    assert found["server.port"].message.startswith("the server listens on 127.0.0.1:")
    assert found["address"].message.endswith("/healthz answers")
    assert found["clock"].verdict is Verdict.OK


async def test_processes_that_are_missing_are_told(tmp_path):
    settings = settings_of(tmp_path)
    server = Server(settings)
    await server.start()
    try:
        told = Roster(os.getpid(), clock.now(), (), wanted=2, failed_restarts=1)
        roster.write(settings.data_dir, told)
        found = await findings(settings)
    finally:
        await server.stop()

    assert found["server"].message == "2 of 2 processes are not there"
    assert found["restarts"].verdict is Verdict.WARNING


async def test_an_address_that_leads_nowhere_is_told(tmp_path):
    settings = settings_of(tmp_path, server={"url": "http://127.0.0.1:9"})
    server = Server(settings)
    await server.start()
    try:
        found = await findings(settings)
    finally:
        await server.stop()

    assert found["address"].verdict is Verdict.WARNING
    assert "server.url" in found["address"].advice


@pytest.mark.parametrize(
    ("days", "verdict"), [(300.0, Verdict.OK), (10.0, Verdict.WARNING), (1e-9, Verdict.FAILED)]
)
async def test_certificates_are_told_before_they_expire(tmp_path, days, verdict):
    ca = SiteCA.create(tmp_path / "ca")
    ca.issue("localhost", use=CertificateUse.SERVER, days=days)
    tls = {
        "port": 0,
        "certificate": ca.certificate_of("localhost", CertificateUse.SERVER),
        "key": ca.key_of("localhost", CertificateUse.SERVER),
        "ca_path": ca.certificate,
    }

    found = (await findings(settings_of(tmp_path, tls=tls)))["tls.certificate"]

    assert found.verdict is verdict


@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_a_certificate_that_cannot_be_read_is_told(tmp_path, text):
    path = tmp_path / "cert.pem"
    if text is not None:
        path.write_text(text)

    found = await findings(settings_of(tmp_path, nginx={"certificate": path, "certificate_key": path}))

    assert found["nginx.certificate"].verdict is Verdict.FAILED
    assert "nginx.certificate" in found["nginx.certificate"].advice
    assert found["nginx"].advice == "iceprod nginx generate"
