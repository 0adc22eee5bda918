"""What the templates need of the settings, each value as it may stand in nginx's language."""

from __future__ import annotations

import grp
import os
import pwd
import re
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from iceprod.config import Settings
from iceprod.errors import ConfigError
from iceprod.server import security, static
from iceprod.server.handlers.multipart import ENVELOPE_BYTES
from iceprod.server.processes.directory import PORTS_FILE
from iceprod.services.filestore import HANDOVER

CONFIG_FILE: Final = "nginx.conf"
SENT_LOG: Final = "sent.log"
"""Which file of nginx's logs says whose bytes it has sent."""
# What could end a quoted value, or begin a variable in it.
_UNSAFE: Final = re.compile(r"[\"'\\$;{}]")
_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}  # noqa: S104
_HTTPS: Final = 443


class Values:
    """Values by the name that they have in the templates; all that is wrong is told at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nginx = settings.nginx
        self._problems: list[dict[str, str]] = []

    def gather(self) -> dict[str, str]:
        """All values.

        Raises:
            ConfigError: ``fields`` lists ``{path, message}`` for every setting that does not do.
        """
        if not self._settings.server.proxied:
            self._refuse("server.proxied", "must be true, so that the server believes what nginx tells it")
        found = {**self._process(), **self._paths(), **self._addresses(), **self._limits(), **self._headers()}
        if self._problems:
            lines = [f"  {problem['path']}: {problem['message']}" for problem in self._problems]
            raise ConfigError("\n".join(["nginx cannot be set up", *lines]), fields=self._problems)
        return found

    def _refuse(self, setting: str, message: str) -> str:
        problem = {"path": setting, "message": message}
        if problem not in self._problems:
            self._problems.append(problem)
        return ""

    def _process(self) -> dict[str, str]:
        nginx = self._nginx
        return {
            "user": self._user(),
            "workers": str(nginx.workers or "auto"),
            "connections": str(nginx.connections),
            "open_files": str(2 * nginx.connections),
            "client_timeout_s": str(nginx.client_timeout_s),
        }

    def _user(self) -> str:
        """Started by root, nginx works as the user whose files the server's are."""
        if os.geteuid() != 0:
            return ""
        owner = owner_of(self._settings)
        try:
            user, group = pwd.getpwuid(owner[0]).pw_name, grp.getgrgid(owner[1]).gr_name
        except KeyError:
            return self._refuse("server.data_dir", "belongs to a system user without a name")
        if owner[0] != 0:
            self._keep_from(user)
        return f"user {user} {group};"

    def _keep_from(self, user: str) -> None:
        """Refuse to write as root where that user could put a link to another file."""
        log = self._nginx.access_log
        written = {"nginx.directory": self._settings.nginx_path}
        if log is not None:
            written["nginx.access_log"] = log.expanduser().absolute().parent
        for setting, folder in written.items():
            if not _is_roots(folder):
                self._refuse(
                    setting,
                    f"is a place where {user} could put a link in the way of nginx, which opens its logs as "
                    f"root: start nginx as {user} (AmbientCapabilities=CAP_NET_BIND_SERVICE lets it have "
                    "ports below 1024), or name a directory of root's",
                )

    def _paths(self) -> dict[str, str]:
        settings, nginx = self._settings, self._nginx
        directory = self._path("nginx.directory", settings.nginx_path)
        files = self._path("files.path", settings.files_path)
        cache = self._path("files.cache.path", settings.cache_path)
        uploads = self._path("files.uploads.path", settings.uploads_path)
        log = nginx.access_log
        certificate = self._needed("nginx.certificate", nginx.certificate)
        return {
            "directory": directory,
            "access_log": self._path("nginx.access_log", log) if log else f"{directory}/logs/access.log",
            "sent_log": f"{directory}/logs/{SENT_LOG}",
            "certificate": certificate,
            "certificate_key": self._needed("nginx.certificate_key", nginx.certificate_key),
            "client_ca": self._path("nginx.client_ca", nginx.client_ca) if nginx.client_ca else "",
            "client_crl": self._revoked(),
            "session_cache": "off" if nginx.client_ca else "shared:iceprod_tls:10m",
            "build": static.build_id(),
            "static": f"{directory}/static/{static.build_id()}",
            "files": files,
            "cache": cache,
            "handover": f"{files}/{HANDOVER}",
            "uploads_handover": f"{uploads}/{HANDOVER}",
            "origin_trust": _trust(certificate),
        }

    def _revoked(self) -> str:
        path = self._nginx.client_crl
        return f'ssl_crl "{self._path("nginx.client_crl", path)}";' if path else ""

    def _needed(self, setting: str, path: Path | None) -> str:
        return self._path(setting, path) if path else self._refuse(setting, "must be given")

    def _path(self, setting: str, path: Path) -> str:
        text = str(path.expanduser().absolute())
        if _UNSAFE.search(text) or not text.isprintable():
            return self._refuse(setting, f"{text!r} has a character that may not stand in nginx's settings")
        return text

    def _addresses(self) -> dict[str, str]:
        nginx = self._nginx
        name = nginx.names[0] if nginx.names and not nginx.names[0].startswith("*") else "$host"
        general = nginx.upstreams or (self._own("server.port"),)
        lanes = nginx.rpc_upstreams or nginx.upstreams or (self._own(self._lane()),)
        return {
            "names": " ".join(nginx.names) or "_",
            "http_listen": _listen(nginx.host, nginx.http_port),
            "https_listen": _listen(nginx.host, nginx.https_port),
            "redirect_to": name if nginx.https_port == _HTTPS else f"{name}:{nginx.https_port}",
            "upstreams": "\n".join(f"server {each} fail_timeout=2s;" for each in general),
            "rpc_upstreams": "\n".join(f"server {each} fail_timeout=2s;" for each in lanes),
            "resolver": f"resolver {' '.join(nginx.resolver)} valid=30s ipv6=off;" if nginx.resolver else "",
        }

    def _lane(self) -> str:
        return "server.rpc_port" if self._settings.server.rpc_lane else "server.port"

    def _own(self, setting: str) -> str:
        """Where the server of these settings listens."""
        server = self._settings.server
        port = server.port if setting == "server.port" else server.rpc_port
        port = port or _ports_in_use(self._settings).get(setting, 0)
        if not port:
            return self._refuse(setting, "is any free port, which nginx cannot know before the server runs")
        host = _EVERYWHERE.get(server.host, server.host)
        if not re.fullmatch(r"[0-9A-Za-z_.:-]+", host):
            return self._refuse("server.host", f"{host!r} is no address")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _limits(self) -> dict[str, str]:
        settings, nginx = self._settings, self._nginx
        zones, limits = [], []
        if nginx.rate:
            zones.append(f"limit_req_zone $binary_remote_addr zone=requests:10m rate={nginx.rate}r/s;")
            limits.append(f"limit_req zone=requests burst={nginx.burst} nodelay;")
        if nginx.connections_per_address:
            zones.append("limit_conn_zone $binary_remote_addr zone=connections:10m;")
            limits.append(f"limit_conn connections {nginx.connections_per_address};")
        return {
            "limit_zones": "\n".join(zones),
            "limits": "\n".join(limits),
            "form_bytes": str(settings.server.max_form_bytes),
            "rpc_bytes": str(settings.rpc.max_message_bytes),
            "upstream_idle_s": str(max(1, min(60, int(settings.server.drain_s / 2)))),
            "file_bytes": str(settings.files.max_bytes + ENVELOPE_BYTES),
        }

    def _headers(self) -> dict[str, str]:
        ours = {name: value for name, value in security.HEADERS.items() if name != "Server"}
        lasts = self._nginx.hsts_s
        return {
            "security_headers": "\n".join(f'add_header {name} "{ours[name]}" always;' for name in ours),
            "hidden_headers": "\n".join(f"proxy_hide_header {name};" for name in ours),
            "strict_transport": f"max-age={lasts}" if lasts else "",
        }


