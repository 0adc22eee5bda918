"""The port's adapter for ``ftp`` and ``gsiftp``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import ClassVar, Final

from iceprod.errors import IceProdError, TooLarge, TransferFailed
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Entry, Facts, Incoming, Mover, Outgoing, Span
from iceprod.movers.bodies import verified
from iceprod.movers.gridftp import downloads, parallel, third_party, uploads
from iceprod.movers.gridftp.directories import entries
from iceprod.movers.gridftp.faults import told_of
from iceprod.movers.gridftp.pool import Pool
from iceprod.movers.gridftp.session import Session
from iceprod.movers.gridftp.third_party import End
from iceprod.movers.gridftp.uploads import Progress

CLEANUP_S: Final = 20.0
"""How long deleting what was left half done may take."""
COPY_CHECKSUM: Final = "adler32"
"""What two servers compare a file by."""


class GridFtpMover(Mover):
    """GridFTP and FTP servers.

    ``ftp`` logs in as ``anonymous`` or by a credential of kind ``password``; ``gsiftp`` by GSI with
    one of kind ``x509``.  The server's certificate must name the host, come from an authority in
    ``Access.ca_path`` (``/etc/grid-security/certificates`` where that is None and exists), be allowed
    by its signing policy and not be revoked.

    Options, the first value standing where none is given:

    * ``protection``: ``C``, data goes in the clear; ``S`` or ``P``, in TLS.
    * ``dcau``: ``A``, both ends of a data connection prove who they are; ``N``, they don't.
    * ``delegate``: ``limited``, the server gets a limited proxy for that; ``full``, a full one; ``no``,
      it gets none, which takes ``dcau`` to ``N``.
    * ``streams``: connections that carry a file at once, ``1`` to 64.  With more than one the server
      connects to this machine when files are fetched.
    * ``striped``: ``no``; ``yes``, files are sent to all data nodes of the server at once (SPAS).
    * ``data_hosts``: ``control``, data only comes from and goes to the very address that is logged in
      at; networks (``192.0.2.0/24,…``), also there; ``any``, wherever the server says.
    * ``atomic``: ``yes``, files are stored under a temporary name and then renamed; ``no``.
    * ``parents``: ``yes``, directories are made for files that are stored; ``no``.
    * ``verify``: ``yes``, the server's checksum of a stored file is compared where it has one; ``no``.
    * ``subject``: the name (``/DC=…/CN=…``) that the server's certificate must have, instead of the host's.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"ftp", "gsiftp"})

    def __init__(self) -> None:
        self._pool = Pool()
        self._cleaning: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End connections that are kept."""
        await asyncio.gather(*self._cleaning, return_exceptions=True)
        self._pool.close()

    @asynccontextmanager
    async def _session(self, location: Location, access: Access) -> AsyncIterator[Session]:
        """A session at that server, which knows the file's name as it is."""
        async with self._pool.session(location, access) as session:
            await session.check_name(location.path)
            yield session

    async def stat(self, location: Location, access: Access) -> Facts:
        """What the server tells of the file."""
        with told_of(location):
            async with self._session(location, access) as session:
                return await session.facts(location.path)

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """Ask for the file, or a part of it."""
        async with AsyncExitStack() as stack:
            with told_of(location):
                session = await stack.enter_async_context(self._session(location, access))
                body: downloads.Download | parallel.ParallelDownload
                if session.options.streams > 1:
                    body = await parallel.begin(session, location, span)
                else:
                    body = await downloads.begin(session, location, span)
            # What goes wrong with whoever reads is not to be mistaken for the server's failure.
            try:
                yield body
                await body.finish()
            finally:
                await body.abort()

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """Store a file."""
        progress = Progress()
        with told_of(location, lambda: progress.done):
            async with self._session(location, access) as session:
                options = session.options
                if options.parents:
                    await session.make_parents(location.path)
                name = _temporary(location) if options.atomic else location
                try:
                    await uploads.store(session, name.path, verified(body), progress)
                    await _check(session, name, body)
                    if name != location:
                        await session.rename(name.path, location.path)
                except BaseException:
                    # Under its own name, what was there before is there still until it begins.
                    if options.atomic or progress.has_begun:
                        self._forget(name, access)
                    raise

    def _forget(self, location: Location, access: Access) -> None:
        """Delete what was left half done, by another login: this one may be of no more use."""
        task = asyncio.ensure_future(self._try_to_delete(location, access))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _try_to_delete(self, location: Location, access: Access) -> None:
        with suppress(IceProdError, TimeoutError):
            async with asyncio.timeout(CLEANUP_S):
                await self.delete(location, access)

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """What lies in a directory."""
        count = 0
        with told_of(location):
            async with self._session(location, access) as session:
                async for entry in entries(session, location.path):
                    count += 1
                    if count > limit:
                        raise TooLarge(f"more than {limit} names are in {location}", limit=limit)
                    yield entry

    async def delete(self, location: Location, access: Access) -> None:
        """Delete the file."""
        with told_of(location):
            async with self._session(location, access) as session:
                await session.control.command("DELE", location.path)

    async def checksum(self, location: Location, access: Access, algorithm: str) -> str | None:
        """The server's own checksum of the file (CKSM)."""
        with told_of(location):
            async with self._session(location, access) as session:
                return await session.checksum(location.path, algorithm)

    async def copy(self, source: Location, target: Location, access: Access, *, to: Access) -> None:
        """Have one server send the file to another, or to itself."""
        progress = Progress()
        with told_of(source):
            async with self._session(source, access) as sending:
                facts = await sending.facts(source.path)
                with told_of(target, lambda: progress.done):
                    async with self._session(target, to) as taking:
                        await self._copied(End(sending, source.path), taking, target, facts, progress)

    async def _copied(
        self, source: End, taking: Session, target: Location, facts: Facts, progress: Progress
    ) -> None:
        options, to = taking.options, taking.access
        if options.parents:
            await taking.make_parents(target.path)
        name = _temporary(target) if options.atomic else target

        async def size_now() -> int | None:
            with suppress(IceProdError):
                return (await self.stat(name, to)).size_bytes
            return None

        try:
            await third_party.copy(source, End(taking, name.path, progress), size_now=size_now)
            await _check_size(taking, name, facts.size_bytes)
            if options.verify:
                await _check_copy(source, taking, name)
            if name != target:
                await taking.rename(name.path, target.path)
        except BaseException:
            if options.atomic or progress.has_begun:
                self._forget(name, to)
            raise


