"""How this site vouches for those that join it, and how they know this site.

Everything here waits for files, so it is called in a thread.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, NotFoundError
from iceprod.services.ca import CertificateUse, SiteCA
from iceprod.services.peer_keys import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The site's own authority in ``folder``, and whoever vouches for the site's own certificate.

    That is ``server_ca`` (PEM), or the authority itself.  Certificates last ``days``.  ``name``
    is the site's own, and that of an authority that has to be made.
    """

    name: str
    folder: Path
    server_ca: Path | None
    days: float
    clock: Clock

    def fingerprint(self) -> str:
        """That of `trusted`; the authority is made if there is none."""
        with suppress(AlreadyExists):
            SiteCA.create(self.folder, name=self.name[:60], clock=self.clock)
        return fingerprint(self.trusted())

    def trusted(self) -> str:
        """The certificates (PEM) that vouch for this site's own.

        Raises:
            NotFoundError: there are none.
        """
        path = self.server_ca.expanduser() if self.server_ca else SiteCA.open(self.folder).certificate
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise NotFoundError("certificate authority", str(path)) from None

    def certify(self, name: str, csr: str, *, again: bool) -> str:
        """A certificate (PEM) for a site.

        Its subject is one that no other site ever had, or ``again`` that of the one before: so
        a certificate that was revoked does not come to life when its name joins anew.

        Raises:
            InputError: the request will not do.
            NotFoundError: there is no authority, or the site has no certificate of it.
        """
        ca = SiteCA.open(self.folder, clock=self.clock)
        mark = self._mark(ca, name) if again else secrets.token_hex(8)
        return ca.sign(csr, name, CertificateUse.SITE, days=self.days, mark=mark).pem

    def _mark(self, ca: SiteCA, name: str) -> str:
        now = self.clock()
        for one in reversed(ca.issued()):
            is_good = one.revoked_at is None and one.expires_at > now
            if is_good and one.mark and (one.name, one.use) == (name, CertificateUse.SITE):
                return one.mark
        raise NotFoundError("certificate of site", name)

    def revoke(self, name: str) -> None:
        """Put what a site has on the list of revoked certificates; it may have nothing."""
        with suppress(NotFoundError):
            SiteCA.open(self.folder, clock=self.clock).revoke(name, CertificateUse.SITE)
