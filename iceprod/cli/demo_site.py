"""What the demo's site is made of: settings for its processes, as environment variables."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from iceprod.errors import InputError

_HOST: Final = "127.0.0.1"
_PROCESSES: Final = 2


@dataclass(frozen=True, slots=True)
class DemoSite:
    """``environment`` is for every process of the demo, ``arguments`` for ``iceprod serve``."""

    environment: dict[str, str]
    arguments: tuple[str, ...] = ()
    makes_database: bool = False  # one that is to be removed with the site


def arrange(folder: Path, *, mongodb: str | None, with_nginx: bool) -> DemoSite:
    """A site in ``folder``; with MongoDB two processes share it, with nginx TLS is in front.

    Raises:
        InputError: the URL is none that a command line may show.
    """
    environment: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    if mongodb:
        environment["ICEPROD_STORE__URL"] = _own_database(mongodb)
        arguments = ("--processes", str(_PROCESSES))
    if with_nginx:
        environment |= _front(folder)
        arguments = (*arguments, "--nginx")
    makes_database = bool(mongodb) and environment["ICEPROD_STORE__URL"] != mongodb
    return DemoSite(environment, arguments, makes_database)


def _own_database(url: str) -> str:
    """``url`` with a new database of the demo's own, unless it names one."""
    parts = urlsplit(url)
    if parts.scheme not in ("mongodb", "mongodb+srv") or not parts.netloc:
        raise InputError(f"--mongodb: {parts.scheme or 'this'} is not mongodb://HOST[:PORT][/DATABASE]")
    if parts.password:
        raise InputError(
            "--mongodb: every user of this machine can read a password in a command line; "
            "put the URL into the environment variable ICEPROD_STORE__URL and leave the option away"
        )
    if parts.path.strip("/"):
        return url
    return parts._replace(path=f"/iceprod_demo_{secrets.token_hex(4)}").geturl()


def _front(folder: Path) -> dict[str, str]:
    """Settings of an nginx on a free port, with a certificate of an authority that is made for this."""
    from iceprod.services.ca import CertificateUse, SiteCA  # noqa: PLC0415 - cryptography takes its time

    ca = SiteCA.create(folder / "ca", name="IceProd demo")
    ca.issue(_HOST, use=CertificateUse.SERVER)
    port = _free_port()
    url = f"https://{_HOST}:{port}"
    return {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_SERVER__URL": url,
        "ICEPROD_SERVER__RPC_URL": url,
        "ICEPROD_NGINX__HOST": _HOST,
        "ICEPROD_NGINX__HTTPS_PORT": str(port),
        "ICEPROD_NGINX__HTTP_PORT": "0",
        "ICEPROD_NGINX__CERTIFICATE": str(ca.certificate_of(_HOST, CertificateUse.SERVER)),
        "ICEPROD_NGINX__CERTIFICATE_KEY": str(ca.key_of(_HOST, CertificateUse.SERVER)),
        # The demo's commands and pilots trust this authority, and no other.
        "SSL_CERT_FILE": str(ca.certificate),
    }


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as bound:
        return int(bound.getsockname()[1])
