"""Sites of several processes on MongoDB share work; nothing is lost or doubled, whatever is killed.

``ICEPROD_CHAOS_JOBS`` says how many jobs of three tasks there are, and with
``ICEPROD_CHAOS_SITES=all`` things go on being killed for ``ICEPROD_CHAOS_S``.  The sites:
`tests.site_clusters`; what is checked: `tests.site_truth`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests import havoc
from tests.nginx_harness import needs_nginx
from tests.site_clusters import ClusterTree, running_clusters
from tests.site_truth import Work, play, run_again
from tests.store import mongo_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.mongo,
    pytest.mark.skipif(mongo_server.ferretdb() is None, reason=mongo_server.ABSENT),
    needs_nginx,
]

JOBS = int(os.environ.get("ICEPROD_CHAOS_JOBS", "34"))
HERE = ""
"""What a dataset's rules call the site itself."""
only_all = pytest.mark.skipif(
    os.environ.get("ICEPROD_CHAOS_SITES") != "all", reason="only with ICEPROD_CHAOS_SITES=all"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterTree]:
    """One for all tests, which leave it as it was."""
    with running_clusters(tmp_path_factory.mktemp("tree")) as made:
        yield made


def break_off(tree: ClusterTree, label: str, seconds: float) -> None:
    """End a database with SIGKILL, and start it again a moment later."""
    tree.databases[label].kill()
    time.sleep(seconds)
    tree.databases[label].start()


def test_nothing_is_lost_and_nothing_is_doubled_whatever_is_killed(tree: ClusterTree):
    def trouble(work: Work) -> None:
        work.wait(0.1)
        tree.kill_holder("top")
        work.wait(0.3)
        tree.kill_holder("right")
        break_off(tree, "top", 1.0)
        work.wait(0.5)
        tree.kill_other("top")
        break_off(tree, "right", 0.5)

    play(tree, "clusters", trouble, jobs=JOBS, sleep_s=0.1)


@only_all
def test_nothing_is_lost_and_nothing_is_doubled_in_a_storm(tree: ClusterTree):
    dice, done = random.Random(havoc.SEED), Counter[str]()
    kinds: dict[str, Callable[[], object]] = {
        "left": tree.left.kill,
        "nginx": lambda: tree.top.kill_one("nginx: master"),
        "pilot": lambda: dice.choice(list(tree.sites.values())).kill_one("iceprod.pilot.main"),
        "cut": lambda: tree.net.cut("top", dice.choice(["left", "right"])),
        "mend": tree.net.mend,
    }
    for label in tree.databases:
        kinds[f"holder at {label}"] = lambda label=label: tree.kill_holder(label)
        kinds[f"other at {label}"] = lambda label=label: tree.kill_other(label)
        kinds[f"database of {label}"] = lambda label=label: break_off(tree, label, dice.uniform(0.0, 4.0))

    def trouble(work: Work) -> None:
        work.wait(0.02)
        end = time.monotonic() + havoc.CHAOS_S
        while time.monotonic() < end:
            name = dice.choice(list(kinds))
            kinds[name]()
            done[name] += 1
            time.sleep(dice.uniform(0.0, 2.0))
        tree.net.mend()
        sys.stdout.write(f"\n{dict(done)}\n")

    play(tree, "storm", trouble, jobs=4 * JOBS)


@only_all
def test_a_parent_goes_on_from_a_backup_in_another_database(tree: ClusterTree):
    top, copy = tree.top, tree.folder / "backup"
    # Leases are as much longer than a stop as they are in earnest.
    long = {"ICEPROD_SCHEDULING__LEASE_S": "30", "ICEPROD_FEDERATION__LEASE_S": "30"}
    top.settings = {**top.settings, **long}

    def trouble(work: Work) -> None:
        work.wait(0.15)
        top.stop()
        top.command("backup", str(copy), "--data", str(top.folder))
        top.start_again()
        work.wait(0.5)
        top.stop(kill=True)
        top.settings = {**top.settings, "ICEPROD_STORE__URL": tree.databases["top"].url("restored")}
        top.command("restore", str(copy), "--data", str(top.folder))
        work.watch.forget()
        top.start_again()

    play(tree, "restored", trouble, jobs=JOBS, sleep_s=0.1, never=[HERE])

    assert run_again(tree, "restored") == {}
