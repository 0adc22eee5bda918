"""A real nginx that gives files out and takes them, by http or https."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iceprod.model.location import Location
from iceprod.movers.http import HttpMover
from tests.movers.place import Place, Server, reaching, small_disk
from tests.nginx_harness import Authority, free_port, until

PROPFIND = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")

_CONFIG = """
{load}
daemon off; {user} worker_processes 1; pid {own}/pid; error_log {own}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; keepalive_timeout 5; server_tokens off;
  client_body_temp_path {own}/body; proxy_temp_path {own}/proxy; fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi; scgi_temp_path {own}/scgi;
  server {{
    listen 127.0.0.1:{port} {tls}; root {root}; {certificate}
    dav_methods PUT DELETE; create_full_put_path on; {dav_ext} dav_access user:rw group:rw all:rw;
    location / {{ autoindex on; autoindex_format json; }}
    location ~ /forbidden {{ deny all; }}
    location /known/ {{ if ($http_authorization != "Bearer open-sesame") {{ return 401; }} }}
    location /certified/ {{ if ($client_verified != yes) {{ return 403; }} }}
    {proxied}
  }}
  map "$ssl_client_verify" $client_verified {{ default no; SUCCESS yes; }}
}}
"""


class NginxServer(Server):
    def __init__(self, folder: Path, scheme: str, *, has_small_disk: bool) -> None:
        self.folder = folder / "files"
        self.scheme = scheme
        self.port = free_port()
        self.authority = Authority(folder / "ca")
        self._has_small_disk = has_small_disk

    def place(self, folder: str) -> Place:
        path = self.folder / folder
        path.mkdir(parents=True)
        path.chmod(0o777)
        top = Location(self.scheme, "localhost", self.port, "/")
        return Place(
            HttpMover(),
            reaching(ca_path=str(self.authority.certificate), stall_timeout_s=20.0),
            top.child(folder),
            path,
            forbidden=top.child(folder).child("forbidden"),
            full=top.child("full") if self._has_small_disk else None,
            port=self.port,
        )

    def config(self, own: Path) -> str:
        has_propfind = self.scheme == "https" and PROPFIND.exists()
        certificate = ""
        if self.scheme == "https":
            site = self.authority.issue("localhost")
            certificate = (
                f"ssl_certificate {site.certificate}; ssl_certificate_key {site.key}; "
                f"ssl_client_certificate {self.authority.certificate}; ssl_verify_client optional;"
            )
        return _CONFIG.format(
            load=f"load_module {PROPFIND};" if has_propfind else "",
            user="user root;" if os.getuid() == 0 else "",
            own=own,
            port=self.port,
            tls="ssl http2" if self.scheme == "https" else "",
            root=self.folder,
            certificate=certificate,
            dav_ext="dav_ext_methods PROPFIND OPTIONS;" if has_propfind else "",
            proxied="",
        )


@contextlib.contextmanager
def nginx_server(folder: Path, scheme: str) -> Iterator[NginxServer]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx")
    own = folder / "nginx"
    own.mkdir(parents=True)
    with small_disk(folder / "files" / "full") as full:
        server = NginxServer(folder, scheme, has_small_disk=full is not None)
        config = own / "nginx.conf"
        config.write_text(server.config(own))
        process = subprocess.Popen(
            [program, "-c", str(config), "-e", str(own / "error.log")], stdin=subprocess.DEVNULL
        )
        try:
            until(lambda: listens(server.port) or process.poll() is not None)
            assert process.poll() is None, (own / "error.log").read_text()
            yield server
        finally:
            process.terminate()
            process.wait(30)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def http_server(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return nginx_server(folder, "http")


def https_server(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return nginx_server(folder, "https")


def with_credential(place: Place, credential: object) -> Place:
    return dataclasses.replace(place, access=dataclasses.replace(place.access, credential=credential))
