"""Which task goes to which pilot, and when."""

from iceprod.services.scheduling.near import NOWHERE, Near
from iceprod.services.scheduling.order import ClassOrder, FairShare
from iceprod.services.scheduling.ready import ReadyIndex
from iceprod.services.scheduling.scheduler import Claimed, Demand, Room, Scheduler
from iceprod.services.scheduling.transitions import Transitions
from iceprod.services.scheduling.waiting import Waiters

__all__ = [
    "NOWHERE",
    "Claimed",
    "ClassOrder",
    "Demand",
    "FairShare",
    "Near",
    "ReadyIndex",
    "Room",
    "Scheduler",
    "Transitions",
    "Waiters",
]
