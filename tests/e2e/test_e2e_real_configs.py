"""Two real configurations run from end to end, with stubs in place of the software that they name."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import KINDS, site_of_kind
from tests.servers import RunningPilot, RunningSite, until

pytestmark = pytest.mark.e2e

DATA = Path(__file__).parent.parent / "data"
JOBS_SUBMITTED = 5000
BUFFER = "5000"
"""Unfinished tasks that are made: those of the jobs that are run, and a thousand others."""
LONG_S = 300.0
RUN = (0, 1, 1234)
"""The jobs that are run: those of which the original engine's values are known, and one more."""
MEMORY = "$eval(1000 - 999 * 0 ** ($(job) * ($(job) - 1) * ($(job) - 1234)) ** 2)"
"""GB: 1 in these jobs, and in all others more than any pilot has."""

# Records its arguments, and writes each file that they call an output.
STUB = """#!/bin/sh
log=$(mktemp "$LEDGER/.XXXXXX")
for word; do
    printf '%s\\n' "$word" >> "$log"
    case $word in
        --outputfile=*) echo "made by $0" > "${word#*=}" ;;
        --procnum=*) job=${word#*=} ;;
        --inputfile=*|--backgroundfile=*|--inputfilelist=*) test -s "${word#*=}" || exit 9 ;;
    esac
done
n=0
while ! ln "$log" "$LEDGER/$(basename "$0").$job.$n" 2> /dev/null; do n=$((n + 1)); done
rm "$log"
"""
# Takes the arguments of the real one, then runs what follows.
ENV_SHELL = '#!/bin/sh\ntest "$1" = simulation/V05-01-00 || exit 8\nshift\nexec "$@"\n'


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningSite]:
    with site_of_kind(request.param, tmp_path, ICEPROD_SCHEDULING__BUFFER_TASKS=BUFFER) as running:
        yield running


@pytest.fixture
def start_pilot(site: RunningSite, tmp_path: Path) -> Iterator[Callable[..., RunningPilot]]:
    started: list[RunningPilot] = []

    def start(**offer: float) -> RunningPilot:
        full = {"cpu": 2, "gpu": 0, "memory": 8, "disk": 80, "time": 10, **offer}
        pilot = RunningPilot(site, tmp_path / f"pilot-{len(started)}", full)
        started.append(pilot.__enter__())
        return pilot

    yield start
    for pilot in started:
        pilot.__exit__()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def with_stubs(config: dict[str, Any], software: Path, ledger: Path) -> dict[str, Any]:
    """The configuration with a stub, named by its place, for each external module."""
    shell = executable(software / "env-shell", ENV_SHELL)
    text = STUB.replace("$LEDGER", str(ledger))
    for t, task in enumerate(config["tasks"]):
        for r, tray in enumerate(task["trays"]):
            for m, module in enumerate(tray["modules"]):
                stub = executable(software / f"tasks-{t}-trays-{r}-modules-{m}", text)
                setup = str(module["env_shell"]).split()[1:]
                module |= {"running_class": "", "src": str(stub), "env_shell": " ".join([str(shell), *setup])}
    return config


def flags(args: dict[str, Any]) -> list[str]:
    """What an object of arguments becomes, as the format says."""
    words = []
    for key, value in args.items():
        flag = f"-{key}" if len(key) == 1 else f"--{key}"
        values = value if isinstance(value, list) else [value]
        words += [flag if one is None else f"{flag}={one}" for one in values]
    return sorted(words)


def expected(name: str, job: int) -> dict[str, list[list[str]]]:
    """By stub, the arguments of each iteration as the original engine evaluated them."""
    oracle = json.loads((DATA / "oracle" / f"{name}.{job}.json").read_text())
    found: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for item, value in oracle.items():
        pointer, _, iteration = item.partition("#")
        if pointer.endswith("/args"):
            assert "$" not in json.dumps(value)
            stub = pointer.removesuffix("/args")[1:].replace("/", "-")
            found[stub][int(iteration)] = flags(value)
    return {stub: [runs[n] for n in sorted(runs)] for stub, runs in found.items()}


def recorded(ledger: Path, job: int) -> dict[str, list[list[str]]]:
    """By stub, the arguments of each of its runs for a job, in order."""
    found: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for path in ledger.iterdir():
        stub, number, run = path.name.rsplit(".", 2)
        if int(number) == job:
            found[stub][int(run)] = sorted(path.read_text().splitlines())
    return {stub: [runs[n] for n in sorted(runs)] for stub, runs in found.items()}


def submit(site: RunningSite, config: dict[str, Any]) -> str:
    """A dataset of which pilots can run the jobs of `RUN` and no other."""
    for task in config["tasks"]:
        if not task["depends"]:
            assert "memory" not in task["requirements"]
            task["requirements"]["memory"] = MEMORY
    dataset_id: str = site.call("dataset.submit", config=config, njobs=JOBS_SUBMITTED)["dataset_id"]
    until(lambda: site.call("dataset.get", dataset_id=dataset_id)["jobs_made"] > max(RUN), within_s=LONG_S)
    return dataset_id


def tasks(site: RunningSite, dataset_id: str, *, status: str) -> list[dict[str, Any]]:
    """Tasks of the jobs of `RUN`."""
    found: list[dict[str, Any]] = []
    for job in RUN:
        listed = site.call("task.list", dataset_id=dataset_id, job_id=f"{dataset_id}-{job}", status=status)
        found += listed["items"]
    return found


@pytest.mark.parametrize("name", ["corsika_le", "numu_le"])
def test_a_real_configuration_runs_as_the_original_engine_evaluated_it(
    site: RunningSite,
    start_pilot: Callable[..., RunningPilot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
):
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    config = json.loads((DATA / "configs" / f"{name}.json").read_text())
    kinds = [task["name"] for task in config["tasks"]]
    with_gpu = {task["name"] for task in config["tasks"] if task["requirements"].get("gpu")}
    assert with_gpu == {"hits"}
    dataset_id = submit(site, with_stubs(config, tmp_path / "software", ledger))

    start_pilot(cpu=4)
    without_gpu = [kind for kind in kinds if kind not in with_gpu]

    def are_complete(kinds: list[str]) -> bool:
        return len(tasks(site, dataset_id, status="complete")) == len(kinds) * len(RUN)

    until(lambda: are_complete(without_gpu), within_s=LONG_S)
    assert {task["name"] for task in tasks(site, dataset_id, status="waiting")} == with_gpu
    why = site.call("task.why", task_id=f"{dataset_id}-0-{kinds.index('hits')}")
    assert "The only pilot cannot run it: needs 1 GPU, offered none." in why["sentences"]

    before = {pilot["pilot_id"] for pilot in site.call("pilot.list")["items"]}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    start_pilot(gpu=1)
    until(lambda: are_complete(kinds), within_s=LONG_S)
    for task in tasks(site, dataset_id, status="complete"):
        assert (task["pilot_id"] not in before) == (task["name"] in with_gpu)
        assert task["failures"] == 0

    for job in (0, 1234):
        assert recorded(ledger, job) == expected(name, job)
    assert recorded(ledger, 1).keys() == expected(name, 0).keys()
