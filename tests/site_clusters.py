"""Three sites that share work, two of them as they run in earnest.

``top`` is two processes on a MongoDB behind nginx with TLS.  It lends to ``left``, one process on
SQLite, and to ``right``, two processes on a MongoDB of their own.  All have a local grid.  They are
made of the parts of `tests.site_tree`; a database is in the network of the test.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.net_spaces import spaces_or_skip
from tests.servers import until
from tests.site_tree import Tree, make_site, started
from tests.store.mongo_server import MongoServer

PARENTS: Final = {"top": "", "left": "top", "right": "top"}
ON_MONGODB: Final = ("top", "right")
PROCESSES: Final = 2


@dataclass
class ClusterTree(Tree):
    """The tree, and its databases by site."""

    databases: dict[str, MongoServer] = field(default_factory=dict)

    def kill_holder(self, label: str) -> None:
        """End the process of a site that has the duties, with SIGKILL; another one has them soon."""
        pid = self._holder(label)
        self._kill(pid)
        until(lambda: self._holder(label) != pid)

    def kill_other(self, label: str) -> None:
        """End a process of a site that has no duties; once there is one."""
        self._kill(next(pid for pid in until(lambda: self._workers(label)) if pid != self._holder(label)))

    def _workers(self, label: str) -> list[int]:
        """The processes of a site that serve now, by pid, if there are as many as there should be."""
        ready = [int(each["worker"]) for each in self._told(label, "worker is ready")]
        alive = [pid for pid in ready if psutil.pid_exists(pid)]
        return alive if len(alive) == PROCESSES else []

    def _holder(self, label: str) -> int:
        return int(self._told(label, "duties taken")[-1]["worker"])

    def _told(self, label: str, event: str) -> list[dict[str, Any]]:
        """What a site has logged of one kind."""
        lines = (self.sites[label].folder / "server.log").read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if f'"event":"{event}"' in line]

    @staticmethod
    def _kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(pid))


@contextmanager
def running_clusters(folder: Path) -> Iterator[ClusterTree]:
    """The three sites."""
    with ExitStack() as stack:
        net = stack.enter_context(spaces_or_skip())
        tree = ClusterTree(folder, net, parents=PARENTS)
        for label in PARENTS:
            site = make_site(label, net.add(label), folder / label, is_lender=label in tree.lenders)
            if label in ON_MONGODB:
                server = MongoServer(folder / f"mongo-{label}", durable=True, host=net.own_address)
                tree.databases[label] = stack.enter_context(server)
                site.settings = {**site.settings, "ICEPROD_STORE__URL": server.url("iceprod")}
                site.arguments = (*site.arguments, "--processes", str(PROCESSES))
            tree.sites[label] = site
        with started(tree):
            yield tree
