"""Sites that share work, each a set of real processes in a network of its own.

`running_tree` has four: ``top`` lends to ``left`` and ``right``, and ``left`` lends on to ``deep``.
The two that lend stand behind nginx with TLS, and those that join them show certificates.  Each has its own
SQLite store and its own local grid.  Between nginx and the process of ``top`` there is a
`FaultProxy`, before its general port and before its fast lane.  Other trees are made of the same
parts (`tests.site_clusters`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from iceprod.server import beside
from iceprod.server.assembly import make_store
from iceprod.services.ca import CertificateUse, SiteCA
from iceprod.store.base import Store
from tests.fault_proxy import FaultProxy, Schedule
from tests.net_spaces import NAMES, NetSpaces, Space, spaces_or_skip
from tests.servers import Ran, RunningSite, run

PARENTS: Final = {"top": "", "left": "top", "right": "top", "deep": "left"}
"""Each site and the one that lends it tasks, parents first."""
LENDERS: Final = ("top", "left")
PORT, LANE, PROXY, PROXY_LANE = 8080, 8081, 9080, 9081
"""In the network of a site, where no port is anybody else's."""
CORES: Final = {"top": 1, "left": 1, "right": 2, "deep": 1}
MEMORY: Final = {"top": 2, "left": 2, "right": 2, "deep": 3}
"""In GB; so ``right`` alone has room for tasks of two cores, and ``deep`` for those of 3 GB."""
QUICK: Final = {
    "ICEPROD_SCHEDULING__LEASE_S": "4",
    "ICEPROD_SCHEDULING__HEARTBEAT_S": "0.5",
    "ICEPROD_LOG__ACCESS": "false",
    "ICEPROD_FEDERATION__LEASE_S": "8",
    "ICEPROD_FEDERATION__POLL_S": "5",
    "ICEPROD_FEDERATION__RENEW_S": "1",
}
"""Leases run out while one watches."""
PROXIED: Final = {
    "ICEPROD_NGINX__UPSTREAMS": f'["127.0.0.1:{PROXY}"]',
    "ICEPROD_NGINX__RPC_UPSTREAMS": f'["127.0.0.1:{PROXY_LANE}"]',
}
"""Between nginx and its server are the proxies."""


@dataclass(kw_only=True)
class TreeSite(RunningSite):
    """A site in a network of its own."""

    label: str
    space: Space

    def start(self, *, port: int = PORT, rpc_port: int = LANE) -> None:
        super().start(port=port, rpc_port=rpc_port)

    def start_again(self) -> None:
        self.start()

    def command(self, *arguments: str) -> Ran:
        """Run ``iceprod`` as the administrator of this site, on its machine."""
        trust = {"ICEPROD_CA_FILE": self.ca_file} if self.ca_file else {}
        done = run(*arguments, env={**self.environment, **self.settings, **trust}, within=self.space.command)
        assert done.code == 0, f"{self.label}: iceprod {' '.join(arguments)}\n{done.out}{done.err}"
        return done

    def processes(self, word: str) -> list[psutil.Process]:
        """The processes in this site's network whose command line has ``word`` in it."""
        found = []
        for pid in self.space.pids():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """End the server with SIGKILL, and start it again."""
        self.stop(kill=True)
        self.start_again()

    def kill_one(self, word: str) -> bool:
        """End a process with SIGKILL; whether there was one."""
        for process in self.processes(word)[:1]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                return True
        return False

    @property
    def network(self) -> str:
        """What a process that runs here sees of its network."""
        return f"net:[{(NAMES / self.space.name).stat().st_ino}]"

    @contextmanager
    def opened(self) -> Iterator[tuple[asyncio.Runner, Store]]:
        """This site's store, beside its server."""
        store = make_store(self.loaded())
        with asyncio.Runner() as runner:
            runner.run(store.open())
            try:
                yield runner, store
            finally:
                runner.run(store.close())


