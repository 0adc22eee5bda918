"""One task in this process: modules as real programs, scopes, files, and what goes wrong."""

import gzip
import json
import os
import signal
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from pilot_harness import unpacked

from iceprod.model.config import normalise
from iceprod.model.resources import Resources
from iceprod.pilot import logs, processes
from iceprod.pilot.assignment import Assignment
from iceprod.pilot.runner import Surroundings, TaskRunner
from iceprod.pilot.sandbox import Sandbox, Sandboxes

LEASE = {"task_id": "d-7-0", "lease_id": "lease", "dataset_id": "d", "dataset": 22222, "job": 7}


async def _holds():
    return True


@pytest.fixture
def run(tmp_path, keeper):
    """Runs the modules of one task, and gives its result."""
    with ThreadPoolExecutor(2) as transfers:

        async def go(*modules, task=None, tray=None, steering=None, confirm=_holds, stands_for=None, **given):
            document = {
                "version": 3,
                "steering": {"parameters": steering or {}},
                "tasks": [
                    {"name": "t", "trays": [{"modules": list(modules), **(tray or {})}], **(task or {})}
                ],
            }
            assignment = Assignment(
                **LEASE,
                task_index=0,
                jobs_submitted=10,
                resources=Resources(gpu=1, disk=1),
                stands_for=stands_for,
            )
            around = Surroundings(
                sandbox=Sandbox(tmp_path / "box"),
                transfers=transfers,
                keeper=keeper,
                key="key",
                inherited=dict(os.environ) | {"SECRET_OF_SITE": "1"},
                confirm=confirm,
                urls={"job_temp": f"file:{tmp_path}/job", "data_url": f"file:{tmp_path}/data"},
                gpus=("GPU-a",),
                **given,
            )
            runner = TaskRunner(assignment, normalise(document), around)
            result = await runner.run()
            runner.close()
            runner.sandbox.remove()
            assert not (tmp_path / "box").exists()
            return result

        yield go


def sh(script, *words, **given):
    return {"src": "/bin/sh", "args": {"args": ["-c", script, "sh", *words], "kwargs": {}}, **given}


def out(result):
    return unpacked(result.logs.get("stdout", "")) if "stdout" in result.logs else ""


async def test_iterations_and_scopes_reach_the_arguments(run):
    module = sh('echo "$1"', "$(geometry)/$(iter) of $sprintf('%04d',$(job))")
    result = await run(module, tray={"iterations": 3}, steering={"geometry": "IC86"})
    assert result.failure is None
    assert out(result) == "IC86/0 of 0007\nIC86/1 of 0007\nIC86/2 of 0007\n"


async def test_a_task_of_another_site_runs_as_it_is_called_there(run):
    wire = {
        "dataset_id": "there",
        "dataset": 20042,
        "task_id": "there-9-0",
        "job": 9,
        "task_index": 0,
        "name": "gen",
        "jobs_submitted": 500,
    }
    given = Assignment.from_wire({**LEASE, "task_index": 0, "stands_for": wire})
    assert given.lease == {name: LEASE[name] for name in ("task_id", "lease_id")}
    assert Assignment.from_wire({**LEASE, "task_index": 0, "stands_for": None}).stands_for is None
    names = "$(dataset_id) $(dataset) $(task_id) $(job) $(jobs_submitted)"
    result = await run(sh('echo "$1"', names), stands_for=given.stands_for)
    assert out(result) == "there 20042 there-9-0 9 500\n"


async def test_arguments_are_never_seen_by_a_shell(run):
    nasty = "$(touch pwned); `id` && 'x' \"y\" | *"
    result = await run({"src": "/bin/echo", "args": [nasty]})
    assert out(result) == nasty + "\n"


async def test_a_clear_environment_hides_that_of_the_pilot(run):
    result = await run(sh('echo "[$SECRET_OF_SITE] $CUDA_VISIBLE_DEVICES $HOME"'))
    assert out(result).startswith("[] GPU-a /")
    result = await run(sh('echo "[$SECRET_OF_SITE]"', env_clear=False))
    assert out(result) == "[1]\n"


async def test_an_env_shell_gets_the_whole_command(run, tmp_path):
    shell = tmp_path / "env-shell"
    shell.write_text('#!/bin/sh\nexport RELEASE="$1"; shift; exec "$@"\n')
    shell.chmod(0o755)
    result = await run(sh("echo in $RELEASE", env_shell=f"{shell} simulation/V05-01-00"))
    assert out(result) == "in simulation/V05-01-00\n"


