"""The methods by which IceProd 2.3 pilots run tasks; names and parameters are theirs.

Those pilots show no lease: the passkey names the pilot, and pilot and task name the lease
that it holds, or held last.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from iceprod.errors import LeaseLost, NotFoundError
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Offer, Resources, bounded
from iceprod.rpc.methods.pilots import claimed_resources
from iceprod.rpc.registry import Call, Registry
from iceprod.services.reporting import Report, StatsParameter

METHODS = Registry()

HOLD_S = 15.0
"""How long a claim may wait for work: those clients give up after 60 s and then start over."""
MAX_TASKS = 1000
_OVERUSE = re.compile(r"resource overusage for (\w+): *([0-9.eE+-]+)", re.IGNORECASE)
_EVICTED = re.compile(r"sigterm|pilot (?:was )?(?:killed|terminated|evicted)", re.IGNORECASE)

Number = int | float | None


@METHODS.method("new_task", action="new_task", legacy=True, cancellable=True)
async def new_task(
    call: Call,
    *,
    gridspec: str | None = None,
    hostname: str | None = None,
    domain: str | None = None,
    ifaces: Any = None,
    os: str | None = None,
    cpu: Number = 1,
    gpu: Number = 0,
    memory: Number = 1.0,
    disk: Number = 1.0,
    time: Number = 1.0,
) -> list[dict[str, Any]] | None:
    """Claim tasks until the offer is used up; complete configurations, or null if there is nothing."""
    del gridspec, ifaces  # the pilot's record has its grid; its network cards are nobody's business
    amounts = (bounded(amount or 0) for amount in (cpu, gpu, memory, disk, time))
    offer = Offer(Resources(*amounts), os=os or "")
    services = call.services
    await services.pilots.heard_of(call.principal, hostname=_host(hostname, domain), offer=offer)
    claims = await services.pilots.claim(call.principal, offer, max_tasks=MAX_TASKS, wait_s=HOLD_S)
    configs: list[dict[str, Any]] = await services.handout.legacy_configs(claims.tasks)
    left = [(one.task.task_id, one.task.lease_id) for one in claims.tasks[len(configs) :]]
    if left:
        await services.tasks.evict(left, "with it, the answer to its pilot would have been too long")
    return configs or None


@METHODS.method("set_processing", action="set_processing", legacy=True, errors=(NotFoundError, LeaseLost))
async def set_processing(call: Call, *, task_id: str) -> None:
    """The pilot has begun with a task."""
    await call.services.tasks.processing(call.principal, task_id, None)


@METHODS.method("finish_task", action="finish_task", legacy=True, errors=(NotFoundError, LeaseLost))
async def finish_task(call: Call, *, task_id: str, stats: dict[str, Any] | None = None) -> None:
    """A task is complete."""
    await call.services.pilots.finish(call.principal, task_id, None, _report(stats or {}))


@METHODS.method("task_error", action="task_error", legacy=True, errors=(NotFoundError, LeaseLost))
async def task_error(call: Call, *, task_id: str, error_info: dict[str, Any] | None = None) -> None:
    """An attempt failed, used too much, or was ended together with its pilot."""
    info = error_info or {}
    summary = str(info.get("error_summary") or "no reason given")[:65536]
    if _EVICTED.search(summary):
        await call.services.tasks.release(call.principal, task_id, None, summary)
        return
    failure, report = _failure(summary), _report(info)
    if failure.kind is FailureKind.OVERUSE:
        used = bounded(float(_OVERUSE.search(summary).group(2)))  # type: ignore[union-attr]
        usage = {**report.usage, failure.resource: max(used, report.usage.get(failure.resource, 0.0))}
        report = Report(report.hostname, report.walltime_s, usage, report.stats)
    await call.services.pilots.fail(call.principal, task_id, None, failure, report)


@METHODS.method("upload_logfile", action="upload_logfile", legacy=True, errors=(NotFoundError, LeaseLost))
async def upload_logfile(
    call: Call, *, task: str | None = None, name: str, data: str = "", task_id: str | None = None
) -> None:
    """Keep a log (base64 of zlib) of the attempt that the pilot runs or ran last."""
    identifier = task or task_id
    if not identifier:
        raise NotFoundError("task", "")
    await call.services.logs.put(call.principal, identifier, None, name=name, data=data)


@METHODS.method("stillrunning", action="stillrunning", legacy=True, idempotent=True)
async def stillrunning(call: Call, *, task_id: str) -> bool:
    """Whether the pilot's attempt of the task should go on; asking renews its lease."""
    services = call.services
    if not await services.tasks.is_wanted(call.principal, task_id):
        return False
    if call.principal.kind is PrincipalKind.PILOT:
        held = await services.pilots.held(call.principal)
        leases = [(task.task_id, task.lease_id) for task in held if task.task_id == task_id]
        await services.pilots.heartbeat(call.principal, leases)
    return True


@METHODS.method("update_pilot", action="update_pilot", legacy=True, idempotent=True)
async def update_pilot(
    call: Call,
    *,
    pilot_id: str = "",
    tasks: Annotated[list[str], msgspec.Meta(max_length=10_000)] | str | None = None,
    resources_available: dict[str, float] | None = None,
    resources_claimed: dict[str, float] | None = None,
) -> None:
    """The pilot lives; the leases of the tasks that it names are renewed."""
    del pilot_id, resources_available  # the passkey names the pilot, and what is left follows
    names = tasks.split(",") if isinstance(tasks, str) else tasks or []
    wanted = {name.strip() for name in names}
    held = await call.services.pilots.held(call.principal)
    leases = [(task.task_id, task.lease_id) for task in held if task.task_id in wanted]
    claimed = claimed_resources(resources_claimed)
    await call.services.pilots.heartbeat(call.principal, leases, claimed=claimed)


def _host(hostname: str | None, domain: str | None) -> str:
    """The full host name: those pilots send the whole name, or its parts."""
    host = hostname or ""
    return f"{host}.{domain}" if domain and host and not host.endswith(domain) else host


def _failure(summary: str) -> Failure:
    overuse = _OVERUSE.search(summary)
    if overuse is not None and _is_number(overuse.group(2)):
        return Failure(FailureKind.OVERUSE, summary, resource=overuse.group(1).lower())
    return Failure(FailureKind.EXIT, summary)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _report(info: dict[str, Any]) -> Report:
    """What an attempt used, from a report whose fields may be missing, null or of another type."""
    resources = info.get("resources")
    usage = {
        str(name): float(bounded(value))
        for name, value in (resources if isinstance(resources, dict) else {}).items()
        if isinstance(value, int | float)
    }
    time_used = info.get("time_used")
    stats = info.get("task_stats")
    return StatsParameter(
        hostname=_host(str(info.get("hostname") or ""), str(info.get("domain") or ""))[:253],
        time_used=float(bounded(time_used)) if isinstance(time_used, int | float) else 0.0,
        resources=usage,
        task_stats=stats if isinstance(stats, dict) else {},
    ).to_report()
