"""Who may do what: the one table for RPC methods, pages, files and the rest.

A row is an action, a column a kind of caller, a cell how far that caller's right reaches:

====== ==========================================================================
``-``  not at all
own    objects that are the caller's: a user's datasets and tokens, the tasks that a
       pilot or a site holds, the one task (with its job and dataset) that a task token is for
seen   also what a user may see: datasets of the user's groups and public ones
any    every object
====== ==========================================================================

An action that has no row is allowed to nobody.  Methods that IceProd 2.3 called by other
names are in `LEGACY_ACTIONS`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from iceprod.errors import AccessDenied, NotAuthenticated, NotFoundError
from iceprod.model.federation import site_of
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_task_id


class Scope(StrEnum):
    """How far a right reaches."""

    NONE = "-"
    OWN = "own"
    SEEN = "seen"
    ANY = "any"


_COLUMNS: Final = (
    PrincipalKind.ANONYMOUS,
    PrincipalKind.USER,
    PrincipalKind.TASK,
    PrincipalKind.PILOT,
    PrincipalKind.SITE,
    PrincipalKind.ADMIN,
)

_TABLE: Final = """
    action                  anonymous  user  task  pilot  site  admin
    rpc.echo                -          any   any   any    any   any
    rpc.discover            any        any   any   any    any   any
    report.read             any        any   any   any    any   any
    site.health             any        any   any   any    any   any
    site.metrics            any        any   -     any    any   any
    site.status             -          any   -     -      -     any

    site.authority          any        any   any   any    any   any
    site.join               any        -     -     -      own   -
    site.hello              -          -     -     -      own   -
    site.renew_certificate  -          -     -     -      own   -
    site.leave              -          -     -     -      own   -
    site.pull               -          -     -     -      own   -
    site.renew              -          -     -     -      own   -
    site.listen             -          -     -     -      own   -
    site.dataset            -          -     -     -      own   -
    site.report             -          -     -     -      own   -
    site.reclaim            -          -     -     -      own   -
    site.list               -          any   -     -      -     any
    site.get                -          any   -     -      -     any
    site.invite             -          -     -     -      -     any
    site.pause              -          -     -     -      -     any
    site.resume             -          -     -     -      -     any
    site.set                -          -     -     -      -     any
    site.revoke             -          -     -     -      -     any
    site.dead_letters       -          -     -     -      -     any
    site.retry              -          -     -     -      -     any
    site.discard            -          -     -     -      -     any

    dataset.submit          -          any   -     -      -     any
    dataset.list            -          seen  -     -      -     any
    dataset.get             -          seen  -     -      -     any
    dataset.config          -          seen  -     -      -     any
    dataset.progress        -          seen  -     -      -     any
    dataset.why             -          seen  -     -      -     any
    dataset.where           -          seen  -     -      -     any
    dataset.events          -          seen  -     -      -     any
    dataset.update_config   -          own   -     -      -     any
    dataset.suspend         -          own   -     -      -     any
    dataset.resume          -          own   -     -      -     any
    dataset.reset           -          own   -     -      -     any
    dataset.hard_reset      -          own   -     -      -     any
    dataset.truncate        -          own   -     -      -     any
    dataset.extend          -          own   -     -      -     any
    dataset.priority        -          own   -     -      -     any
    dataset.sites           -          own   -     -      -     any

    job.list                -          seen  -     -      -     any
    job.get                 -          seen  -     -      -     any
    job.suspend             -          own   -     -      -     any
    job.resume              -          own   -     -      -     any
    job.reset               -          own   -     -      -     any
    job.hard_reset          -          own   -     -      -     any

    task.list               -          seen  -     -      -     any
    task.get                -          seen  own   -      -     any
    task.why                -          seen  -     -      -     any
    task.logs               -          seen  own   -      -     any
    task.log                -          seen  own   -      -     any
    task.suspend            -          own   -     -      -     any
    task.resume             -          own   -     -      -     any
    task.reset              -          own   -     -      -     any
    task.hard_reset         -          own   -     -      -     any

    pilot.register          -          -     -     own    -     -
    pilot.claim             -          -     -     own    -     -
    pilot.config            -          -     own   any    -     -
    pilot.processing        -          -     own   own    -     -
    pilot.heartbeat         -          -     -     own    -     -
    pilot.running           -          -     own   own    -     -
    pilot.finish            -          -     own   own    -     -
    pilot.fail              -          -     own   own    -     -
    pilot.release           -          -     own   own    -     -
    pilot.log               -          -     own   own    -     -
    pilot.bye               -          -     -     own    -     -
    pilot.list              -          any   -     -      -     any
    pilot.get               -          any   -     own    -     any
    pilot.end               -          -     -     -      -     any
    pilot.credentials       -          -     -     -      -     any

    file.read               -          own   own   -      -     any
    file.write              -          -     own   -      -     any
    file.delete             -          -     own   -      -     any
    file.read_shared        -          any   any   -      -     any
    file.write_shared       -          -     any   -      -     any
    file.delete_shared      -          -     -     -      -     any
    file.find               -          seen  own   -      -     any
    file.get                -          seen  own   -      -     any
    file.replicas           -          seen  own   -      -     any
    file.register           -          own   own   -      -     any
    file.add_replica        -          own   own   -      -     any
    file.drop_replica       -          own   -     -      -     any
    file.forget             -          own   -     -      -     any
    file.delete_any         -          -     any   -      -     any
    proxy.read              -          any   own   -      any   any
    proxy.write             -          any   own   -      -     any
    origin.list             -          any   -     -      any   any
    origin.stat             -          any   own   -      any   any
    origin.entries          -          any   -     -      any   any
    origin.delete           -          any   -     -      -     any
    origin.copy             -          any   -     -      -     any
    cache.list              -          -     -     -      -     any
    cache.pin               -          -     -     -      -     any
    cache.evict             -          -     -     -      -     any

    transfer.list           -          own   own   -      -     any
    transfer.get            -          own   own   -      -     any
    quota.get               -          own   -     -      -     any
    quota.list              -          own   -     -      -     any
    quota.set               -          -     -     -      -     any
    credential.list         -          own   -     -      -     any
    credential.put          -          own   -     -      -     any
    credential.delete       -          own   -     -      -     any
    usage.list              -          own   -     -      -     any
    temp.clean              -          -     -     -      -     any

    upload.about            any        any   any   any    any   any
    upload.send             any        any   any   any    any   any
    upload.create           -          any   any   -      any   any
    upload.read             -          own   own   -      own   any
    upload.write            -          own   own   -      own   any
    upload.cancel           -          own   own   -      own   any

    session.begin           any        any   any   any    any   any
    session.end             -          any   -     -      -     any
    token.list              -          own   -     -      -     any
    token.create            -          own   -     -      -     any
    token.revoke            -          own   -     -      -     any
    certificate.list        -          own   -     -      -     any
    certificate.add         -          -     -     -      -     any
    certificate.revoke      -          own   -     -      -     any
    certificate.refused     any        any   any   any    any   any
    audit.list              -          -     -     -      -     any
    user.list               -          -     -     -      -     any
    user.create             -          -     -     -      -     any
    user.disable            -          -     -     -      -     any
    user.password           -          own   -     -      -     any
