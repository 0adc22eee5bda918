"""Making what shares work with other sites, over the services that it uses."""

from __future__ import annotations

from iceprod.site_sync.errands import Errands
from iceprod.site_sync.federation import Federation
from iceprod.site_sync.parents import Parents


def make_federation(errands: Errands) -> Federation:
    """All that is shared with other sites; nothing runs yet."""
    return Federation(errands=errands, outbox=errands.outbox, parents=Parents())