async def test_python_inside_an_env_shell_is_that_of_the_environment(run, tmp_path):
    shell = tmp_path / "env-shell"
    shell.write_text('#!/bin/sh\necho "$1"; exec "$@"\n')
    shell.chmod(0o755)
    result = await run({"running_class": "builtins.print", "args": ["hi"], "env_shell": str(shell)})
    assert result.failure is None
    assert out(result).split() == ["python", "hi"] or out(result).split() == ["python3", "hi"]


async def test_a_running_class_is_called_with_typed_arguments(run, tmp_path):
    src = tmp_path / "physics.py"
    src.write_text("def Muon(seed, energy=0, **more):\n    print(repr(seed), repr(energy), sorted(more))\n")
    args = {"args": ["$(job)"], "kwargs": {"energy": "$eval(2 * 1.5)", "flag": True}}
    result = await run({"running_class": "physics.Muon", "src": str(src), "args": args})
    assert out(result) == "7 3.0 ['flag']\n"


async def test_an_old_class_gets_parameters_and_gives_statistics(run, tmp_path):
    src = tmp_path / "old.py"
    src.write_text(
        "class IPBaseClass:\n    def __init__(self):\n        self.p = {}\n"
        "    def SetParameter(self, k, v):\n        self.p[k] = v\n"
        "class Gen(IPBaseClass):\n    def Execute(self, stats):\n"
        "        stats['events'] = self.p['n']\n        return 0\n"
    )
    result = await run({"name": "gen", "running_class": "Gen", "src": str(src), "args": {"n": 5}})
    assert result.failure is None
    assert result.task_stats["gen"] == {"events": 5}


async def test_python_and_shell_scripts_need_no_mode(run, tmp_path):
    (tmp_path / "a.py").write_text("import sys; print(sys.argv[1:])")
    (tmp_path / "b.sh").write_text("echo $#")
    (tmp_path / "c").write_text("#!/bin/sh\necho shebang")
    modules = [
        {"src": str(tmp_path / name), "args": {"n": None, "seed": [1, 2]}} for name in ("a.py", "b.sh", "c")
    ]
    assert out(await run(*modules)) == "['-n', '--seed=1', '--seed=2']\n3\nshebang\n"


async def test_configs_are_written_beside_the_module(run):
    result = await run(sh("cat cfg.json", configs={"cfg.json": {"job": "$(job)"}}))
    assert json.loads(out(result)) == {"job": 7}


async def test_files_are_handed_from_task_to_task_by_the_jobs_area(run):
    data = {"type": "job_temp", "local": "hits_$(iter).txt"}
    made = await run(
        sh('echo $1 > "hits_$1.txt"', "$(iter)"),
        tray={"iterations": 2, "data": [{**data, "movement": "output"}]},
    )
    assert made.failure is None
    read = await run(sh("cat hits_*"), tray={"iterations": 2, "data": [{**data, "movement": "input"}]})
    assert read.failure is None
    assert out(read) == "0\n0\n1\n"


