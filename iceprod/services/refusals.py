"""What was refused to other sites, and to those who would be one: for the audit trail.

Whoever is refused may ask again at once, so what is the same is counted for a minute and
written down once.  And whoever wants to can make every certificate another one: of those only
a few of each address are told apart, and only so many of all addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.store.base import AuditEntry, AuditRepository

Refused = TypeVar("Refused")

_MOST: Final = 1000
"""Different calls that are kept between two times; of more it is only told how many they were."""
_MOST_CERTIFICATES: Final = 100
"""As many different certificates, of all addresses."""
_MOST_OF_ADDRESS: Final = 10
_LONGEST: Final = 300
_MORE: Final = "more than can be told"


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """An action that somebody was refused; ``who`` as far as that is known."""

    who: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefusedCertificate:
    """A certificate that was refused before anybody asked for anything.

    ``reason`` is OpenSSL's, ``address`` the client's.  The rest is what the certificate says of
    itself, which nobody has vouched for; empty where that is not known.
    """

    address: str
    reason: str
    subject: str = ""
    issuer: str = ""
    serial: str = ""
    fingerprint: str = ""


class Refusals:
    """Counts refusals until they are saved."""

    def __init__(self, audit: AuditRepository, *, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._calls: Counter[RefusedCall] = Counter()
        self._certificates: Counter[RefusedCertificate] = Counter()
        self._of_address: Counter[str] = Counter()

    def note(self, who: str, action: str, reason: str) -> None:
        """Somebody was refused an action; ``who`` as far as that is known."""
        key = RefusedCall(who[:_LONGEST], action, reason[:_LONGEST])
        if key not in self._calls and len(self._calls) >= _MOST:
            key = RefusedCall("", "", _MORE)
        self._calls[key] += 1

    def note_call(self, principal: Principal, action: str, error: IceProdError) -> None:
        """A call was refused: kept if a site made it, or whoever wanted to be taken for one."""
        if principal.kind is PrincipalKind.SITE or principal.certificate or action.startswith("site."):
            self.note(principal.id or principal.certificate, action, error.message)
        elif principal.shown_by:
            self.note(principal.shown_by, action, error.message)

    def note_token(self, error: IceProdError) -> None:
        """The token of a site was shown that is none, or no longer."""
        self.note("", "site.token", error.message)

    def note_certificate(self, refused: RefusedCertificate) -> None:
        """A client has shown a certificate that is forged, expired, revoked or of a stranger."""
        key = replace(
            refused,
            reason=refused.reason[:_LONGEST],
            subject=refused.subject[:_LONGEST],
            issuer=refused.issuer[:_LONGEST],
            serial=refused.serial[:_LONGEST],
        )
        if key not in self._certificates:
            key = self._told_apart(key)
        self._certificates[key] += 1

    def _told_apart(self, refused: RefusedCertificate) -> RefusedCertificate:
        """A new one, or that of all for which there is no place."""
        if len(self._certificates) >= _MOST_CERTIFICATES:
            return RefusedCertificate("", _MORE)
        if self._of_address[refused.address] >= _MOST_OF_ADDRESS:
            return RefusedCertificate(refused.address, _MORE)
        self._of_address[refused.address] += 1
        return refused

    async def save(self) -> int:
        """Write down what was noted, and how often it was; how many entries that were.  A duty."""
        written = await self._save(self._calls, self._of_call)
        written += await self._save(self._certificates, self._of_certificate)
        self._of_address.clear()
        return written

    async def _save(self, counts: Counter[Refused], entry_of: Callable[[Refused, int], AuditEntry]) -> int:
        written = 0
        while counts:
            key = next(iter(counts))
            times = counts.pop(key)
            try:
                await self._audit.add(entry_of(key, times))
            except BaseException:
                counts[key] += times
                raise
            written += 1
        return written

    def _of_call(self, refused: RefusedCall, times: int) -> AuditEntry:
        detail = {"action": refused.action, "reason": refused.reason, "times": times}
        return AuditEntry(self._clock(), refused.who, "site.refused", refused.who, detail)

    def _of_certificate(self, refused: RefusedCertificate, times: int) -> AuditEntry:
        """An entry about whom the certificate names; by whom it was shown nobody knows."""
        told: dict[str, Any] = {
            "address": refused.address,
            "reason": refused.reason,
            "issuer": refused.issuer,
            "serial": refused.serial,
            "fingerprint": refused.fingerprint,
        }
        detail = {name: text for name, text in told.items() if text} | {"times": times}
        return AuditEntry(self._clock(), "", "certificate.refused", refused.subject, detail)
