"""nginx in front."""

from __future__ import annotations

from iceprod.config import Settings
from iceprod.errors import ConfigError, NotFoundError, Unavailable
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.server.nginx import check
from iceprod.server.nginx.control import running


async def look(settings: Settings) -> list[Finding]:
    """nginx, where it is meant to be there."""
    if settings.nginx.certificate is not None or settings.nginx.supervised:
        return await _nginx(settings)
    return []


async def _nginx(settings: Settings) -> list[Finding]:
    try:
        verdict = await check(settings)
    except ConfigError as exc:
        return [failed("nginx", exc.message, "apt install nginx-light, or set nginx.program")]
    except (NotFoundError, Unavailable) as exc:
        return [warning("nginx", exc.message, "iceprod nginx generate")]
    if not verdict.valid:
        said = "; ".join(verdict.messages[:2])
        return [failed("nginx", f"refuses its configuration: {said}", "iceprod nginx generate")]
    if not verdict.fresh:
        return [warning("nginx", "the settings have changed since", "iceprod nginx reload")]
    pid = running(settings)
    if pid is None:
        advice = "iceprod serve --nginx, or iceprod nginx run"
        return [warning("nginx", "its configuration is valid, but it does not run", advice)]
    return [good("nginx", f"runs as {pid}, its configuration is valid")]