def owner_of(settings: Settings) -> tuple[int, int]:
    """Ids of the user and the group whom the server's files belong to."""
    path = settings.data_dir
    found = next(folder for folder in (path, *path.parents) if folder.exists()).stat()
    return found.st_uid, found.st_gid


def _is_roots(folder: Path) -> bool:
    """Whether nobody but root can change what is in a directory, or put another in its place."""
    for path in (folder, *folder.parents):
        if path.exists():
            found = path.stat()
            is_open = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
            if found.st_uid != 0 or is_open:
                return False
    return True


def static_path(settings: Settings) -> Path:
    """Where the present build of style sheets and scripts is."""
    return settings.nginx_path / "static" / static.build_id()


def _ports_in_use(settings: Settings) -> dict[str, int]:
    """The ports of the server that runs."""
    try:
        return msgspec.json.decode((settings.data_dir / PORTS_FILE).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}


def _listen(host: str, port: int) -> str:
    if ":" in host:
        return f"[{host}]:{port} ipv6only=off" if host == "::" else f"[{host}]:{port}"
    return f"{host}:{port}"


def _bundles() -> Iterator[str]:
    yield from _BUNDLES
    yield ssl.get_default_verify_paths().cafile or ""


def _trust(certificate: str) -> str:
    """Whom nginx believes to be another server: whoever this machine does, and without a list nobody else."""
    bundle = next((path for path in _bundles() if path and Path(path).is_file()), certificate)
    lines = (
        "proxy_ssl_verify on;",
        "proxy_ssl_verify_depth 5;",
        f'proxy_ssl_trusted_certificate "{bundle}";',
    )
    return "\n".join(lines)
