"""What ``iceprod doctor`` looks at: everything that a server with some settings needs.

Nothing is changed, and it works whether the server runs or not.
"""

from __future__ import annotations

from iceprod import clock as clocks
from iceprod.config import Settings
from iceprod.server.diagnosis import certificates, listeners, machine, store
from iceprod.server.diagnosis.findings import Finding, Verdict

__all__ = ["Finding", "Verdict", "diagnose"]


async def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything that a server with these settings needs; changes nothing."""
    findings = [*machine.look(settings), await store.look(settings)]
    findings += listeners.look(settings)
    findings += certificates.look(settings, clock=clocks.now)
    findings += machine.grids(settings)
    return findings
