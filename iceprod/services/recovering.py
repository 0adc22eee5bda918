"""Whether this site has to hear first what its children hold, since it was restored from a backup.

What was lent, and what has ended, after the backup was made is known to the children alone.
Until they have said so, nothing that waits is given to anybody: a child may have done it.
Who finds out when that is over: `iceprod.site_sync.as_parent.recovery`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from iceprod.errors import Unavailable

_AGAIN_S: Final = 2.0


@dataclass(slots=True)
class Recovering:
    """How that stands, as every service of one process sees it.

    ``waits_for`` are the sites that have not said yet what they hold.
    """

    is_on: bool = False
    waits_for: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is waited for, in words."""
        names, it = ", ".join(self.waits_for), "it holds" if len(self.waits_for) == 1 else "they hold"
        return f"the site was restored and waits for {names} to say what {it}"

    def check(self) -> None:
        """Do not tell anybody that a lease is over while it may only be unknown.

        Raises:
            Unavailable: it may.
        """
        if self.is_on:
            raise Unavailable(self.sentence, retry_after_s=_AGAIN_S)


NEVER: Final = Recovering()
"""Of a site that has no children."""
