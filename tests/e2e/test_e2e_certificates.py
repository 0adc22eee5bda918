"""A pilot without a token: known by a limited grid proxy, as batch systems hand them to jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from x509_harness import LIMITED, holder, proxy_info

from iceprod.services.ca import CertificateUse, SiteCA
from tests.servers import RunningSite, until

pytestmark = pytest.mark.e2e
SMALL = {"cpu": 1, "memory": 0.2, "disk": 0.1, "time": 0.1}
OFFER = {"cpu": 1, "gpu": 0, "memory": 1, "disk": 1, "time": 1}


def pilot_command(site: RunningSite, proxy: Path, work: Path) -> list[str]:
    port = json.loads((site.folder / "ports.json").read_text())["tls.port"]
    amounts = [text for name, value in OFFER.items() for text in (f"--{name}", str(value))]
    return [
        *(sys.executable, "-m", "iceprod.pilot.main", "--url", f"https://127.0.0.1:{port}"),
        *("--cert-file", str(proxy), "--work-dir", str(work), "--run-once", "-v", *amounts),
    ]


def test_a_pilot_works_with_a_limited_proxy(tmp_path: Path) -> None:
    ca = SiteCA.create(tmp_path / "ca", name="Test")
    ca.issue("localhost", use=CertificateUse.SERVER, hosts=["127.0.0.1"])
    settings = {
        "ICEPROD_TLS__PORT": "0",
        "ICEPROD_TLS__CERTIFICATE": str(ca.certificate_of("localhost", CertificateUse.SERVER)),
        "ICEPROD_TLS__KEY": str(ca.key_of("localhost", CertificateUse.SERVER)),
        "ICEPROD_TLS__CA_PATH": str(ca.certificate),
        "ICEPROD_TLS__CRL_PATH": str(ca.crl),
    }
    with RunningSite(tmp_path / "site", settings=settings) as site:
        made = site.call("pilot.credentials", grid="hand", resources=OFFER)
        node = holder(ca, "node", CertificateUse.PILOT)
        site.call("certificate.add", kind="pilot", name=made["pilot_id"], certificate=node.pem().decode())
        proxy = node.proxy().proxy(info=proxy_info(LIMITED)).file(tmp_path / "proxy.pem")
        tasks = [
            {
                "name": "a",
                "requirements": SMALL,
                "trays": [{"modules": [{"src": "/bin/sh", "args": ["-c", "echo done"]}]}],
            }
        ]
        config = {"version": 3.1, "tasks": tasks}
        dataset_id = site.call("dataset.submit", config=config, njobs=1)["dataset_id"]

        done = subprocess.run(
            pilot_command(site, proxy, tmp_path / "work"),
            env={**os.environ, "SSL_CERT_FILE": str(ca.certificate)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        until(lambda: site.call("dataset.get", dataset_id=dataset_id)["status"] == "complete")
        task_id = site.call("task.list", dataset_id=dataset_id)["items"][0]["task_id"]
        assert site.call("task.log", task_id=task_id, name="stdout")["text"] == "done\n"


def test_a_pilot_says_at_once_that_its_certificate_is_of_no_use(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")

    done = subprocess.run(
        [sys.executable, "-m", "iceprod.pilot.main", "--url", "https://127.0.0.1:1", "--cert-file", broken],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 78
    assert "broken.pem" in done.stderr