def _temporary(location: Location) -> Location:
    """A name beside that of the file that nobody else has."""
    folder, _, name = location.path.rpartition("/")
    return replace(location, path=f"{folder}/.{name[:200]}.{secrets.token_hex(6)}.part")


async def _check(session: Session, location: Location, body: Outgoing) -> None:
    """Compare what the server has with what was sent.

    Raises:
        TransferFailed: it is something else.
    """
    await _check_size(session, location, body.size_bytes)
    if not session.options.verify:
        return
    for algorithm, expected in body.checksums.items():
        found = await session.checksum(location.path, algorithm)
        if found is not None:
            _compare(location, algorithm, found, expected)
            return


async def _check_size(session: Session, location: Location, expected: int | None) -> None:
    found = (await session.facts(location.path)).size_bytes
    if None not in (found, expected) and found != expected:
        raise _wrong(location, f"{found} bytes were stored of {expected}")


async def _check_copy(source: End, taking: Session, location: Location) -> None:
    """Compare the checksums that both servers compute, if both do."""
    expected = await source.session.checksum(source.path, COPY_CHECKSUM)
    found = None if expected is None else await taking.checksum(location.path, COPY_CHECKSUM)
    if expected is not None and found is not None:
        _compare(location, COPY_CHECKSUM, found, expected)


def _compare(location: Location, algorithm: str, found: str, expected: str) -> None:
    # Adler-32 is written without leading zeros by some.
    if found.lower().lstrip("0") != expected.lower().lstrip("0"):
        raise _wrong(location, f"the {algorithm} of what was stored is {found[:128]!r}, not {expected!r}")


def _wrong(location: Location, why: str) -> TransferFailed:
    return TransferFailed(f"{location.authority}: {why}", source=str(location), done_bytes=0)
