"""A stand-in for Globus' transfer service, in front of a folder that a real nginx gives out.

There is no server of Globus to be had without an account; this one says what the documentation
of the transfer service's API 0.10 says.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from iceprod.model.location import Location
from iceprod.movers.base import Credential
from iceprod.movers.globus import GlobusMover
from tests.movers.nginx_server import NginxServer, nginx_server
from tests.movers.place import Place, Server, reaching

COLLECTION = "6c54cade-bde5-45c1-bdea-f4bd71dba2cc"
TOKENS = {"transfer": "transfer-token", "https": "open-sesame"}


class TransferService:
    """What tasks there are; each is ``ACTIVE`` at the first look and final at the second."""

    def __init__(self, folder: Path, https_server: str) -> None:
        self.folder = folder
        self.https_server = https_server
        self.tasks: dict[str, dict[str, Any]] = {}
        self.cancelled: list[str] = []
        self.never_ends = False

    def path(self, text: str) -> Path:
        return self.folder / text.lstrip("/")

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        match path.strip("/").split("/")[1:]:
            case ["submission_id"]:
                return 200, {"value": str(uuid.uuid4())}
            case ["endpoint", _]:
                return 200, {"DATA_TYPE": "endpoint", "https_server": self.https_server}
            case ["operation", "endpoint", _, "stat"]:
                found = self.path(query["path"])
                return (200, described(found)) if found.exists() else missing(query["path"])
            case ["operation", "endpoint", _, "ls"]:
                return self.listing(query)
            case ["task", task_id]:
                return self.looked_at(task_id)
        return 404, {"code": "ClientError.NotFound", "message": "no such resource"}

    def listing(self, query: dict[str, str]) -> tuple[int, Any]:
        folder = self.path(query["path"])
        if not folder.is_dir():
            return missing(query["path"])
        start = int(query.get("offset", 0))
        found = sorted(folder.iterdir())[start : start + int(query.get("limit", 1000))]
        return 200, {"DATA_TYPE": "file_list", "DATA": [described(each) for each in found]}

    def looked_at(self, task_id: str) -> tuple[int, Any]:
        task = dict(self.tasks[task_id])
        if not self.never_ends:
            self.tasks[task_id].update(self.tasks[task_id]["then"])
        task.pop("then")
        return 200, task

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        match path.strip("/").split("/")[1:]:
            case ["delete"]:
                self.path(body["DATA"][0]["path"]).unlink()
                return self.accepted({"status": "SUCCEEDED"})
            case ["transfer"]:
                return self.copied(body["DATA"][0])
            case ["task", task_id, "cancel"]:
                self.cancelled.append(task_id)
                return 200, {"code": "Canceled", "message": "cancelled"}
        return 404, {"code": "ClientError.NotFound", "message": "no such resource"}

    def copied(self, item: dict[str, Any]) -> tuple[int, Any]:
        source = self.path(item["source_path"])
        if not source.exists():
            return self.accepted({"status": "FAILED", "fatal_error": {"code": "FILE_NOT_FOUND"}})
        shutil.copy(source, self.path(item["destination_path"]))
        return self.accepted({"status": "SUCCEEDED", "bytes_transferred": source.stat().st_size})

    def accepted(self, then: dict[str, Any]) -> tuple[int, Any]:
        task_id = str(uuid.uuid4())
        self.tasks[task_id] = {"task_id": task_id, "status": "ACTIVE", "bytes_transferred": 1, "then": then}
        return 202, {"code": "Accepted", "task_id": task_id, "message": "taken"}


def described(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "name": path.name,
        "type": "dir" if path.is_dir() else "file",
        "size": found.st_size,
        "last_modified": datetime.fromtimestamp(int(found.st_mtime), UTC).isoformat(sep=" "),
    }


def missing(path: str) -> tuple[int, Any]:
    return 404, {"code": "ClientError.NotFound", "message": f"Directory {path} not found"}


def handler_of(service: TransferService) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # head and body in one packet

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.answer(lambda: service.get(parts.path, query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(lambda: service.post(self.path, json.loads(body or b"{}")))

        def answer(self, make: Any) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKENS['transfer']}":
                status, said = 401, {"code": "AuthenticationFailed", "message": "no"}
            else:
                status, said = make()
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Handler


class GlobusServer(Server):
    def __init__(self, files: NginxServer, service: TransferService, port: int) -> None:
        self.files = files
        self.service = service
        self.port = port

    def place(self, folder: str) -> Place:
        by_https = self.files.place(f"known/{folder}")
        root = Location("globus", COLLECTION, 443, f"/known/{folder}")
        return Place(
            GlobusMover(),
            reaching(
                credential=Credential("token", json.dumps(TOKENS).encode()),
                options={"base_url": f"http://127.0.0.1:{self.port}/", "poll_s": "0.01"},
                ca_path=by_https.access.ca_path,
            ),
            root,
            by_https.folder,
            forbidden=root.child("forbidden"),
            full=None if by_https.full is None else Location("globus", COLLECTION, 443, "/full"),
        )


@contextlib.contextmanager
def globus_server(folder: Path) -> Iterator[GlobusServer]:
    with nginx_server(folder, "https") as files:
        service = TransferService(files.folder, f"https://localhost:{files.port}")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(service))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield GlobusServer(files, service, server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
