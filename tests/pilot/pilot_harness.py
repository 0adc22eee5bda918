"""A server for pilots, small enough to read, and the pilot as a real process against it."""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "ip_secret"
TIMEOUT_S = 60.0


def unpacked(data):
    return zlib.decompress(base64.b64decode(data)).decode()


def refused(code, **detail):
    return {"code": -32000, "message": code, "data": {"code": code, "retryable": False, **detail}}


class FakeServer:
    """Hands out `waiting` tasks, remembers every call in `calls` and every file in `files`.

    `faults` maps a method to a list of what happens at its next calls instead of an answer:
    an error object, a number (HTTP status), or "lose" (done, but the answer does not arrive).
    """

    def __init__(self):
        self.changed = threading.Condition()
        self.calls = []
        self.waiting = []
        self.leases = {}
        self.outcomes = {}
        self.logs = {}
        self.files = {}
        self.faults = {}
        self.lost = set()
        self.drain = False
        self.most_held = 0
        self.configs = {}
        self.urls = {}
        self._numbers = iter(range(1, 10_000))
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer leaves in one piece

            def log_message(self, *args):
                pass

            def setup(self):
                super().setup()
                server.connections.add(self.connection)

            def do_POST(self):
                server.answer(self)

            def do_GET(self):
                server.read_file(self)

            def do_PUT(self):
                server.write_file(self)

        self.connections = set()
        self.handler = Handler
        self.http = None
        self.port = 0
        self.start()

    def start(self):
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        self.connections.clear()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, *modules, name="work", **given):
        """A dataset of one task, waiting; ``given`` changes what the claim says. Returns its id."""
        number = next(self._numbers)
        dataset_id = f"set{number}"
        task = {"name": name, "trays": [{"modules": [_module(m) for m in modules]}]}
        task["data"] = given.pop("data", [])
        self.configs[dataset_id] = {"version": 3, "tasks": [task], "steering": {}, "options": {}}
        task_id = f"{dataset_id}-0-0"
        resources = {"cpu": 1, "gpu": 0, "memory": 1, "disk": 1, "time": 1, **given.pop("resources", {})}
        claim = {
            "task_id": task_id,
            "lease_id": f"lease{number}",
            "lease_s": 60,
            "token": f"it_{number}",
            "dataset_id": dataset_id,
            "dataset": number,
            "job": 0,
            "task_index": 0,
            "name": name,
            "jobs_submitted": 1,
            "config_version": 1,
            "resources": resources,
        }
        with self.changed:
            self.waiting.append({**claim, **given})
            self.changed.notify_all()
        return task_id

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), f"not in time; calls: {self.names()}"

    def names(self):
        return [method for method, _ in self.calls]

    def of(self, method):
        return [params for name, params in self.calls if name == method]

    # what is called from the handler's threads

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        calls = body if isinstance(body, list) else [body]
        authorized = handler.headers["Authorization"] == f"Bearer {TOKEN}"
        answers, status = [], 200
        for call in calls:
            outcome = self._one(call, authorized)
            if outcome == "lose":
                handler.close_connection = True
                return
            if isinstance(outcome, int):
                status = outcome
            else:
                answers.append({"jsonrpc": "2.0", "id": call["id"], **outcome})
        if status == 200:
            text = json.dumps(answers if isinstance(body, list) else answers[0])
        else:
            text = OF_A_PROXY if status > 500 else "no"
        _reply(handler, status, text.encode())

    def _one(self, call, authorized):
        method, params = call["method"], call["params"]
        if not authorized:
            return {"error": refused("not_authenticated")}
        with self.changed:
            fault = self.faults.get(method) or [None]
            fault = fault.pop(0)
            self.changed.notify_all()
            if fault is not None and fault != "lose":
                return fault if isinstance(fault, int) else {"error": fault}
            result = getattr(self, "do_" + method.split(".")[1])(params)
            self.calls.append((method, params))
            self.changed.notify_all()
            return fault or result

    def do_register(self, params):
        return {"result": {"pilot_id": "p1", "heartbeat_s": 0.2}}

    def do_claim(self, params):
        again = [task for lease, task in self.leases.items() if lease not in params["held"]]
        free = dict(params["offer"])
        chosen = list(again)
        self.changed.wait_for(lambda: self.waiting or self.drain, 0 if again else params["wait_s"])
        for task in list(self.waiting):
            needs = task["resources"]
            fits = all(needs[key] <= free[key] for key in ("cpu", "gpu", "memory", "disk"))
            if fits and len(chosen) < params["max_tasks"]:
                for key in ("cpu", "gpu", "memory", "disk"):
                    free[key] -= needs[key]
                self.waiting.remove(task)
                self.leases[task["lease_id"]] = task
                chosen.append(task)
        self.most_held = max(self.most_held, len(self.leases))
        return {"result": {"tasks": chosen, "retry_after_s": 0.05}}

    def do_config(self, params):
        return {"result": {"config": self.configs[params["dataset_id"]], "urls": self.urls}}

    def do_heartbeat(self, params):
        named = {task["task_id"] for task in params["tasks"]}
        return {"result": {"lost": sorted(named & self.lost), "stop": [], "drain": self.drain}}

    def _end(self, params, outcome):
        if params["lease_id"] not in self.leases or params["task_id"] in self.lost:
            return {"error": refused("lease_lost")}
        del self.leases[params["lease_id"]]
        self.outcomes.setdefault(params["task_id"], []).append(outcome)
        return {"result": {}}

    def do_finish(self, params):
        return self._end(params, "finished")

    def do_fail(self, params):
        return self._end(params, "failed")

    def do_release(self, params):
        return self._end(params, "released")

    def do_log(self, params):
        self.logs[params["task_id"], params["name"]] = unpacked(params["data"])
        return {"result": {}}

    def do_bye(self, params):
        return {"result": {}}

    def read_file(self, handler):
        content = self.files.get(handler.path)
        _reply(handler, 200 if content is not None else 404, content or b"")

    def write_file(self, handler):
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self.changed:
            tokens = {f"Bearer {task['token']}" for task in self.leases.values()}
            allowed = handler.headers["Authorization"] in tokens
            if allowed:
                self.files[handler.path] = content
            self.changed.notify_all()
        _reply(handler, 201 if allowed else 403, b"")


OF_A_PROXY = '{"error": {"code": "unavailable", "message": "the server does not answer"}}'


def _reply(handler, status, content):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _module(given):
    return {"src": "/bin/sh", "args": ["-c", given]} if isinstance(given, str) else given


class PilotProcess:
    """The pilot as a user starts it."""

    def __init__(self, server, work_dir, *options, token=TOKEN, cpu=2, program=("-m", "iceprod.pilot.main")):
        self.work_dir = work_dir
        argv = [sys.executable, *program, "--url", server.url, "--work-dir", str(work_dir)]
        argv += ["--cpu", str(cpu), "--memory", "4", "--disk", "4", "--time", "1", "-v", *options]
        env = {**os.environ, "ICEPROD_PILOT_TOKEN": token}
        self.process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE)

    def wait(self):
        """The exit code, and what it said."""
        _, said = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, said.decode()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def gone(pid):
    """Wait until a process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    ended = bool(poll.poll(TIMEOUT_S * 1000))
    os.close(handle)
    return ended
