"""What the file store tells of files of tasks that are run for other sites, and what it asks for.

The areas of a mirror dataset (`iceprod.model.dataset.Dataset.is_mirror`) stand for those of the
dataset at its own site.  All of this is about them, and is asked for no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from iceprod.model.principal import Principal
from iceprod.services.filestore import FileFacts

if TYPE_CHECKING:
    from iceprod.services.arriving import Place


class ForeignFiles(Protocol):
    """Whoever stands between this site's files and those of the sites whose tasks it runs."""

    async def stored(self, principal: Principal, place: Place, facts: FileFacts) -> None:
        """A file has been put in its place.

        That its own site is to get it is durable when this returns; saying it again changes
        nothing.
        """
        ...

    async def delete(self, principal: Principal, place: Place) -> bool:
        """Delete a file at its own site; whether there was one.

        Raises:
            LeaseLost, Unavailable: as of `bring`.
        """
        ...

    async def bring(self, principal: Principal, place: Place) -> None:
        """Have the file here as its own site has it, if that has it at all.

        Raises:
            LeaseLost: the task is this site's no longer.
            Unavailable: its own site does not answer, or the file takes a while to come.
            QuotaExceeded, TooLarge: there is no room for it.
        """
        ...


class NoForeignFiles:
    """No other site: what is here is all there is."""

    async def stored(self, principal: Principal, place: Place, facts: FileFacts) -> None:
        """Nobody is told."""

    async def delete(self, principal: Principal, place: Place) -> bool:
        """Nothing is anywhere else."""
        del principal, place
        return False

    async def bring(self, principal: Principal, place: Place) -> None:
        """Nothing comes."""
