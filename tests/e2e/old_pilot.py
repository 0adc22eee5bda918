"""A pilot of IceProd 2.3's time: it knows the old RPC methods and nothing of this project.

Written from the contract alone (docs/reference) with the standard library, so that it
proves what such a pilot needs: ``python old_pilot.py -u URL -p PASSKEY --pilot_id ID -f FILE``.

Like the originals it claims what it was given less a little, runs the modules of a task one
by one as the task's configuration says, moves files by http with a name and a password,
uploads its logs after it has reported the task as done, and leaves when nothing is left.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
import uuid
import zlib
from pathlib import Path
from typing import Any

RESERVE = 0.1
"""GB of memory and disk, and hours, that such a pilot keeps for itself."""
ASKED, ASKED_AGAIN_S = 6, 0.2
"""How often it asks for a task before it takes there to be none."""
PATIENCE_S = 60.0
"""How long it asks where there are some."""
LOGS = ("stdlog", "stderr", "stdout")


class Refused(Exception):
    """The server answered with an error object."""


class Failed(Exception):
    """A task cannot be completed."""


class Status(Failed):
    """A file's address was answered with an HTTP status that tells of no success."""

    @property
    def code(self) -> int:
        return self.args[1]


class Rpc:
    """JSON-RPC as it was spoken: named parameters, the passkey among them."""

    def __init__(self, url: str, passkey: str) -> None:
        self.url = url + "/jsonrpc"
        self.passkey = passkey
        self.calls: list[str] = []

    def __call__(self, method: str, **params: Any) -> Any:
        self.calls.append(method)
        body = {"jsonrpc": "2.0", "method": method, "params": {**params, "passkey": self.passkey}, "id": 0}
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json-rpc"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.loads(response.read())
        if "error" in answer:  # its mere presence, as the originals had it
            raise Refused(f"{method}: {answer['error']}")
        return answer["result"]