"""

LEGACY_ACTIONS: Final = {
    "echo": "rpc.echo",
    "new_task": "pilot.claim",
    "set_processing": "pilot.processing",
    "finish_task": "pilot.finish",
    "task_error": "pilot.fail",
    "upload_logfile": "pilot.log",
    "stillrunning": "pilot.running",
    "update_pilot": "pilot.heartbeat",
    "submit_dataset": "dataset.submit",
    "update_dataset_config": "dataset.update_config",
    "reset_task": "task.reset",
    "resume_task": "task.resume",
    "suspend_task": "task.suspend",
    "reset_jobs": "job.reset",
    "hard_reset_jobs": "job.hard_reset",
    "suspend_jobs": "job.suspend",
    "reset_dataset": "dataset.reset",
    "hard_reset_dataset": "dataset.hard_reset",
    "suspend_dataset": "dataset.suspend",
    "truncate_dataset": "dataset.truncate",
    "public_get_graphs": "report.read",
    "public_get_number_of_tasks_in_each_state": "report.read",
    "public_get_datasets_by_status": "report.read",
    "public_get_config": "report.read",
    "public_get_all_config": "report.read",
    "public_get_task_stats": "report.read",
    "public_get_task_ids": "report.read",
    "public_get_dataset_description": "report.read",
    "public_get_dataset_steering": "report.read",
    "public_get_task_walltime": "report.read",
    "public_get_tasks_by_name": "report.read",
    "public_get_tasks_by_requirements": "report.read",
    "public_get_dataset_completion": "report.read",
    "public_get_all_dataset_completion": "report.read",
    "public_get_site_id": "report.read",
    "public_get_cpu_gpu_usage": "report.read",
}
"""Method of IceProd 2.3 → action."""


def _read_table(text: str) -> dict[str, dict[PrincipalKind, Scope]]:
    _header, *rows = (line.split() for line in text.splitlines() if line.strip())
    return {action: dict(zip(_COLUMNS, map(Scope, cells), strict=True)) for action, *cells in rows}


TABLE: Final = _read_table(_TABLE)
"""Action → kind of caller → scope."""

_BY_CALLER: Final = {
    (kind, name): TABLE[action][kind]
    for name, action in {**{action: action for action in TABLE}, **LEGACY_ACTIONS}.items()
    for kind in _COLUMNS
    if TABLE[action][kind] is not Scope.NONE
}


def action_of(method: str) -> str:
    """The action that an RPC method carries out."""
    return LEGACY_ACTIONS.get(method, method)


def scope_of(principal: Principal, action: str) -> Scope:
    """How far ``principal``'s right to ``action`` (or to a method of that name) reaches."""
    return _BY_CALLER.get((principal.kind, action), Scope.NONE)


