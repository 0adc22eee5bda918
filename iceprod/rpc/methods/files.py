"""Methods about the catalogue of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from iceprod.errors import ConflictError, LeaseLost, NotFoundError
from iceprod.model.file import FileRecord, Replica
from iceprod.model.paging import Page
from iceprod.rpc.methods.datasets import Limit
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView, listed
from iceprod.services.file_catalogue import MAX_NAMES, FileQuery, NewFile

METHODS = Registry()

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Names = Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_NAMES)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 28)]


class FileParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that lies elsewhere; ``checksums`` has hexadecimal by algorithm, sha256 among them."""

    name: Name
    size_bytes: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    checksums: dict[str, str]
    url: Text
    site: Text = ""


@dataclass(frozen=True, slots=True)
class FileView:
    """A file; ``dataset_id`` is empty for the site's own, instants are seconds since the epoch."""

    dataset_id: str
    name: str
    size_bytes: int
    checksums: dict[str, str]
    owner: str
    group: str
    created_at: float
    job_index: int | None
    task_index: int | None
    replicas: list[Replica]
    is_here: bool


@dataclass(frozen=True, slots=True)
class ForgottenView:
    """How many files the catalogue has forgotten."""

    forgotten: int


def _view(record: FileRecord) -> FileView:
    return FileView(
        dataset_id=record.dataset_id,
        name=record.name,
        size_bytes=record.size_bytes,
        checksums=dict(record.checksums),
        owner=record.owner,
        group=record.group,
        created_at=record.created_at,
        job_index=record.job_index,
        task_index=record.task_index,
        replicas=list(record.replicas),
        is_here=record.is_here,
    )


@METHODS.method("file.find", action="file.find", errors=(NotFoundError,), idempotent=True)
async def file_find(
    call: Call,
    *,
    dataset_id: str | None = None,
    job_index: Index | None = None,
    task_index: Index | None = None,
    prefix: Text = "",
    sha256: Text | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[FileView]:
    """Files by name: of a dataset, of a job, of a kind of task, of the same contents.

    ``prefix`` is the beginning of names.  Without a dataset those of which the caller, or a
    group of the caller's, is the owner; an empty dataset means the site's own files.
    """
    wanted = FileQuery(dataset_id, job_index, task_index, prefix, sha256.lower() if sha256 else None)
    found = await call.services.file_catalogue.find(call.principal, wanted, Page(limit, cursor))
    return listed(found, _view)


@METHODS.method("file.get", action="file.get", errors=(NotFoundError,), idempotent=True)
async def file_get(call: Call, *, dataset_id: str, name: Name) -> FileView:
    """One file, and where it lies."""
    return _view(await call.services.file_catalogue.get(call.principal, dataset_id, name))


@METHODS.method("file.replicas", action="file.replicas", errors=(NotFoundError,), idempotent=True)
async def file_replicas(call: Call, *, dataset_id: str, name: Name) -> ListView[Replica]:
    """Where a file lies: addresses, and a path for this site's own copy."""
    found = await call.services.file_catalogue.get(call.principal, dataset_id, name, action="file.replicas")
    return ListView(list(found.replicas), None)


@METHODS.method(
    "file.register",
    action="file.register",
    errors=(NotFoundError, LeaseLost, ConflictError),
    idempotent=True,
)
async def file_register(
    call: Call,
    *,
    files: Annotated[list[FileParameter], msgspec.Meta(min_length=1, max_length=MAX_NAMES)],
    dataset_id: str | None = None,
) -> ListView[FileView]:
    """Tell of files that were put elsewhere, in place of what was known under their names.

    A task tells what it has made, and need not name its dataset; its job and index are kept
    with the files.  What is uploaded to this site gets into the catalogue by itself.
    """
    given = [NewFile(f.name, f.size_bytes, f.checksums, f.url, f.site) for f in files]
    found = await call.services.file_catalogue.add(call.principal, dataset_id, given)
    return ListView([_view(record) for record in found], None)


@METHODS.method(
    "file.add_replica", action="file.add_replica", errors=(NotFoundError, LeaseLost), idempotent=True
)
async def file_add_replica(
    call: Call, *, dataset_id: str, name: Name, url: Text, site: Text = ""
) -> FileView:
    """Tell that a file lies at another address, too."""
    catalogue = call.services.file_catalogue
    return _view(await catalogue.add_replica(call.principal, dataset_id, name, url, site=site))


@METHODS.method(
    "file.drop_replica", action="file.drop_replica", errors=(NotFoundError, ConflictError), idempotent=True
)
async def file_drop_replica(call: Call, *, dataset_id: str, name: Name, url: Text) -> None:
    """Forget a place of a file, and the file with its last place; nothing is deleted there."""
    await call.services.file_catalogue.drop_replica(call.principal, dataset_id, name, url)


@METHODS.method("file.forget", action="file.forget", errors=(NotFoundError, ConflictError), idempotent=True)
async def file_forget(call: Call, *, dataset_id: str, names: Names) -> ForgottenView:
    """Forget files that lie elsewhere; nothing is deleted there.

    Only an administrator can have files forgotten that lie here.
    """
    forgotten = await call.services.file_catalogue.drop(call.principal, dataset_id, names)
    return ForgottenView(forgotten)
