"""A site as it runs in earnest: nginx with TLS in front of several processes that share one MongoDB."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from iceprod.services.ca import CertificateUse, SiteCA
from tests.nginx_harness import needs_nginx
from tests.servers import RunningSite
from tests.store import mongo_server
from tests.store.mongo_server import MongoServer

PROCESSES = 2


@dataclass
class Cluster:
    """All parts of it; each can be killed by itself."""

    site: RunningSite
    database: MongoServer
    ca: SiteCA

    def parts(self, word: str) -> list[psutil.Process]:
        """What the site's own process has started whose command line has ``word`` in it."""
        assert self.site.process is not None
        found = []
        for child in psutil.Process(self.site.process.pid).children():
            with suppress(psutil.Error):
                if word in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that serve."""
        return self.parts(" serve ")

    def nginx(self) -> list[psutil.Process]:
        """The master process of nginx."""
        return self.parts("nginx: master")

    def kill(self, which: psutil.Process) -> None:
        """End a part with SIGKILL and wait until it is gone."""
        os.kill(which.pid, signal.SIGKILL)
        which.wait(30)


@contextmanager
def running_cluster(folder: Path, **settings: str) -> Iterator[Cluster]:
    """A cluster in ``folder``; ``settings`` are more of its environment."""
    ca = SiteCA.create(folder / "ca")
    ca.issue("127.0.0.1", use=CertificateUse.SERVER)
    port = _free_port()
    url = f"https://127.0.0.1:{port}"
    with MongoServer(folder / "mongo", durable=True) as database:
        environment = {
            "ICEPROD_STORE__URL": database.url("iceprod"),
            "ICEPROD_SERVER__PROXIED": "true",
            "ICEPROD_SERVER__URL": url,
            "ICEPROD_SERVER__RPC_URL": url,
            "ICEPROD_NGINX__HOST": "127.0.0.1",
            "ICEPROD_NGINX__HTTPS_PORT": str(port),
            "ICEPROD_NGINX__HTTP_PORT": "0",
            "ICEPROD_NGINX__CERTIFICATE": str(ca.certificate_of("127.0.0.1", CertificateUse.SERVER)),
            "ICEPROD_NGINX__CERTIFICATE_KEY": str(ca.key_of("127.0.0.1", CertificateUse.SERVER)),
            "ICEPROD_NGINX__RATE": "0",
            **settings,
        }
        arguments = ["--processes", str(PROCESSES), "--nginx"]
        site = RunningSite(
            folder / "site", settings=environment, arguments=arguments, ca_file=str(ca.certificate)
        )
        with pytest.MonkeyPatch.context() as patch, site:
            # Pilots and clients of the tests trust the authority, and no other.
            patch.setenv("SSL_CERT_FILE", str(ca.certificate))
            try:
                yield Cluster(site, database, ca)
            finally:
                site.stop()
                _end_left_over(site)


def _end_left_over(site: RunningSite) -> None:
    """End what a test that failed has left: nginx outlives a server that was killed, by design."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"{site.folder}/" in " ".join(process.cmdline()):
                process.terminate()
                found.append(process)
    for process in psutil.wait_procs(found, timeout=10)[1]:
        with suppress(psutil.Error):
            process.kill()


KINDS = (
    "sqlite",
    pytest.param(
        "cluster",
        marks=[
            pytest.mark.mongo,
            pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
            needs_nginx,
        ],
    ),
)
"""Parameters of fixtures: the site of a newcomer, and one that runs in earnest."""


@contextmanager
def site_of_kind(kind: str, folder: Path, **settings: str) -> Iterator[RunningSite]:
    """A site whose grid starts nothing by itself; ``settings`` are more of its environment."""
    if kind == "cluster":
        with running_cluster(folder, **settings) as cluster:
            yield cluster.site
    else:
        with RunningSite(folder / "site", settings=settings) as site:
            yield site


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])
