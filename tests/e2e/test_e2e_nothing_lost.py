"""Kill -9 of the server and of pilots at random moments loses nothing and doubles nothing.

``ICEPROD_CHAOS_S`` (20 by default) says for how many seconds things are killed, and
``ICEPROD_CHAOS_SEED`` how the dice fall.  What is checked: `tests.havoc`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iceprod.config import load
from tests import havoc
from tests.servers import RunningSite

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JOBS = max(40, round(4 * havoc.CHAOS_S))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RunningSite]:
    with RunningSite(tmp_path / "site", settings=havoc.QUICK) as running:
        yield running


def test_nothing_is_lost_and_nothing_is_doubled(site: RunningSite, tmp_path: Path):
    dice = random.Random(havoc.SEED)

    def kill_server() -> None:
        site.stop(kill=True)
        time.sleep(dice.choice([0.0, 0.0, 0.5]))
        site.start_again()

    played = havoc.play(site, tmp_path, {"server": kill_server}, jobs=JOBS)
    site.stop()
    settings = load(overrides={"server": {"data_dir": site.folder}})
    havoc.check(played, settings, site.folder / "files")