class Files:
    """Transfers by http, with the name and the password from a task's configuration."""

    def __init__(self, username: str, password: str) -> None:
        secret = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {secret}"}

    def get(self, url: str) -> bytes:
        return self._send(urllib.request.Request(url, headers=self._headers))

    def download(self, url: str) -> bytes:
        """A file, compared with its checksum if the server has one beside it."""
        expected: tuple[str, str] | None = None
        for kind in ("sha512", "sha256", "sha1", "md5"):
            try:
                expected = kind, self.get(f"{url}.{kind}sum").split()[0].decode()
                break
            except Status as exc:
                if exc.code != 404:
                    raise
        data = self.get(url)
        if not data:
            raise Failed(f"{url} is empty")
        if expected is not None and hashlib.new(expected[0], data).hexdigest() != expected[1]:
            raise Failed(f"{url}: the checksum is wrong")
        return data

    def upload(self, url: str, data: bytes) -> None:
        """POST a form with the file in it, then fetch the whole and compare."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="field0"; filename="filename"\r\n'
            "Content-Type: text/plain\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(url, body, {**self._headers, **kind}, method="POST")
        self._send(request)
        if hashlib.sha512(self.get(url)).digest() != hashlib.sha512(data).digest():
            raise Failed(f"{url} is not what was sent")

    def _send(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as exc:
            with exc:
                raise Status(f"{request.full_url} was answered with {exc.code}", exc.code) from None


class Scope:
    """The few forms of expressions that plain configurations use."""

    def __init__(self, options: dict[str, Any], steering: dict[str, Any]) -> None:
        self.names = {**steering, **options}

    def text(self, value: Any) -> str:
        text = str(value)
        for _ in range(20):
            new = re.sub(r"\$(?:steering|args|options)?\((\w+)\)", self._name, text)
            new = re.sub(r"\$sprintf\(([^$()]*),([^$()]*)\)", lambda m: m[1].strip("'\"") % int(m[2]), new)
            if new == text:
                return text
            text = new
        return text

    def _name(self, match: re.Match[str]) -> str:
        return str(self.names.get(match[1], match[0]))


class Task:
    """One task as `new_task` handed it out, run in a directory of its own."""

    def __init__(self, config: dict[str, Any], rpc: Rpc, folder: Path) -> None:
        self.options = config["options"]
        self.id = self.options["task_id"]
        self.rpc = rpc
        self.folder = folder / f"{self.id}.{uuid.uuid4().hex[:8]}"
        self.folder.mkdir(parents=True)
        self.config = config
        parameters = (config.get("steering") or {}).get("parameters") or {}
        self.scope = Scope(self.options, parameters)
        self.files = Files(self.options["username"], self.options["password"])
        self.transfers: dict[str, list[dict[str, Any]]] = {"upload": [], "download": []}
        self.started = time.time()

    def run(self) -> None:
        """Stage in, run every module, stage out; tell the server how it went, then send the logs."""
        try:
            task = self._own_part()
            self._stage(task, "input")
            for tray in task.get("trays") or []:
                for iteration in range(int(tray.get("iterations") or 1)):
                    self.scope.names["iter"] = iteration
                    for module in tray.get("modules") or []:
                        if not self.rpc("stillrunning", task_id=self.id):
                            return  # silently, as the originals do
                        self._module(module)
            self._stage(task, "output")
        except (Failed, OSError, ValueError) as exc:
            self._log(traceback.format_exc())
            self.rpc("task_error", task_id=self.id, error_info={**self._report(), "error_summary": str(exc)})
        else:
            self.rpc("finish_task", task_id=self.id, stats=self._report())
        finally:
            self.upload_logs()

    def upload_logs(self) -> None:
        for name in LOGS:
            path = self.folder / name
            data = path.read_bytes() if path.exists() else b""
            text = base64.b64encode(zlib.compress(data)).decode() if data else ""
            self.rpc("upload_logfile", task=self.id, name=name, data=text)

    def _own_part(self) -> dict[str, Any]:
        wanted = self.options["task"]
        tasks: list[dict[str, Any]] = self.config["tasks"]
        if isinstance(wanted, int) or str(wanted).isdigit():
            return tasks[int(wanted)]
        return next(task for task in tasks if task["name"] == wanted)

    def _module(self, module: dict[str, Any]) -> None:
        self._log(f"module {module.get('name')}\n")
        source = self.scope.text(module["src"])
        path = self.folder / os.path.basename(source)
        if re.match(r"https?:", source):
            path.write_bytes(self.files.download(source))
        elif os.path.exists(source):
            path = Path(source)
        path.chmod(0o755)
        args = [self.scope.text(word) for word in str(module.get("args") or "").split()]
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            done = subprocess.run([path, *args], cwd=self.folder, stdout=out, stderr=err, check=False)
        if done.returncode:
            raise Failed(f"module failed: {module.get('name')} ended with {done.returncode}")

    def _stage(self, task: dict[str, Any], movement: str) -> None:
        for data in task.get("data") or []:
            if data.get("movement") not in (movement, "both"):
                continue
            remote, local = self.scope.text(data.get("remote") or ""), self.scope.text(data["local"])
            url = remote
            if not re.match(r"\w+:", remote):
                url = os.path.join(self.scope.text(self.options[data["type"]]), remote or local)
            self._move(url, self.folder / local, movement)

    def _move(self, url: str, path: Path, movement: str) -> None:
        started = time.time()
        if movement == "input":
            path.write_bytes(self.files.download(url))
        else:
            self.files.upload(url, path.read_bytes())
        entry = {"name": url, "error": False, "now": started, "size": path.stat().st_size}
        kind = "download" if movement == "input" else "upload"
        self.transfers[kind].append({**entry, "duration": time.time() - started})

    def _report(self) -> dict[str, Any]:
        used = {"cpu": 0.9, "gpu": 0.0, "memory": 0.05, "disk": 0.01, "time": 0.001}
        return {
            "hostname": socket.gethostname(),
            "domain": "example.org",
            "time_used": time.time() - self.started,
            "task_stats": {**self.transfers, "tasks": [{}]},
            "resources": used,
        }

    def _log(self, text: str) -> None:
        with (self.folder / "stdlog").open("a") as log:
            log.write(text)


class OldPilot:
    """Asks for tasks until there are none, one offer at a time."""

    def __init__(self, url: str, passkey: str, pilot_id: str, config: dict[str, Any], folder: Path) -> None:
        self.rpc = Rpc(url, passkey)
        self.pilot_id = pilot_id
        self.options = config["options"]
        assert config["tasks"] == [], "a configuration without tasks makes it a pilot"
        self.folder = folder
        self.done: list[str] = []
        resources = dict(self.options["resources"])
        for name in ("memory", "disk", "time"):
            resources[name] = float(resources[name]) - RESERVE
        self.resources = {**resources, "cpu": int(resources["cpu"]), "gpu": int(resources["gpu"])}
        self.started = time.time()

    def run(self) -> list[str]:
        """Run what the server hands out; the ids of the tasks in order."""
        if self.rpc("echo", value="e") != "e":
            raise SystemExit("the server does not answer")
        self.run_once()
        while configs := self.claim():
            self._run_all(configs)
        return self.done

    def run_once(self) -> None:
        """Run the tasks of one claim."""
        self._run_all(self.claim_some())

    def _run_all(self, configs: list[dict[str, Any]]) -> None:
        for config in configs:
            task = Task(config, self.rpc, self.folder)
            self.done.append(task.id)
            self.report([task.id])
            task.run()
        self.report([])

    def claim_some(self) -> list[dict[str, Any]]:
        """What `new_task` hands out, where something waits."""
        deadline = time.monotonic() + PATIENCE_S
        while not (configs := self.claim()):
            if time.monotonic() > deadline:
                raise SystemExit("there is nothing to do")
        return configs

    def claim(self) -> list[dict[str, Any]]:
        """What `new_task` hands out; with nothing to do it is asked again for a while, as originals do."""
        for _ in range(ASKED):
            if configs := self._claim():
                return configs
            time.sleep(ASKED_AGAIN_S)
        return []

    def _claim(self) -> list[dict[str, Any]]:
        """What `new_task` hands out now, refused if it asks for more than was offered."""
        offer = dict(self.resources)
        offer["time"] -= (time.time() - self.started) / 3600
        answer = self.rpc(
            "new_task",
            gridspec=self.options["gridspec"],
            hostname=socket.gethostname(),
            domain="example.org",
            ifaces=None,
            os=os.environ.get("OS_ARCH"),
            **offer,
        )
        configs = [answer] if isinstance(answer, dict) else answer or []
        for config in configs:
            for name, wanted in config["options"]["resources"].items():
                if float(wanted) > float(offer[name]):
                    raise SystemExit(f"asked for {wanted} {name}, offered {offer[name]}")
                offer[name] = offer[name] if name == "time" else offer[name] - wanted
        return configs

    def report(self, tasks: list[str]) -> None:
        """Tell the server that the pilot lives."""
        self.rpc(
            "update_pilot",
            pilot_id=self.pilot_id,
            tasks=",".join(tasks),
            resources_available=self.resources,
            resources_claimed={"cpu": len(tasks)},
        )


def main() -> None:
    """Run one pilot from the command line, with the options of the originals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-u", "--url", required=True)
    parser.add_argument("-p", "--passkey", required=True)
    parser.add_argument("--pilot_id", required=True)
    parser.add_argument("-f", "--cfgfile", type=Path, required=True)
    given = parser.parse_args()
    config = json.loads(given.cfgfile.read_text())
    pilot = OldPilot(given.url, given.passkey, given.pilot_id, config, Path.cwd())
    sys.stdout.write(json.dumps(pilot.run()) + "\n")


if __name__ == "__main__":
    main()
