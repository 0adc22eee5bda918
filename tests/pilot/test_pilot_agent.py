"""The pilot as a process against a server: claims, leases, faults, and its end."""

import json
import os
import signal

from pilot_harness import TOKEN, gone, refused

WAIT = "trap 'exit 1' TERM; echo $$ > {path}; while :; do sleep 0.05; done"


def read_pid(path):
    """The number that a task has written; waits for it."""
    while not (path.exists() and path.read_text().strip()):
        os.sched_yield()
    return int(path.read_text())


def test_a_task_is_run_and_reported_with_its_logs(server, pilot):
    task = server.add("echo out $HOME; echo err >&2")
    code, _ = pilot("--run-once").wait()
    assert code == 0
    assert server.outcomes == {task: ["finished"]}
    assert server.logs[task, "stdout"].startswith("out /")
    assert server.logs[task, "stderr"] == "err\n"
    assert "the task is complete" in server.logs[task, "stdlog"]
    (stats,) = [params["stats"] for params in server.of("pilot.finish")]
    assert stats["time_used"] > 0
    assert set(stats["resources"]) == {"cpu", "gpu", "memory", "disk", "time"}
    assert server.names()[0] == "pilot.register"
    assert server.names()[-1] == "pilot.bye"


def test_no_more_tasks_run_than_the_offer_holds(server, pilot, tmp_path):
    tasks = [server.add(f"cd {tmp_path}; touch run.$$; ls -d run.* | wc -l; rm run.$$") for _ in range(40)]
    assert pilot("--max-tasks", "40", cpu=2).wait()[0] == 0
    assert server.of("pilot.fail") == []
    assert server.outcomes == {task: ["finished"] for task in tasks}
    assert {int(server.logs[task, "stdout"]) for task in tasks} <= {1, 2}
    assert server.most_held <= 6  # two that run, two that run next, two that are being reported


def test_a_failure_names_the_exit_code_and_the_last_words(server, pilot):
    server.add("echo no such detector >&2; exit 7")
    pilot("--run-once").wait()
    (error,) = [params["error"] for params in server.of("pilot.fail")]
    assert (error["kind"], error["exit_code"]) == ("exit", 7)
    assert error["summary"].endswith("exited with 7: no such detector")
    assert error["stderr_tail"] == "no such detector\n"


def test_a_signal_is_told_from_an_exit(server, pilot):
    server.add("kill -SEGV $$")
    pilot("--run-once").wait()
    (error,) = [params["error"] for params in server.of("pilot.fail")]
    assert (error["kind"], error["signal"]) == ("signal", signal.SIGSEGV)


def test_too_much_memory_is_ended_and_named(server, pilot):
    hog = {"running_class": "builtins.exec", "args": ["x = b'1' * 400_000_000\nimport time\ntime.sleep(60)"]}
    server.add(hog, resources={"memory": 0.2})
    pilot("--run-once").wait()
    (error,) = [params["error"] for params in server.of("pilot.fail")]
    assert (error["kind"], error["resource"]) == ("overuse", "memory")
    assert "asked for 0.2 GB" in error["summary"]
    assert error["resources"]["memory"] > 0.2


def test_too_much_time_is_ended_and_named(server, pilot):
    server.add("sleep 60", resources={"time": 0.0001})
    pilot("--run-once").wait()
    (error,) = [params["error"] for params in server.of("pilot.fail")]
    assert (error["kind"], error["resource"]) == ("overuse", "time")


def test_a_lost_lease_ends_the_task_without_a_report(server, pilot, tmp_path):
    task = server.add(WAIT.format(path=tmp_path / "pid"), lease_s=0.6)
    started = pilot()
    pid = read_pid(tmp_path / "pid")
    server.lost.add(task)
    assert gone(pid)
    assert started.terminate()[0] == 0
    assert server.outcomes == {}


def test_a_report_is_repeated_until_the_server_takes_it(server, pilot):
    task = server.add(":")
    unavailable = refused("unavailable", retryable=True)
    server.faults["pilot.finish"] = [503, "lose", unavailable]
    code, _ = pilot("--run-once").wait()
    assert code == 0
    assert server.outcomes == {task: ["finished"]}


def test_tasks_of_an_answer_that_got_lost_run_once(server, pilot):
    task = server.add(":")
    server.faults["pilot.claim"] = ["lose"]
    assert pilot("--run-once").wait()[0] == 0
    assert server.outcomes == {task: ["finished"]}
    assert server.of("pilot.claim")[1]["held"] == []