async def test_packed_files_are_unpacked_and_packed_by_their_names(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in.txt.gz").write_bytes(gzip.compress(b"packed\n"))
    files = [
        {"remote": "in.txt.gz", "movement": "input", "compression": True},
        {"remote": "out.txt.bz2", "local": "in.txt", "movement": "output", "compression": True},
    ]
    result = await run(sh("cat in.txt"), task={"data": files})
    assert out(result) == "packed\n"
    assert (tmp_path / "data/out.txt.bz2").read_bytes().startswith(b"BZh")


@pytest.mark.parametrize("movement", ["input", "output"])
async def test_an_optional_file_may_be_missing_and_another_may_not(run, movement):
    entry = {"type": "job_temp", "local": "f", "movement": movement}
    assert (await run(sh(":"), task={"data": [{**entry, "transfer": "maybe"}]})).failure is None
    assert (await run(sh(":"), task={"data": [{**entry, "transfer": False}]})).failure is None
    failure = (await run(sh(":"), task={"data": [entry]})).failure
    assert failure.kind == "transfer"
    assert f"{movement} f" in failure.summary


async def test_nothing_is_published_after_a_failure_or_without_a_lease(run, tmp_path):
    task = {"data": [{"type": "job_temp", "local": "f", "movement": "output"}]}
    assert (await run(sh("touch f; exit 1"), task=task)).failure.kind == "exit"

    async def lost():
        return False

    assert await run(sh("touch f"), task=task, confirm=lost) is None
    assert not (tmp_path / "job").exists()


async def test_an_unreadable_output_or_a_strange_protocol_is_a_transfer_failure(run):
    task = {"data": [{"remote": "gsiftp://far/x", "local": "f", "movement": "output"}]}
    failure = (await run(sh("touch f"), task=task)).failure
    assert (failure.kind, "gsiftp" in failure.summary) == ("transfer", True)
    task = {"data": [{"remote": "x", "local": "f", "movement": "output"}]}
    assert (await run(sh("mkdir f"), task=task)).failure.summary == "output f: f is a directory"


@pytest.mark.parametrize("make", ["mkfifo f", "ln -s /dev/zero f"])
async def test_an_output_without_an_end_is_refused(run, make):
    task = {"data": [{"type": "job_temp", "local": "f", "movement": "output"}]}
    failure = (await run(sh(make), task=task)).failure
    assert (failure.kind, failure.summary) == ("transfer", "output f: f is no file")


async def test_an_input_without_an_end_is_refused(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    task = {"data": [{"remote": f"file:{tmp_path}/pipe", "local": "f", "movement": "input"}]}
    failure = (await run(sh(":"), task=task)).failure
    assert (failure.kind, failure.summary) == ("transfer", "input f: pipe is no file")


@pytest.mark.parametrize("module", [{"src": "/no/such/program"}, {"src": "", "running_class": ""}])
async def test_a_module_that_cannot_be_started_is_a_config_failure(run, module):
    failure = (await run(module)).failure
    assert failure.kind == "config"
    assert "can't be started" in failure.summary


async def test_a_container_runs_the_whole_command_inside(run, tmp_path, monkeypatch):
    tool = tmp_path / "bin/apptainer"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\nwhile [ "$1" != --pwd ]; do shift; done; shift 2\necho in "$1"; shift; exec "$@"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert out(await run(sh("echo run"), task={"container": "image.sif"})) == "in image.sif\nrun\n"
    monkeypatch.setenv("PATH", "/nowhere")
    failure = (await run(sh("echo run"), task={"container": "image.sif"})).failure
    assert failure.kind == "config"
    assert "apptainer" in failure.summary


async def test_software_is_fetched_and_put_on_the_paths(run, tmp_path):
    (tmp_path / "sw/lib").mkdir(parents=True)
    (tmp_path / "sw/reco.py").write_text("def fit(n):\n    print('fitted', n)\n")
    (tmp_path / "sw/env.sh").write_text('#!/bin/sh\nexport KIT="$0"; exec "$@"\n')
    (tmp_path / "sw/env.sh").chmod(0o755)
    with tarfile.open(tmp_path / "sw.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sw", arcname="sw")
    kit = {"name": "kit", "src": f"file:{tmp_path}/sw.tar.gz", "env_vars": "KIT_HOME=$CLASS/lib"}
    modules = [
        {"running_class": "reco.fit", "args": [3]},
        sh('echo "${KIT_HOME##*/}" "${KIT##*/}"', env_shell="kit/env.sh"),
    ]
    assert out(await run(*modules, task={"classes": [kit]})) == "fitted 3\nlib env.sh\n"


async def test_a_broken_expression_is_a_config_failure(run):
    failure = (await run({"src": "/bin/echo", "args": "$eval(9**9**9)"})).failure
    assert failure is None or failure.kind == "config"


async def test_directories_that_were_closed_are_removed(run):
    assert (await run(sh("mkdir -p a/b; touch a/b/c; chmod 0 a/b a"))).failure is None


async def test_endless_output_is_kept_by_its_ends(run, monkeypatch):
    monkeypatch.setattr(logs, "TRIM_AT_BYTES", 1000)
    program = {"src": sys.executable, "args": ["-c", "print('first'); print('x' * 3_000_000); print('last')"]}
    text = out(await run(program))
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert "bytes left out ...]" in text
    assert len(text) < 1_100_000


async def test_resources_of_the_whole_tree_are_counted(tmp_path):
    with open(os.devnull, "wb") as nothing:  # noqa: ASYNC230
        argv = ["/bin/sh", "-c", "sleep 60 & wait"]
        child = processes.Child.start(
            argv, cwd=tmp_path, env=dict(os.environ), stdout=nothing, stderr=nothing
        )
    while len(found := processes.tree([child.pid], "none", processes.snapshot())) < 2:
        os.sched_yield()
    assert {info.session for info in found} == {child.pid}
    child.signal_group(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL


def test_only_a_clean_sandbox_is_used_again(tmp_path):
    boxes = Sandboxes(tmp_path)
    first = boxes.take()
    first.create()
    (first.root / "stdout").touch()
    boxes.give_back(first)
    assert boxes.take() is first
    first.create()
    assert not (first.root / "stdout").exists()
    (first.work / "left").touch()
    boxes.give_back(first)
    second = boxes.take()
    assert second is not first
    assert not first.root.exists()
    second.create()
    second.work.chmod(0)
    boxes.give_back(second)
    assert boxes.take() is not second
