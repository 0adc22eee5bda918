"""What ``iceprod doctor`` looks at: everything that a server with some settings needs.

Nothing is changed, and it works whether the server runs or not.
"""

from __future__ import annotations

from iceprod import clock as clocks
from iceprod.config import Settings
from iceprod.server.diagnosis import certificates, front, listeners, machine, running, store
from iceprod.server.diagnosis.findings import Finding, Verdict

__all__ = ["Finding", "Verdict", "diagnose"]


async def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything that a server with these settings needs."""
    is_running = listeners.is_running(settings)
    ports = listeners.ports_in_use(settings) if is_running else {}
    findings = list(machine.look(settings))
    findings += await store.look(settings, is_running=is_running)
    findings += listeners.look(settings, ports, is_running=is_running)
    findings += await running.look(settings, ports, is_running=is_running)
    findings += await front.look(settings)
    findings += certificates.look(settings, clock=clocks.now)
    findings += machine.grids(settings)
    return findings
