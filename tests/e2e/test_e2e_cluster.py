"""Kill -9 of a process, of nginx and of the database loses nothing and doubles nothing.

The same as `test_e2e_nothing_lost`, on a site as it runs in earnest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import havoc
from tests.cluster import Cluster, running_cluster
from tests.nginx_harness import needs_nginx
from tests.servers import until
from tests.store import mongo_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.mongo,
    pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
    needs_nginx,
]

JOBS = max(24, round(1.2 * havoc.CHAOS_S))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, **havoc.QUICK) as running:
        yield running


def test_nothing_is_lost_and_nothing_is_doubled_whatever_part_is_killed(cluster: Cluster, tmp_path: Path):
    dice = random.Random(havoc.SEED)

    def kill_worker() -> None:
        cluster.kill(dice.choice(until(cluster.workers)))

    def kill_nginx() -> None:
        cluster.kill(until(cluster.nginx)[0])

    def kill_database() -> None:
        cluster.database.kill()
        time.sleep(dice.choice([0.0, 0.5, 3.0]))
        cluster.database.start()

    def kill_all() -> None:
        """The supervising process, and with it all that it started."""
        cluster.site.stop(kill=True)
        cluster.site.start()

    kills = {"worker": kill_worker, "nginx": kill_nginx, "database": kill_database, "supervisor": kill_all}
    played = havoc.play(cluster.site, tmp_path, kills, jobs=JOBS)
    cluster.site.stop()
    havoc.check(played, cluster.site.loaded(), cluster.site.folder / "files")
