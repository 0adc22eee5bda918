"""Who is calling: the subject of every authorization decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from iceprod.model.federation import holder_of


class PrincipalKind(StrEnum):
    """The kinds of caller that the authorization table has a column for."""

    ANONYMOUS = "anonymous"
    USER = "user"
    TASK = "task"  # the payload of one attempt of a task
    PILOT = "pilot"
    SITE = "site"
    ADMIN = "admin"  # a user with the role of that name


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller; ``id`` is the user name, pilot id, site id or task id.

    ``certificate`` is the subject of a client certificate that is nobody's, of an anonymous
    caller who has shown one.  ``shown_by`` is the site that has shown the token of a task, by
    its certificate; empty if none has, and None where it could not have.
    """

    kind: PrincipalKind
    id: str = ""
    groups: frozenset[str] = frozenset()
    lease_id: str = ""  # for a task: the attempt that its token was made for
    certificate: str = ""
    shown_by: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether every object of the site is this caller's to manage."""
        return self.kind is PrincipalKind.ADMIN

    @property
    def holder(self) -> str:
        """What stands on the tasks whose leases are this caller's; empty if it can hold none."""
        if self.kind is PrincipalKind.SITE:
            return holder_of(self.id)
        return self.id if self.kind is PrincipalKind.PILOT else ""


ANONYMOUS = Principal(PrincipalKind.ANONYMOUS)