def check(principal: Principal, action: str) -> Scope:
    """Refuse a caller whose kind may never do this; how far it may, otherwise.

    Raises:
        NotAuthenticated: nobody may without a credential.
        AccessDenied: this caller may not.
    """
    scope = _BY_CALLER.get((principal.kind, action))
    if scope is not None:
        return scope
    if principal.kind is PrincipalKind.ANONYMOUS:
        if principal.certificate:
            raise NotAuthenticated(f"nobody here has the certificate of {principal.certificate}")
        raise NotAuthenticated("this needs a credential: sign in or send a token")
    raise AccessDenied(f"a caller of kind {principal.kind} may not do {action}", action=action)


def check_object(
    principal: Principal,
    action: str,
    *,
    kind: str = "dataset",
    identifier: str = "",
    owner: str = "",
    group: str = "",
    public: bool = False,
    pilot_id: str = "",
    task_id: str = "",
) -> None:
    """Refuse a caller who may not do ``action`` to one object.

    Given is what the object is (``kind``, ``identifier``), for datasets and what belongs to
    them the dataset's owner, group and whether it is public, and for a task its id and the
    pilot or site that holds it.  What the caller may not even see looks as if it were absent.

    Raises:
        NotAuthenticated: as `check`.
        NotFoundError: the caller may not know that there is such an object.
        AccessDenied: the caller may see it, but not do this to it.
    """
    scope = check(principal, action)
    if scope is Scope.ANY or _is_own(principal, owner=owner, pilot_id=pilot_id, task_id=task_id):
        return
    visible = _is_visible(principal, group=group, public=public)
    if scope is Scope.SEEN and visible:
        return
    if visible:
        raise AccessDenied(f"only the owner may do {action} to this {kind}", action=action)
    raise NotFoundError(kind, identifier or task_id)


def _is_own(principal: Principal, *, owner: str, pilot_id: str, task_id: str) -> bool:
    if principal.kind is PrincipalKind.USER:
        return principal.id == owner
    if principal.kind is PrincipalKind.TASK:
        # What a site runs, it reports by itself: its tokens are for files.
        return principal.id == task_id and not site_of(pilot_id)
    return bool(pilot_id) and principal.holder == pilot_id


def _is_visible(principal: Principal, *, group: str, public: bool) -> bool:
    return principal.kind is PrincipalKind.USER and (public or group in principal.groups)


def is_allowed(
    principal: Principal, action: str, *, owner: str, group: str = "", public: bool = False
) -> bool:
    """Whether `check_object` would pass: for pages that offer only what can be done."""
    try:
        check_object(principal, action, owner=owner, group=group, public=public)
    except (AccessDenied, NotFoundError, NotAuthenticated):
        return False
    return True


def visible_to(principal: Principal, action: str = "dataset.list") -> tuple[str, frozenset[str]] | None:
    """What a list must be narrowed to (`DatasetFilter.visible_to`); None for everything.

    Raises:
        NotAuthenticated, AccessDenied: as `check`.
    """
    scope = check(principal, action)
    return None if scope is Scope.ANY else (principal.id, principal.groups)


def check_area(
    principal: Principal, action: str, *, dataset_id: str, job_index: int | None, owner: str
) -> None:
    """Refuse a caller who may not do ``action`` to files of a dataset or of one job of it.

    A task reaches the files of its own job and of its dataset.  Whether its lease is still
    the current one is for the caller of this to ask.

    Raises:
        NotAuthenticated: as `check`.
        NotFoundError: the files are none of the caller's.
    """
    scope = check(principal, action)
    if scope is Scope.ANY:
        return
    if principal.kind is PrincipalKind.TASK:
        own_dataset, own_job, _ = parse_task_id(principal.id)
        allowed = dataset_id == own_dataset and job_index in (None, own_job)
    else:
        allowed = principal.kind is PrincipalKind.USER and principal.id == owner
    if not allowed:
        raise NotFoundError("file area", dataset_id if job_index is None else f"{dataset_id}/{job_index}")
