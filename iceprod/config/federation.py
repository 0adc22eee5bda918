"""Settings of sharing work with other sites."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field

from iceprod.config.sections import Count, Seconds, Section


class FederationSettings(Section):
    """Sites that this one lends tasks to, and those that lend tasks to it."""

    name: Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = ""
    """What this site is called by others; the machine's host name if empty."""
    ca: Path | None = None
    """Folder of the authority that certifies the sites that join; `ca` in the data directory if unset."""
    server_ca: Path | None = None
    """The authority (PEM) of this site's own certificate, by which others know that they have reached it;
    that of `ca` if unset."""
    certificate_days: Annotated[float, Field(gt=0, le=3650)] = 90.0
    """How long a certificate of a site is good; sites renew theirs when a third of that is left."""
    invitation_h: Annotated[float, Field(gt=0, le=24 * 366)] = 24.0
    """How long a site may take to join after it was invited, in hours."""
    lease_s: Seconds = 3 * 3600.0
    """How long a site holds a task without being heard of, if nothing else was set for it."""
    most_tasks: Count = 10_000
    """Most tasks that a site may hold, if nothing else was set for it."""
    pull: bool = True
    """Whether tasks are taken from the sites that this one has joined."""
    recovery_s: Seconds = 600.0
    """How long a site that was restored from a backup waits for its children to say what they hold."""
    poll_s: Annotated[float, Field(ge=0, le=60)] = 30.0
    """How long a request for work waits at the other site until there is some."""
    renew_s: Seconds = 20.0
    """How often the leases of tasks of other sites are renewed."""
    patience_s: Seconds = 3600.0
    """How long a task of another site may wait here before it is handed back."""
    keep_days: Annotated[float, Field(ge=1, le=3650)] = 14.0
    """How long tasks that were run for other sites are kept after their end, with their logs, in days; also
    for how long a parent that was restored from a backup can be told of them again."""

    @property
    def own_name(self) -> str:
        """What this site is called by others."""
        if self.name:
            return self.name
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64]
        return host if host[:1].isalnum() else "iceprod"
