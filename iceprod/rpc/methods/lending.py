"""Methods that children call at their parent, about the tasks that they are lent."""

from __future__ import annotations

from iceprod.errors import AccessDenied, ConflictError, NotFoundError
from iceprod.rpc.registry import Call, Registry
from iceprod.site_sync.messages import (
    About,
    Heard,
    Listen,
    Pull,
    Pulled,
    Reclaim,
    Reclaimed,
    Renew,
    Renewed,
    Report,
    Reported,
    Told,
)

METHODS = Registry()


@METHODS.method(
    "site.pull",
    action="site.pull",
    errors=(
        AccessDenied,
        ConflictError,
    ),
    cancellable=True,
)
async def site_pull(call: Call, *, message: Pull) -> Pulled:
    """Lend the calling site tasks that it has room for, waiting for some to come up."""
    answer: Pulled = await call.services.federation.lending.pull(call.principal, message)
    return answer


@METHODS.method(
    "site.renew",
    action="site.renew",
    errors=(
        AccessDenied,
        ConflictError,
    ),
    idempotent=True,
)
async def site_renew(call: Call, *, message: Renew) -> Renewed:
    """Extend leases of the calling site, and tell which are its own no longer."""
    answer: Renewed = await call.services.federation.lending.renew(call.principal, message)
    return answer


@METHODS.method(
    "site.listen",
    action="site.listen",
    errors=(
        AccessDenied,
        ConflictError,
    ),
    cancellable=True,
)
async def site_listen(call: Call, *, message: Listen) -> Heard:
    """Wait until something concerns the tasks that the calling site holds."""
    answer: Heard = await call.services.federation.lending.listen(call.principal, message)
    return answer


@METHODS.method(
    "site.dataset",
    action="site.dataset",
    errors=(AccessDenied, ConflictError, NotFoundError),
    idempotent=True,
)
async def site_dataset(call: Call, *, message: About) -> Told:
    """A dataset of which the calling site holds tasks, or may be lent some; with a configuration if asked."""
    answer: Told = await call.services.federation.lending.about(call.principal, message)
    return answer


@METHODS.method(
    "site.report",
    action="site.report",
    errors=(
        AccessDenied,
        ConflictError,
    ),
    idempotent=True,
)
async def site_report(call: Call, *, message: Report) -> Reported:
    """Take in what the calling site has to say of its tasks; what can't be applied is told one by one."""
    answer: Reported = await call.services.federation.inbox.report(call.principal, message)
    return answer


@METHODS.method("site.reclaim", action="site.reclaim", errors=(AccessDenied, ConflictError), idempotent=True)
async def site_reclaim(call: Call, *, message: Reclaim) -> Reclaimed:
    """Tell which leases the calling site holds, after a restoration by its own word."""
    answer: Reclaimed = await call.services.federation.adoption.reclaim(call.principal, message)
    return answer