def test_a_running_task_outlives_a_restart_of_the_server(server, pilot, tmp_path):
    task = server.add(f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    started = pilot("--run-once")
    read_pid(tmp_path / "pid")
    server.stop()
    (tmp_path / "go").touch()
    server.start()
    assert started.wait()[0] == 0
    assert server.outcomes == {task: ["finished"]}


def test_told_to_end_it_hands_back_what_runs(server, pilot, tmp_path):
    task = server.add(WAIT.format(path=tmp_path / "pid"))
    started = pilot()
    pid = read_pid(tmp_path / "pid")
    code, _ = started.terminate()
    assert code == 0
    assert gone(pid)
    assert server.outcomes == {task: ["released"]}
    assert server.names()[-1] == "pilot.bye"
    assert list(started.work_dir.iterdir()) == []


def test_told_to_end_while_it_waits_for_work_it_goes_at_once(server, pilot):
    started = pilot()
    server.until(lambda: "pilot.register" in server.names())
    assert started.terminate()[0] == 0


def test_killed_it_takes_every_process_of_its_tasks_along(server, pilot, tmp_path):
    inner = f"setsid sh -c 'echo $$ > {tmp_path}/inner; exec sleep 60' & " + WAIT.format(
        path=tmp_path / "outer"
    )
    server.add(inner)
    started = pilot()
    pids = [read_pid(tmp_path / name) for name in ("inner", "outer")]
    started.process.kill()
    assert all(gone(pid) for pid in pids)


def test_what_a_task_leaves_running_ends_with_it(server, pilot, tmp_path):
    pid = tmp_path / "pid"
    server.add(f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & while [ ! -s {pid} ]; do :; done")
    assert pilot("--run-once").wait()[0] == 0
    assert len(server.of("pilot.finish")) == 1
    assert gone(read_pid(pid))


def test_outputs_go_to_the_file_store_at_its_own_address_with_the_tasks_token(server, pilot):
    data = [{"type": "job_temp", "movement": "output", "local": "a b.txt"}]
    server.add("echo hello > 'a b.txt'", data=data)
    server.urls = {"job_temp": f"http://localhost:{server.port}/files/job_temp/{{dataset_id}}/{{job}}"}
    pilot("--run-once").wait()
    assert server.files == {"/files/job_temp/set1/0/a%20b.txt": b"hello\n"}
    assert server.of("pilot.finish")[0]["stats"]["task_stats"]["upload"][0]["size"] == 6


def test_outputs_are_not_published_once_the_lease_is_lost(server, pilot, tmp_path):
    data = [{"type": "permanent", "movement": "output", "local": "x", "remote": f"file:{tmp_path}/out"}]
    go = tmp_path / "go"
    task = server.add(
        f"echo $$ > {tmp_path}/pid; touch x; while [ ! -e {go} ]; do sleep 0.02; done", data=data
    )
    server.faults["pilot.heartbeat"] = [503] * 1000
    started = pilot("--run-once")
    read_pid(tmp_path / "pid")
    server.lost.add(task)
    server.until(lambda: len(server.faults["pilot.heartbeat"]) < 990)  # longer than a lease counts as fresh
    go.touch()
    server.faults["pilot.heartbeat"] = []
    assert started.wait()[0] == 0
    assert not (tmp_path / "out").exists()
    assert server.outcomes == {}


def test_gpus_are_assigned_and_never_shared(server, pilot):
    gpu = {"resources": {"gpu": 1}}
    tasks = [server.add("echo $CUDA_VISIBLE_DEVICES", **gpu) for _ in range(2)]
    plain = server.add("echo [$CUDA_VISIBLE_DEVICES]")
    pilot("--max-tasks", "3", "--gpu", "2", cpu=4).wait()
    assert sorted(server.logs[task, "stdout"] for task in tasks) == ["0\n", "1\n"]
    assert server.logs[plain, "stdout"] == "[]\n"


def test_a_node_on_which_everything_fails_is_left(server, pilot):
    for _ in range(9):
        server.add("exit 1")
    code, said = pilot("--max-failures", "3", cpu=1).wait()
    assert code == 0
    assert "3 tasks in a row failed at once" in said
    assert len(server.outcomes) == 3


def test_what_could_not_be_reported_is_told_by_the_next_pilot(server, pilot, tmp_path):
    task = server.add(":")
    server.faults["pilot.finish"] = [503] * 1000
    started = pilot("--run-once", "--grace", "0.2")
    server.until(lambda: len(server.faults["pilot.finish"]) < 1000)
    assert started.terminate()[0] == 0
    kept = list(started.work_dir.glob("pilot-*/outbox/*.json"))
    assert [json.loads(path.read_text())["lease_id"] for path in kept] == ["lease1"]
    server.faults.clear()
    again = pilot("--idle-time", "0.3")
    server.until(lambda: task in server.outcomes)
    assert again.wait()[0] == 0
    assert server.outcomes == {task: ["finished"]}


def test_without_work_it_ends(server, pilot):
    code, said = pilot("--idle-time", "0.2").wait()
    assert code == 0
    assert "nothing to do" in said


def test_a_drained_pilot_finishes_what_it_runs(server, pilot, tmp_path):
    go = tmp_path / "go"
    task = server.add(f"echo $$ > {tmp_path}/pid; while [ ! -e {go} ]; do sleep 0.02; done")
    started = pilot()
    read_pid(tmp_path / "pid")
    server.drain = True
    server.until(lambda: len(server.of("pilot.heartbeat")) > 2)
    server.add(":")
    go.touch()
    assert started.wait()[0] == 0
    assert server.outcomes == {task: ["finished"]}


def test_an_unknown_token_ends_it_with_a_reason(server, pilot):
    code, said = pilot(token="ip_wrong").wait()
    assert code == 1
    assert "the server refuses this pilot" in said
    assert "ip_wrong" not in said


def test_its_token_is_nowhere_where_a_task_could_read_it(server, pilot):
    task = server.add({"src": "/bin/sh", "args": ["-c", "env; cat /proc/$PPID/cmdline"], "env_clear": False})
    pilot("--run-once").wait()
    assert TOKEN not in server.logs[task, "stdout"]


def test_its_token_is_in_no_environment_that_a_task_may_read_or_have_staged(server, pilot, tmp_path):
    look = "for p in $PPID $(cat /proc/$PPID/task/*/children); do cat /proc/$p/environ; done"
    kept = tmp_path / "kept"
    out = {"type": "permanent", "movement": "output", "local": "/proc/self/environ", "remote": f"file:{kept}"}
    task = server.add({"src": "/bin/sh", "args": ["-c", look], "data": [out]})
    pilot("--run-once").wait()
    # Only root may read the pilot's environment at all, and stage it out.
    staged = kept.read_bytes() if kept.exists() else b""
    assert (b"PATH=" in staged) == (os.geteuid() == 0)
    assert TOKEN.encode() not in staged
    assert TOKEN not in server.logs.get((task, "stdout"), "")


def test_a_task_that_does_not_fit_is_handed_back(server, pilot):
    task = server.add(":")
    server.leases["lease1"] = {
        **server.waiting.pop(),
        "resources": {"cpu": 64, "memory": 1, "disk": 1, "time": 1},
    }
    started = pilot()
    server.until(lambda: task in server.outcomes)
    assert server.outcomes == {task: ["released"]}
    assert started.terminate()[0] == 0


def test_the_tail_of_a_log_can_be_read_while_the_task_runs(server, pilot, tmp_path):
    go = tmp_path / "go"
    task = server.add(f"echo so far; while [ ! -e {go} ]; do sleep 0.02; done; echo done")
    started = pilot("--run-once", "--log-interval", "0.1")
    server.until(lambda: server.logs.get((task, "stdout")) == "so far\n")
    go.touch()
    assert started.wait()[0] == 0
    assert server.logs[task, "stdout"] == "so far\ndone\n"


def test_a_server_that_never_answers_is_not_waited_for_without_a_task(server, pilot):
    server.stop()
    code, said = pilot("--idle-time", "0.3").wait()
    server.start()
    assert code == 0
    assert "no answer from" in said


# For this pilot all tasks are short, and it gives up at once what it has claimed ahead of them.
IMPATIENT = """
from iceprod.pilot import ahead, main
ahead.SHORT_S, ahead.PATIENCE_S = 600.0, 0.0
main.main()
"""


def test_what_was_claimed_ahead_and_does_not_come_to_run_is_handed_back(server, pilot, tmp_path):
    go = tmp_path / "go"
    first = server.add(":")
    started = pilot(cpu=1, program=("-c", IMPATIENT))
    server.until(lambda: first in server.outcomes)
    long = server.add(f"while [ ! -e {go} ]; do sleep 0.02; done")
    server.until(lambda: not server.waiting)
    ahead = server.add(":")
    server.until(lambda: ahead in server.outcomes)
    assert server.outcomes == {first: ["finished"], ahead: ["released"]}
    go.touch()
    server.until(lambda: long in server.outcomes)
    assert started.terminate()[0] == 0
    assert server.outcomes == {first: ["finished"], ahead: ["released"], long: ["finished"]}


def test_told_to_end_it_hands_back_what_it_has_claimed_ahead(server, pilot, tmp_path):
    first = server.add(":")
    patient = IMPATIENT.replace("0.0", "600.0")
    started = pilot(cpu=1, program=("-c", patient))
    server.until(lambda: first in server.outcomes)
    long = server.add(WAIT.format(path=tmp_path / "pid"))
    ahead = server.add(":")
    read_pid(tmp_path / "pid")
    server.until(lambda: not server.waiting)
    assert started.terminate()[0] == 0
    assert server.outcomes == {first: ["finished"], long: ["released"], ahead: ["released"]}
