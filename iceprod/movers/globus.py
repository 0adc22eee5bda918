"""Files of Globus collections: ``globus://COLLECTION-ID/path``.

Bytes go by the collection's own https server; what lies there and what is to be deleted is
asked of Globus' transfer service, which also copies from collection to collection, as a task.

The credential is a ``token``: one for both, or a JSON object with one each as ``transfer`` and
``https``.  Options: ``base_url`` of the transfer service and ``https_url`` of the collection,
where they are not Globus' own and what it tells; ``poll_s``, the seconds between two looks at a task.

The package that speaks to the transfer service blocks, so it works on a few threads, and it
connects by itself: the service's addresses are checked before each call, and its certificate
by each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import globus_sdk
from globus_sdk.transport import RequestsTransport, RetryConfig

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
)
from iceprod.model.location import Location, parse_location
from iceprod.movers.base import WHOLE, Access, Credential, Entry, Facts, Incoming, Mover, Outgoing, Span
from iceprod.movers.dialing import checked_addresses
from iceprod.movers.http import HttpMover

SERVICE: Final = "https://transfer.api.globus.org/"

_THREADS: Final = 4
_PAGE: Final = 1000
_POLL_S: Final = 5.0


_T = TypeVar("_T")


class GlobusMover(Mover):
    """Moves files from, to and between collections."""

    schemes: ClassVar[frozenset[str]] = frozenset({"globus"})

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="globus")
        self._http = HttpMover()

    async def close(self) -> None:
        """End connections that are kept, and the threads."""
        await self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stat(self, location: Location, access: Access) -> Facts:
        """What the transfer service tells."""
        return _facts(await self._ask(location, access, partial(_stat, location)))

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """By https."""
        there, with_token = await self._by_https(location, access)
        async with self._http.fetch(there, with_token, span=span) as incoming:
            yield incoming

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """By https."""
        there, with_token = await self._by_https(location, access)
        await self._http.put(there, with_token, body)

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """Page by page."""
        offset = 0
        while True:
            page = await self._ask(location, access, partial(_page, location, offset))
            for each in page:
                offset += 1
                if offset > limit:
                    raise TooLarge(f"the directory has more than {limit} names")
                yield Entry(str(each["name"]), _facts(each))
            if len(page) < _PAGE:
                return

    async def delete(self, location: Location, access: Access) -> None:
        """By a task, which is waited for."""
        await self.stat(location, access)
        task_id = await self._ask(location, access, partial(_submit_delete, location))
        await self._finished(task_id, location, access)

    async def copy(
        self,
        source: Location,
        target: Location,
        access: Access,
        *,
        to: Access,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        """By a task of ``access``'s owner, which is waited for; ``progress`` is told the bytes done."""
        del to
        if target.scheme not in self.schemes:
            raise InputError("a collection's files are copied to collections only")
        task_id = await self._ask(source, access, partial(_submit_copy, source, target))
        await self._finished(task_id, source, access, progress)

    async def _finished(
        self,
        task_id: str,
        location: Location,
        access: Access,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Wait for a task; who gives up has it cancelled."""
        try:
            while True:
                task = await self._ask(location, access, partial(_task, task_id))
                progress(int(task.get("bytes_transferred") or 0))
                if task["status"] != "ACTIVE":
                    break
                await asyncio.sleep(float(access.options.get("poll_s", _POLL_S)))
        except BaseException:
            await asyncio.shield(self._cancelled(task_id, location, access))
            raise
        if task["status"] == "INACTIVE":
            await self._cancelled(task_id, location, access)
        if task["status"] != "SUCCEEDED":
            raise _failure(task, location)

    async def _cancelled(self, task_id: str, location: Location, access: Access) -> None:
        """End a task; one that has ended meanwhile is no matter."""
        with suppress(IceProdError):
            await self._ask(location, access, partial(_cancel, task_id))

    async def _by_https(self, location: Location, access: Access) -> tuple[Location, Access]:
        """Where the file is by https, and how it is reached there."""
        base = access.options.get("https_url")
        there = parse_location(base) if base else await self._told_server(location, access)
        there = replace(there, path=there.path.rstrip("/") + location.path)
        return there, replace(access, credential=Credential("token", _token(access, "https").encode()))

    async def _told_server(self, location: Location, access: Access) -> Location:
        """The https server that the collection has by its own account: a token is shown there."""
        told = await self._ask(location, access, partial(_server, location))
        if not told:
            raise InputError("that collection gives no files out by https")
        try:
            there = parse_location(told)
        except InputError:
            there = None
        if there is None or there.scheme != "https":
            raise AccessDenied("the collection's server is none of https")
        return there

    async def _ask(
        self, location: Location, access: Access, call: Callable[[globus_sdk.TransferClient], _T]
    ) -> _T:
        """What ``call`` gets from the transfer service, on a thread."""
        service = parse_location(access.options.get("base_url", SERVICE))
        await checked_addresses(service.host, service.port, access.policy)
        token = _token(access, "transfer")

        def do() -> _T:
            with _client(str(service), token, access) as client:
                return call(client)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do)
        except globus_sdk.GlobusAPIError as exc:
            raise _told(exc, location) from None
        except globus_sdk.GlobusError as exc:
            said = f"the transfer service did not answer ({type(exc).__name__})"
            raise TransferFailed(said, source=str(location), done_bytes=0) from None


@contextmanager
def _client(base_url: str, token: str, access: Access) -> Iterator[globus_sdk.TransferClient]:
    transport = RequestsTransport(verify_ssl=access.ca_path or True, http_timeout=access.stall_timeout_s)
    # Proxies and passwords of this process's surroundings are none of the origin's.
    transport.session.trust_env = False
    # Where it would be sent on to was not checked, and is none of its business.
    transport.session.max_redirects = 0
    try:
        yield globus_sdk.TransferClient(
            authorizer=globus_sdk.AccessTokenAuthorizer(token),
            base_url=base_url,
            transport=transport,
            retry_config=RetryConfig(max_retries=2),
        )
    finally:
        transport.close()


def _token(access: Access, name: str) -> str:
    """The token for that use."""
    if access.credential is None or access.credential.kind != "token":
        raise AccessDenied("Globus needs a token")
    text = access.credential.secret.decode("utf-8", "replace").strip()
    if not text.startswith("{"):
        return text
    try:
        return str(json.loads(text)[name])
    except (ValueError, KeyError):
        raise AccessDenied(f"the credential holds no token for {name}") from None


def _stat(location: Location, client: globus_sdk.TransferClient) -> dict[str, Any]:
    return dict(client.operation_stat(location.host, location.path).data)


def _page(location: Location, offset: int, client: globus_sdk.TransferClient) -> list[dict[str, Any]]:
    found = client.operation_ls(
        location.host, location.path, show_hidden=True, orderby="name", limit=_PAGE, offset=offset
    )
    return list(found["DATA"])


def _server(location: Location, client: globus_sdk.TransferClient) -> str:
    return str(client.get_endpoint(location.host).get("https_server") or "")


def _submit_delete(location: Location, client: globus_sdk.TransferClient) -> str:
    data = globus_sdk.DeleteData(location.host, label="iceprod", recursive=False)
    data.add_item(location.path)
    return str(client.submit_delete(data)["task_id"])


def _submit_copy(source: Location, target: Location, client: globus_sdk.TransferClient) -> str:
    data = globus_sdk.TransferData(source.host, target.host, label="iceprod", verify_checksum=True)
    data.add_item(source.path, target.path)
    return str(client.submit_transfer(data)["task_id"])


def _task(task_id: str, client: globus_sdk.TransferClient) -> dict[str, Any]:
    return dict(client.get_task(task_id).data)


def _cancel(task_id: str, client: globus_sdk.TransferClient) -> None:
    client.cancel_task(task_id)


def _facts(found: dict[str, Any]) -> Facts:
    """A file or directory as the transfer service describes it."""
    is_directory = found.get("type") == "dir"
    size, modified = found.get("size"), found.get("last_modified")
    return Facts(
        size_bytes=size if isinstance(size, int) and not is_directory else None,
        modified_at=datetime.fromisoformat(modified).timestamp() if modified else None,
        is_directory=is_directory,
    )


def _failure(task: dict[str, Any], location: Location) -> IceProdError:
    """Why a task will not succeed."""
    reason = (task.get("fatal_error") or {}).get("code") or task.get("nice_status") or task["status"]
    if task["status"] == "INACTIVE" or reason in ("PERMISSION_DENIED", "EXPIRED"):
        return AccessDenied(f"Globus may not do that to {location}: {reason}")
    if reason in ("FILE_NOT_FOUND", "NOT_FOUND"):
        return NotFoundError("file", location)
    done = int(task.get("bytes_transferred") or 0)
    return TransferFailed(f"Globus gave the task up: {reason}", source=str(location), done_bytes=done)


def _told(exc: globus_sdk.GlobusAPIError, location: Location) -> IceProdError:
    """What the transfer service said, as an error of ours."""
    where = str(location)
    if exc.http_status == 404 or "NotFound" in str(exc.code):
        return NotFoundError("file", where)
    if exc.http_status in (401, 403):
        return AccessDenied(f"Globus refuses access to {where}: {exc.code}")
    if exc.http_status == 409:
        return ConflictError(f"something is in the way of {where}: {exc.code}")
    if exc.http_status == 400:
        return InputError(f"Globus does not understand {where}: {exc.code}")
    return TransferFailed(f"the transfer service answered {exc.http_status}", source=where, done_bytes=0)
