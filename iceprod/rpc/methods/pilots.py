"""Methods that pilots call, and those about pilots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from iceprod.errors import LeaseLost, NotFoundError
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.pilot import PilotStatus
from iceprod.model.resources import Resources, bounded
from iceprod.rpc.methods.datasets import Limit
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView, OfferParameter, PilotView, listed, pilot_view
from iceprod.services.handout import Credentials, HandedOut
from iceprod.services.reporting import ErrorParameter, Name, StatsParameter, Text

METHODS = Registry()

WaitSeconds = Annotated[float, msgspec.Meta(ge=0, le=60)]
TaskCount = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Leases = Annotated[list[str], msgspec.Meta(max_length=10_000)]


@dataclass(frozen=True, slots=True)
class Registered:
    """The pilot's id, and how often it should report."""

    pilot_id: str
    heartbeat_s: float


class ClaimView(msgspec.Struct, frozen=True, gc=False):
    """Tasks to run; with none, how many seconds to wait before the next claim, or to ask no more."""

    tasks: list[HandedOut]
    retry_after_s: float
    drain: bool


@dataclass(frozen=True, slots=True)
class ConfigView:
    """A configuration, and the addresses of the temp areas, with ``{job}`` in that of a job.

    Files below the addresses ``relayed`` are fetched and stored through the site.
    """

    config: dict[str, Any]
    urls: dict[str, str]
    relayed: list[str]


@dataclass(frozen=True, slots=True)
class HeldParameter:
    """A task that the pilot runs."""

    task_id: str
    lease_id: str
    usage: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PulseView:
    """Tasks that the pilot must drop, those that it must stop, and whether it gets no more."""

    lost: list[str]
    stop: list[str]
    drain: bool


@dataclass(frozen=True, slots=True)
class FailedView:
    """What became of the task, and when it is tried again."""

    status: TaskStatus
    retry_at: float | None


@METHODS.method("pilot.register", action="pilot.register", idempotent=True)
async def pilot_register(
    call: Call,
    *,
    hostname: Name,
    version: Name,
    offer: OfferParameter,
    grid: Name = "",
    domain: Name = "",
) -> Registered:
    """A pilot says hello, or hello again, with all that it has to offer."""
    pilots = call.services.pilots
    host = f"{hostname}.{domain}" if domain else hostname
    pilot = await pilots.register(
        call.principal, hostname=host, version=version, grid=grid, offer=offer.to_model()
    )
    return Registered(pilot.pilot_id, pilots.limits.heartbeat_s)


@METHODS.method("pilot.claim", action="pilot.claim", cancellable=True)
async def pilot_claim(
    call: Call,
    *,
    offer: OfferParameter,
    max_tasks: TaskCount = 1,
    wait_s: WaitSeconds = 0.0,
    held: Leases | None = None,
) -> ClaimView:
    """Claim tasks that fit ``offer``, waiting up to ``wait_s`` for some to become ready.

    ``held`` are all leases that the pilot knows of; a task that it holds without knowing is
    handed out again.
    """
    services = call.services
    claims = await services.pilots.claim(
        call.principal, offer.to_model(), max_tasks=max_tasks, wait_s=wait_s, held=held
    )
    return ClaimView(await services.handout.tasks(claims.tasks), claims.retry_after_s, claims.drain)


@METHODS.method("pilot.config", action="pilot.config", errors=(NotFoundError,), idempotent=True)
async def pilot_config(call: Call, *, dataset_id: str, version: int) -> ConfigView:
    """The configuration that a claimed task runs by."""
    config = await call.services.pilots.config(call.principal, dataset_id, version)
    handout = call.services.handout
    return ConfigView(config, handout.area_urls(dataset_id), list(handout.relayed))


@METHODS.method(
    "pilot.processing", action="pilot.processing", errors=(NotFoundError, LeaseLost), idempotent=True
)
async def pilot_processing(call: Call, *, task_id: str, lease_id: str) -> None:
    """The pilot has begun with a task."""
    await call.services.tasks.processing(call.principal, task_id, lease_id)


