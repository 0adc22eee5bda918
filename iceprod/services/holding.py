"""Whether a task that calls is still the one that it was when its token was made."""

from __future__ import annotations

from iceprod.errors import AccessDenied, LeaseLost
from iceprod.model.federation import site_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Task
from iceprod.services.recovering import NEVER, Recovering
from iceprod.store.base import Store


async def check_lease(store: Store, principal: Principal, *, recovering: Recovering = NEVER) -> None:
    """Refuse a task whose attempt is over; other callers have no lease to lose.

    Raises:
        AccessDenied, LeaseLost, Unavailable: as `held`.
    """
    if principal.kind is PrincipalKind.TASK:
        await held(store, principal, recovering=recovering)


async def held(store: Store, principal: Principal, *, recovering: Recovering = NEVER) -> Task:
    """The task that calls.

    Raises:
        AccessDenied: its token was made for a site, and another shows it.
        LeaseLost: the task is somebody else's by now, or was stopped.
        Unavailable: that is not known for sure yet.
    """
    task = await store.tasks.get(principal.id)
    if task is None or task.status is not TaskStatus.PROCESSING or task.lease_id != principal.lease_id:
        recovering.check()
        raise LeaseLost(f"task {principal.id} is no longer held by this lease", task_id=principal.id)
    if principal.shown_by not in (None, site_of(task.pilot_id)):
        raise AccessDenied(f"the token of task {principal.id} was made for somebody else")
    return task
