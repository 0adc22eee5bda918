"""All that one process knows of other sites, as handlers and RPC methods are given it."""

from __future__ import annotations

from dataclasses import dataclass

from iceprod.services.refusals import Refusals
from iceprod.site_sync.as_child.errands import Errands
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.as_child.parents import Parents
from iceprod.site_sync.as_child.renewal import Renewal
from iceprod.site_sync.as_child.returning import Returning
from iceprod.site_sync.as_child.tidying import Tidying
from iceprod.site_sync.as_parent.adoption import Adoption
from iceprod.site_sync.as_parent.enrolment import Enrolment
from iceprod.site_sync.as_parent.inbox import Inbox
from iceprod.site_sync.as_parent.lending import Lending
from iceprod.site_sync.as_parent.recovery import Recovery
from iceprod.site_sync.files.service import SiteFiles
from iceprod.site_sync.registry import Registry


@dataclass(frozen=True, slots=True)
class Federation:
    """Who the other sites are, and what is shared with them.

    As a parent: the ``registry`` of sites, the ``enrolment`` of new ones, ``lending`` and the
    ``inbox`` of what becomes of what was lent; after a restoration the ``recovery``, with the
    ``adoption`` of what this site does not remember.  As a child:
    ``errands`` and the ``outbox`` of what is told about them, their ``files``, ``returning`` what
    waits for too long, the ``parents``, and the ``renewal`` of certificates.
    """

    refusals: Refusals
    registry: Registry
    enrolment: Enrolment
    lending: Lending
    recovery: Recovery
    adoption: Adoption
    inbox: Inbox
    renewal: Renewal
    errands: Errands
    outbox: Outbox
    files: SiteFiles
    returning: Returning
    tidying: Tidying
    parents: Parents