@METHODS.method("pilot.heartbeat", action="pilot.heartbeat", idempotent=True)
async def pilot_heartbeat(
    call: Call,
    *,
    tasks: Annotated[list[HeldParameter], msgspec.Meta(max_length=10_000)],
    resources_available: dict[str, float] | None = None,
    resources_claimed: dict[str, float] | None = None,
) -> PulseView:
    """The pilot lives: renew the leases of its tasks, and tell which are its own no longer."""
    leases = [(held.task_id, held.lease_id) for held in tasks]
    claimed = claimed_resources(resources_claimed)
    pulse = await call.services.pilots.heartbeat(call.principal, leases, claimed=claimed)
    return PulseView(list(pulse.lost), [], pulse.drain)


@METHODS.method("pilot.finish", action="pilot.finish", errors=(NotFoundError, LeaseLost), idempotent=True)
async def pilot_finish(
    call: Call, *, task_id: str, lease_id: str, stats: StatsParameter | None = None
) -> None:
    """A task is complete; saying so again changes nothing."""
    report = (stats or StatsParameter()).to_report()
    await call.services.pilots.finish(call.principal, task_id, lease_id, report)


@METHODS.method("pilot.fail", action="pilot.fail", errors=(NotFoundError, LeaseLost), idempotent=True)
async def pilot_fail(call: Call, *, task_id: str, lease_id: str, error: ErrorParameter) -> FailedView:
    """An attempt failed; the rules for its class of failure say what becomes of the task."""
    task, retry_at = await call.services.pilots.fail(
        call.principal, task_id, lease_id, error.to_failure(), error.to_report()
    )
    return FailedView(task.status, retry_at)


@METHODS.method("pilot.release", action="pilot.release", errors=(NotFoundError, LeaseLost), idempotent=True)
async def pilot_release(call: Call, *, task_id: str, lease_id: str, reason: Text = "") -> None:
    """Hand a task back unfinished; that counts as an eviction, not as a failure."""
    await call.services.tasks.release(call.principal, task_id, lease_id, reason)


@METHODS.method("pilot.log", action="pilot.log", errors=(NotFoundError, LeaseLost), idempotent=True)
async def pilot_log(call: Call, *, task_id: str, lease_id: str, name: str, data: str) -> None:
    """Keep a log (base64 of zlib), in place of what the attempt had sent under that name."""
    await call.services.logs.put(call.principal, task_id, lease_id, name=name, data=data)


@METHODS.method("pilot.bye", action="pilot.bye", idempotent=True)
async def pilot_bye(call: Call) -> None:
    """The pilot ends; what it still holds goes to others."""
    await call.services.pilots.bye(call.principal)


@METHODS.method("pilot.list", action="pilot.list", idempotent=True)
async def pilot_list(
    call: Call,
    *,
    status: PilotStatus | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[PilotView]:
    """Pilots, newest first; those that have ended only if asked for."""
    alive = frozenset(PilotStatus) - {PilotStatus.ENDED}
    statuses = frozenset({status}) if status else alive
    found = await call.services.pilots.select(call.principal, statuses, Page(limit, cursor))
    return listed(found, pilot_view)


@METHODS.method("pilot.get", action="pilot.get", errors=(NotFoundError,), idempotent=True)
async def pilot_get(call: Call, *, pilot_id: str) -> PilotView:
    """One pilot."""
    return pilot_view(await call.services.pilots.get(call.principal, pilot_id))


@METHODS.method("pilot.end", action="pilot.end", errors=(NotFoundError,), idempotent=True)
async def pilot_end(call: Call, *, pilot_id: str) -> None:
    """Have a pilot finish what it runs and go."""
    await call.services.pilots.end(call.principal, pilot_id)


@METHODS.method("pilot.credentials", action="pilot.credentials")
async def pilot_credentials(
    call: Call, *, grid: Name, resources: OfferParameter | None = None
) -> Credentials:
    """An identity for a pilot that is started by hand: its id, passkey, and configuration file."""
    offer = (resources or OfferParameter()).to_model()
    credentials: Credentials = await call.services.handout.credentials(call.principal, grid=grid, offer=offer)
    return credentials


def claimed_resources(given: dict[str, float] | None) -> Resources | None:
    """Resources as pilots report them, where hours are called ``time``."""
    if given is None:
        return None
    names = ("cpu", "gpu", "memory", "disk", "time")
    return Resources(*(bounded(given.get(name, 0)) for name in names))
