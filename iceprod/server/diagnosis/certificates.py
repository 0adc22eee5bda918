"""Certificates and lists of revoked ones: whether they can be used, and how long still."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from iceprod.clock import Clock
from iceprod.config import Settings
from iceprod.errors import ConfigError, InputError
from iceprod.server import tls_port
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.services.validity import Good, goods_in

_SOON_S: Final = 14 * 86400.0
_RENEW: Final = "renew it; nginx has to hear of it by: iceprod nginx reload"


def look(settings: Settings, *, clock: Clock) -> Iterator[Finding]:
    """One finding for each file that is set, and one for the TLS port as a whole."""
    tls, nginx = settings.tls, settings.nginx
    files: dict[str, Path | None] = {
        "nginx.certificate": nginx.certificate,
        "nginx.client_ca": nginx.client_ca,
        "nginx.client_crl": nginx.client_crl,
    }
    if tls.port is not None:
        files |= {
            "tls.certificate": tls.certificate,
            "tls.ca_path": tls.ca_path,
            "tls.crl_path": tls.crl_path,
        }
        yield _port(settings)
    for setting, path in files.items():
        if path is not None:
            yield _file(setting, path.expanduser(), now=clock())


def _port(settings: Settings) -> Finding:
    try:
        tls_port.TrustFiles(settings.tls)
    except ConfigError as exc:
        return failed("tls", exc.message, "see docs/how-to/certificates.md")
    return good("tls", "the TLS port can use its files")


def _file(setting: str, path: Path, *, now: float) -> Finding:
    """What runs out first of what is in a file or directory."""
    goods: list[Good] = []
    try:
        for file in tls_port.trusted_files(path):
            goods += goods_in(file.read_bytes())
    except OSError as exc:
        advice = f"set {setting}, or let the server's user read it"
        return failed(setting, f"cannot read {path}: {exc.strerror}", advice)
    except InputError as exc:
        return failed(setting, f"{path}: {exc.message}", f"set {setting} to a file in PEM")
    if not goods:
        return failed(setting, f"{path} is empty", "fill it, or leave the setting out")
    last = max(goods, key=lambda one: one.since)
    if last.since > now:
        return failed(setting, f"{last.name} is not good yet", "is the clock right?")
    return _until(setting, min(goods, key=lambda one: one.until), now=now)


def _until(setting: str, first: Good, *, now: float) -> Finding:
    day = datetime.fromtimestamp(first.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if first.until <= now:
        return failed(setting, f"{first.name} ended on {day}", _RENEW)
    if first.until <= now + _SOON_S:
        return warning(setting, f"{first.name} ends on {day}", _RENEW)
    return good(setting, f"good until {day} ({first.name})")
