"""Making the services of the file plane from the settings."""

from __future__ import annotations

from iceprod.clock import Clock
from iceprod.config import Settings
from iceprod.services.accounting import Accounting
from iceprod.services.transfers import TransferLimits, Transfers
from iceprod.store.base import Store


def make_transfers(store: Store, settings: Settings, *, clock: Clock) -> Transfers:
    """What limits and accounts transfers.

    Each of several processes gets its part of every limit of speed: they do not tell one another
    what they move.
    """
    limits, parts = settings.files.limits, settings.server.processes
    accounting = Accounting(store.usage, clock=clock)
    return Transfers(
        accounting,
        TransferLimits(
            connections=limits.connections,
            user=limits.user_bytes_per_s / parts,
            dataset=limits.dataset_bytes_per_s / parts,
            peer=limits.site_bytes_per_s / parts,
            origins={name: origin.bytes_per_s / parts for name, origin in settings.files.origins.items()},
            services={name: speed / parts for name, speed in limits.service_bytes_per_s.items()},
        ),
        clock=clock,
    )