@dataclass
class Tree:
    """All of them; ``parents`` names that of each, ``proxies`` stand before the process of ``top``."""

    folder: Path
    net: NetSpaces
    parents: Mapping[str, str] = field(default_factory=lambda: PARENTS)
    sites: dict[str, TreeSite] = field(default_factory=dict)
    proxies: tuple[FaultProxy, ...] = ()

    def __getattr__(self, label: str) -> TreeSite:
        try:
            return self.sites[label]
        except KeyError:
            raise AttributeError(label) from None

    @property
    def lenders(self) -> list[str]:
        """The sites that lend to others."""
        return [label for label in self.parents if label in self.parents.values()]

    def garble(self, schedule: Schedule) -> None:
        """Let calls at ``top`` suffer what a schedule says from now on."""
        for proxy in self.proxies:
            proxy.schedule = schedule

    def part(self, one: str, other: str) -> None:
        """Lose everything between two sites."""
        self.net.part(one, other)

    def ran_at(self, runs: Path) -> dict[str, int]:
        """How many runs there were at each site, by what they wrote down."""
        by_network = {site.network: label for label, site in self.sites.items()}
        counts = dict.fromkeys(self.sites, 0)
        for path in runs.iterdir():
            text = path.read_text().strip()
            if text:  # else it was killed before it had written
                counts[by_network[text]] += 1
        return counts


@contextmanager
def running_tree(
    folder: Path,
    *,
    more: Mapping[str, Mapping[str, str]] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> Iterator[Tree]:
    """The tree; ``more`` are settings of single sites, ``folders`` data directories that lie elsewhere."""
    with spaces_or_skip() as net:
        tree = Tree(folder, net)
        for label in PARENTS:
            place = (folders or {}).get(label, folder / label)
            site = tree.sites[label] = make_site(label, net.add(label), place, is_lender=label in LENDERS)
            proxied = PROXIED if label == "top" else {}
            site.settings = {**site.settings, **proxied, **(more or {}).get(label, {})}
        with (
            FaultProxy(PORT, port=PROXY, space=tree.top.space) as general,
            FaultProxy(LANE, port=PROXY_LANE, space=tree.top.space) as lane,
        ):
            tree.proxies = (general, lane)
            with started(tree):
                yield tree


@contextmanager
def started(tree: Tree) -> Iterator[None]:
    """Run all sites, each joined to its parent."""
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_start, tree.sites.values()))
            pairs = [(parent, child) for child, parent in tree.parents.items() if parent]
            list(pool.map(lambda pair: join(tree, *pair), pairs))
        yield
    finally:
        for site in tree.sites.values():
            site.stop(kill=True)


def join(tree: Tree, parent: str, child: str) -> None:
    """Have a site join another one, by the commands of their administrators."""
    lender, joiner = tree.sites[parent], tree.sites[child]
    code = lender.command("site", "invite", child, "--json").json["code"]
    made = joiner.command(
        "site", "join", lender.url, "--code", code, "--data", str(joiner.folder), "--json"
    ).json
    assert (made["parent"], made["known_as"], made["trouble"]) == (parent, child, "")


def make_site(label: str, space: Space, folder: Path, *, is_lender: bool) -> TreeSite:
    """A site that does not run yet; one that lends stands behind nginx."""
    offer = {"cpu": CORES[label], "memory": MEMORY[label], "disk": 2, "max_pilots": 1, "max_queued": 1}
    settings = {**QUICK, "ICEPROD_FEDERATION__NAME": label}
    grids = json.dumps({"local": offer})
    site = TreeSite(folder=folder, label=label, space=space, within=space.command, grids=grids)
    if is_lender:
        settings |= _behind_nginx(site)
    else:
        site.host = space.address
    site.settings = settings
    return site


def _behind_nginx(site: TreeSite) -> dict[str, str]:
    """Settings of a site behind nginx, which asks for certificates of the site's own authority."""
    address = site.space.address
    ca = SiteCA.create(site.folder / "ca", name=site.label)
    ca.issue(address, use=CertificateUse.SERVER)
    site.arguments = ("--nginx",)
    site.ca_file = str(ca.certificate)
    return {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_SERVER__URL": f"https://{address}",
        "ICEPROD_SERVER__RPC_URL": f"https://{address}",
        "ICEPROD_NGINX__HTTP_PORT": "0",
        "ICEPROD_NGINX__WORKERS": "1",
        "ICEPROD_NGINX__CONNECTIONS": "256",
        "ICEPROD_NGINX__RATE": "0",
        "ICEPROD_NGINX__CERTIFICATE": str(ca.certificate_of(address, CertificateUse.SERVER)),
        "ICEPROD_NGINX__CERTIFICATE_KEY": str(ca.key_of(address, CertificateUse.SERVER)),
        "ICEPROD_NGINX__CLIENT_CA": str(ca.certificate),
        "SSL_CERT_FILE": str(ca.certificate),  # whom the site's own pilots trust
    }


def _start(site: TreeSite) -> None:
    site.folder.mkdir(parents=True, exist_ok=True)
    site.token = asyncio.run(beside.prepare(site.loaded(), name="admin")).token
    site.start()
