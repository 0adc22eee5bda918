"""A parent is killed and goes on from a backup, or its standby copy does: its children's work counts.

Sites are real processes in networks of their own (`tests.site_tree`).  ``ICEPROD_CHAOS_JOBS`` says
how many jobs of three tasks there are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iceprod.site_sync import terms
from tests.nginx_harness import needs_nginx
from tests.servers import until
from tests.site_tree import Tree, TreeSite, running_tree
from tests.site_truth import Work, play, run_again

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_nginx]

JOBS = int(os.environ.get("ICEPROD_CHAOS_JOBS", "12"))
HERE = ""
"""What a dataset's rules call the site itself."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """The parent of all waits for its children for half a minute at most, and no lease ends meanwhile."""
    more = {"top": {"ICEPROD_FEDERATION__RECOVERY_S": "30", "ICEPROD_FEDERATION__LEASE_S": "30"}}
    with running_tree(tmp_path_factory.mktemp("restored"), more=more) as made:
        yield made


def backed_up(work: Work) -> None:
    """The parent goes on from a backup that was made long before it died."""
    top, copy = work.tree.top, work.tree.folder / "backup"
    work.wait(0.15)
    top.command("backup", str(copy), "--data", str(top.folder))
    work.wait(0.6)
    top.stop(kill=True)
    top.command("restore", str(copy), "--data", str(top.folder))
    begin_again(work)


def followed(work: Work) -> None:
    """The parent's standby copy, which is some seconds old, takes its place."""
    top, folder = work.tree.top, work.tree.folder / "standby"
    with following(top, folder, every_s=3):
        until((folder / "current").exists, within_s=60)
        work.wait(0.5)
    work.wait(0.7)
    top.stop(kill=True)
    top.command("promote", str(folder), "--data", str(top.folder))
    begin_again(work)


@contextmanager
def following(site: TreeSite, folder: Path, *, every_s: float) -> Iterator[None]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
    given = ("follow", "--to", str(folder), "--every", str(every_s), "--data", str(site.folder))
    process = subprocess.Popen(
        (*site.space.command, sys.executable, "-m", "iceprod.cli.main", *given),
        env={**clean, **site.environment, **site.settings},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def begin_again(work: Work) -> None:
    work.watch.forget()
    work.tree.top.start_again()


@pytest.mark.parametrize("trouble", [backed_up, followed])
def test_what_children_did_is_not_done_again(tree: Tree, trouble: Callable[[Work], None]):
    name = trouble.__name__
    play(tree, name, trouble, jobs=JOBS, never=[HERE])

    assert run_again(tree, name) == {}
    with tree.top.opened() as (runner, store):
        term = runner.run(terms.current(store.values))
    assert term.number > 0
    assert not term.is_recovering
