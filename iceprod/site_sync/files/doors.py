"""The ways to the file stores of parents, and which file there a file here stands for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from iceprod.errors import Unavailable
from iceprod.model.federation import Errand
from iceprod.model.location import Location, parse_location
from iceprod.model.task import parse_task_id
from iceprod.movers.base import Access, AddressPolicy, Credential, Mover
from iceprod.services.files import DATASET_TEMP, JOB_TEMP
from iceprod.site_sync.files.tokens import ErrandTokens

CONNECT_S: Final = 20.0
STALL_S: Final = 60.0
_READ_BYTES_PER_S: Final = 50e6
"""How fast at least a parent reads what it was sent, once all of it has come, before it answers."""


@dataclass(frozen=True, slots=True)
class Door:
    """How the file store of a parent is reached; ``url`` has no slash at its end.

    ``ca_path`` has the authorities of its certificate, None the system's; ``certificate`` is what
    this site shows for itself (PEM of certificate and key), where it has one.
    """

    url: str
    ca_path: str | None = None
    certificate: bytes | None = None


Doors = Callable[[str], Awaitable[Door | None]]
"""The door of the parent of that name; None where there is no such parent any more."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A file of an errand: ``area`` is ``job_temp`` or ``dataset_temp``, ``path`` is below that."""

    area: str
    path: str

    def names_here(self, errand: Errand) -> tuple[str, ...]:
        """Its names in the file store of this site."""
        return self._names(errand.task_id)

    def names_there(self, errand: Errand) -> tuple[str, ...]:
        """Its names in the file store of the parent."""
        return self._names(errand.parent_task_id)

    def _names(self, task_id: str) -> tuple[str, ...]:
        dataset_id, job, _ = parse_task_id(task_id)
        inside = (dataset_id, str(job)) if self.area == JOB_TEMP else (dataset_id,)
        return (self.area, *inside, *self.path.split("/"))


def spot_of(names: tuple[str, ...]) -> Spot:
    """What a path in an area of a mirror dataset is to its errand."""
    area = names[0]
    return Spot(area, "/".join(names[2 if area == DATASET_TEMP else 3 :]))


class Doorway:
    """Reaches files of parents by the tokens of errands."""

    def __init__(self, mover: Mover, doors: Doors, *, tokens: ErrandTokens, policy: AddressPolicy) -> None:
        self.mover = mover
        self._tokens = tokens
        self._doors = doors
        self._policy = policy

    async def way(self, errand: Errand, spot: Spot, *, sent_bytes: int = 0) -> tuple[Location, Access]:
        """Where the file is that a file here stands for, and how it is reached to send it so much.

        Raises:
            Unavailable: the parent is none any more, or the errand's token cannot be opened.
        """
        door = await self._doors(errand.parent)
        if door is None:
            raise Unavailable(f"there is no way to {errand.parent}")
        root = parse_location(door.url)
        path = "/".join((root.path.rstrip("/"), "files", *spot.names_there(errand)))
        token = await self._tokens.open(errand)
        shown = None if door.certificate is None else Credential("x509", door.certificate)
        access = Access(
            policy=self._policy,
            credential=Credential("token", token.encode()),
            certificate=shown,
            ca_path=door.ca_path,
            connect_timeout_s=CONNECT_S,
            stall_timeout_s=STALL_S + sent_bytes / _READ_BYTES_PER_S,
        )
        # The path is put together and not parsed: a name may be what an address could be misread by.
        return replace(root, path=path, query=""), access
