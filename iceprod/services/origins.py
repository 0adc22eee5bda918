"""Origins: the places elsewhere that the settings allow, and the one gate to them.

Nothing in the server reaches another machine's files but through `Origins.find`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from iceprod.errors import AccessDenied, IceProdError, InputError, NotFoundError
from iceprod.model.file import Direction, Flow
from iceprod.model.location import Location
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.movers.base import Access, AddressPolicy, Credential, Mover
from iceprod.services import authorization
from iceprod.services.fair_turns import FairTurns
from iceprod.services.task_reach import Reach, TaskReach

CONNECT_S: Final = 20.0
STALL_S: Final = 60.0


class Vault(Protocol):
    """Whoever keeps the secrets for origins."""

    async def credential(self, origin: str, user: str) -> Credential | None:
        """The secret of a user for an origin, else the site's own; None if there is neither."""
        ...


class NoVault:
    """No secrets at all."""

    async def credential(self, origin: str, user: str) -> Credential | None:
        """None."""
        del origin, user
        return None


@dataclass(frozen=True, slots=True)
class OriginRule:
    """What the settings say of one origin; the fields are those of `OriginSettings`."""

    name: str
    root: Location
    policy: AddressPolicy
    write: bool = False
    groups: frozenset[str] = frozenset()
    connections: int = 16
    bytes_per_s: int = 0
    ca_path: str | None = None
    redirects: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin, found for one caller and one of its files.

    ``user`` and ``group`` are whose bytes it is about: the caller, or the owner of the dataset
    that a task belongs to.  ``reader`` is the user alone who may see what comes, because a
    credential of that user is shown for it; empty where whoever finds the origin may.
    """

    name: str
    settings: OriginRule
    access: Access
    mover: Mover
    user: str
    group: str = ""
    dataset_id: str = ""
    peer: str = ""
    reader: str = ""

    def flow(self, direction: Direction, service: str) -> Flow:
        """Whose bytes those are that go to or come from here."""
        return Flow(
            user=self.user,
            direction=direction,
            service=service,
            group=self.group,
            dataset_id=self.dataset_id,
            origin=self.name,
            peer=self.peer,
        )


class Origins:
    """The places that the settings allow, by whom, and how many may be there at a time."""

    def __init__(
        self,
        rules: Sequence[OriginRule],
        movers: Mapping[str, Mover],
        vault: Vault,
        *,
        reach: TaskReach,
    ) -> None:
        # The longest address first: a narrow rule counts before the wide one around it.
        self.rules = sorted(rules, key=lambda rule: len(rule.root.path.rstrip("/")), reverse=True)
        self.movers = movers
        self._vault = vault
        self._reach = reach
        self._turns = {rule.name: FairTurns(rule.connections) for rule in rules}

    async def find(self, location: Location, principal: Principal, *, writing: bool = False) -> Origin:
        """The origin of ``location``, once it is certain that the caller may use that there.

        Raises:
            NotAuthenticated: nobody may without a credential.
            AccessDenied: no setting allows it, or not for this caller.
            NotFoundError: it is an address that the caller's task does not name.
            LeaseLost: the task is over.
            InputError: nothing here speaks the protocol.
        """
        action = "proxy.write" if writing else "proxy.read"
        authorization.check(principal, action)
        reach = await self._check_task(principal, location, writing=writing)
        rule = self._rule(location)
        _check_use(rule, principal, reach, writing=writing)
        mover = self.movers.get(location.scheme)
        if mover is None:
            raise InputError(f"nothing here speaks {location.scheme}")
        return await self._found(rule, mover, principal, reach)

    async def close(self) -> None:
        """End connections that are kept."""
        self._reach.close()
        for mover in set(self.movers.values()):
            await mover.close()

    def turn(self, origin: Origin) -> AbstractAsyncContextManager[None]:
        """One of the connections to an origin; its users get them in turn."""
        return self._turns[origin.name].turn(origin.user)

    def may_see(self, rule: OriginRule, principal: Principal) -> bool:
        """Whether a caller may use an origin at all, for lists of them."""
        return principal.is_admin or not rule.groups or bool(rule.groups & principal.groups)

    def _rule(self, location: Location) -> OriginRule:
        for rule in self.rules:
            if location.is_below(rule.root):
                return rule
        # Of this machine's own files never all of them.
        folder = location.path.rpartition("/")[0] if location.scheme == "file" else ""
        place = Location(location.scheme, location.host, location.port, f"{folder}/")
        raise AccessDenied(
            f"no origin of this site holds {place}: an administrator may add "
            f'[files.origins.NAME] with url = "{place}" to the settings',
            setting="files.origins",
        )

    async def _check_task(self, principal: Principal, location: Location, *, writing: bool) -> Reach | None:
        if principal.kind is not PrincipalKind.TASK:
            return None
        reach = await self._reach.of(principal)
        if location not in (reach.outputs if writing else reach.inputs):
            raise NotFoundError("file of this task", location.shown)
        return reach

    async def _found(
        self, rule: OriginRule, mover: Mover, principal: Principal, reach: Reach | None
    ) -> Origin:
        user = principal.id if reach is None else reach.dataset.owner
        # A peer site has a name that a user may have, too; it is shown in with the site's own.
        is_peer = principal.kind is PrincipalKind.SITE
        credential, reader = await self._credential(rule, "" if is_peer else user)
        access = Access(
            policy=rule.policy,
            credential=credential,
            ca_path=rule.ca_path,
            connect_timeout_s=CONNECT_S,
            stall_timeout_s=STALL_S,
            root=rule.root.path,
            redirects=rule.redirects,
            options=rule.options,
        )
        return Origin(
            name=rule.name,
            settings=rule,
            access=access,
            mover=mover,
            user=user,
            group="" if reach is None else reach.dataset.group,
            dataset_id="" if reach is None else reach.dataset.dataset_id,
            peer=principal.id if is_peer else "",
            reader=reader,
        )

    async def _credential(self, rule: OriginRule, user: str) -> tuple[Credential | None, str]:
        """What to show, and who alone may see what that opens."""
        found = await self._vault.credential(rule.name, user)
        if found is None:
            return None, ""
        if user == "":
            return found, ""
        try:
            is_the_sites = found == await self._vault.credential(rule.name, "")
        except IceProdError:  # the site's own has ended, so this is the user's
            is_the_sites = False
        return found, "" if is_the_sites else user


def _check_use(rule: OriginRule, principal: Principal, reach: Reach | None, *, writing: bool) -> None:
    """Refuse who may not use an origin that there is.

    A task uses what those of its dataset's group may.
    """
    groups = principal.groups if reach is None else frozenset({reach.dataset.group})
    if rule.groups and not principal.is_admin and not rule.groups & groups:
        raise AccessDenied(
            f"origin {rule.name} is for other groups", setting=f"files.origins.{rule.name}.groups"
        )
    if writing and not rule.write:
        raise AccessDenied(
            f"nothing may be written to origin {rule.name}", setting=f"files.origins.{rule.name}.write"
        )
