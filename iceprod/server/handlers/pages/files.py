"""Pages about files: the catalogue, origins, and what is being moved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlencode

from iceprod.errors import InputError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.file import Direction, FileRecord
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import Principal
from iceprod.movers.base import Entry
from iceprod.server import security
from iceprod.server.handlers.pages.base import PageHandler
from iceprod.server.plots import Plot, rate_plot
from iceprod.services.authorization import Scope, check, is_allowed, scope_of
from iceprod.services.cache.shelf import Kept
from iceprod.services.file_catalogue import FileQuery
from iceprod.services.origins import OriginRule
from iceprod.services.transfers import TransferView
from iceprod.services.uploads.values import UploadView

_MOST_ENTRIES: Final = 2000
_MOST_ROWS: Final = 200
_SPAN_S: Final = 3600.0
_SHA256: Final = 64
_FILES: Final = "/files/"
_JOB: Final = re.compile(r"job_temp/([0-9]+)/")


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of the catalogue; ``address`` is where it can be had, empty if nowhere.

    ``path`` is by what the caller may delete it, empty if the caller may not.
    """

    file: FileRecord
    address: str
    elsewhere: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class UploadPlace:
    """Where a page's uploads go: to names below ``base``, which is shown as ``name``, in ``folder``."""

    base: str
    name: str
    folder: str = ""
    dataset_id: str = ""


@dataclass(frozen=True, slots=True)
class FilesView:
    """Files of a dataset, or of all that the caller may know of."""

    dataset: Dataset | None
    rows: tuple[FileRow, ...]
    crumbs: tuple[tuple[str, str], ...]
    prefix: str
    sha256: str
    origins: tuple[OriginRule, ...]
    next: str
    action: str
    here: str
    upload: UploadPlace | None


class FilesPage(PageHandler):
    """``/files`` and ``/datasets/ID/files``."""

    section = "files"

    async def get(self, dataset_id: str | None = None) -> None:
        """Search the catalogue."""
        dataset = None
        if dataset_id is not None:
            dataset = await self.services.datasets.get(self.principal, dataset_id)
        prefix, sha256 = self.argument("prefix"), self.argument("sha256").strip().lower()
        if sha256 and len(sha256) != _SHA256:
            raise InputError("a SHA-256 has 64 hexadecimal digits")
        wanted = FileQuery(dataset_id=dataset_id, prefix=prefix, sha256=sha256 or None)
        found = await self.services.file_catalogue.find(self.principal, wanted, self.page())
        action = f"/datasets/{dataset_id}/files" if dataset_id else "/files"
        view = FilesView(
            dataset=dataset,
            rows=tuple(file_row(file, self.principal) for file in found.items),
            crumbs=crumbs_of(prefix, action),
            prefix=prefix,
            sha256=sha256,
            origins=self._origins() if dataset_id is None else (),
            next=self.next_address(found.next),
            action=action,
            here=self.request.uri or action,
            upload=upload_place(self.principal, dataset, prefix),
        )
        self.show("files", view, title="Files")

    def _origins(self) -> tuple[OriginRule, ...]:
        if scope_of(self.principal, "origin.list") is Scope.NONE:
            return ()
        return tuple(self.services.places.origins(self.principal))


def upload_place(principal: Principal, dataset: Dataset | None, prefix: str) -> UploadPlace | None:
    """Where the caller may put files that looks at those of ``prefix``; None where the caller may nowhere.

    What tasks of other sites have made is theirs.
    """
    if dataset is None:
        may = scope_of(principal, "file.write_shared") is not Scope.NONE
        return UploadPlace("site_temp/", "site_temp/", _below(prefix, "site_temp/")) if may else None
    if dataset.is_mirror or not is_allowed(principal, "file.write", owner=dataset.owner):
        return None
    of, job = dataset.dataset_id, _JOB.match(prefix)
    if job is not None:
        return UploadPlace(f"job_temp/{of}/{job[1]}/", job[0], _below(prefix, job[0]), of)
    return UploadPlace(f"dataset_temp/{of}/", "dataset_temp/", _below(prefix, "dataset_temp/"), of)


def _below(prefix: str, area: str) -> str:
    """The folder of a prefix within an area, empty outside of that."""
    return prefix.removeprefix(area).rpartition("/")[0] if prefix.startswith(area) else ""


def file_row(file: FileRecord, principal: Principal) -> FileRow:
    """A file and how a browser gets it: from here, else through this site."""
    places = [replica.url for replica in file.replicas]
    here = next((url for url in places if url.startswith(_FILES)), "")
    far = next((url for url in places if "://" in url and not url.startswith("file:")), "")
    address = here or (f"/proxy?{urlencode({'url': far})}" if far else "")
    action = "file.delete" if file.dataset_id else "file.delete_shared"
    may = here and is_allowed(principal, action, owner=file.owner)
    return FileRow(file, address, len(places), unquote(here.removeprefix(_FILES)) if may else "")


def crumbs_of(prefix: str, action: str) -> tuple[tuple[str, str], ...]:
    """The directories of a prefix, each with the address that lists it."""
    names = prefix.split("/")[:-1]
    return tuple(
        (name, f"{action}?{urlencode({'prefix': '/'.join(names[: index + 1]) + '/'})}")
        for index, name in enumerate(names)
    )


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A file or directory at an origin, and the address behind it; ``url`` is that by which it is deleted."""

    entry: Entry
    address: str
    url: str


@dataclass(frozen=True, slots=True)
class OriginView:
    """A directory at an origin."""

    origin: OriginRule
    url: str
    parents: tuple[tuple[str, str], ...]
    rows: tuple[EntryRow, ...]
    here: str
    may_delete: bool
    upload: UploadPlace | None


class OriginPage(PageHandler):
    """``/origins?url=…``."""

    section = "files"

    async def get(self) -> None:
        """List a directory."""
        location = parse_location(self.argument("url"))
        places = self.services.places
        rule = next((rule for rule in places.origins(self.principal) if location.is_below(rule.root)), None)
        if rule is None:
            raise NotFoundError("origin", str(location))
        base = f"{str(location).rstrip('/')}/"
        entries = await places.entries(self.principal, str(location), limit=_MOST_ENTRIES)
        view = OriginView(
            origin=rule,
            url=str(location),
            parents=parents_of(location, rule.root),
            rows=tuple(entry_row(location.child(entry.name), entry) for entry in entries),
            here=self.request.uri or "",
            may_delete=self._may(rule, "origin.delete"),
            upload=UploadPlace(base, base) if self._may(rule, "proxy.write") else None,
        )
        self.show("origin", view, title=f"Origin {rule.name}")

    def _may(self, rule: OriginRule, action: str) -> bool:
        return rule.write and scope_of(self.principal, action) is not Scope.NONE


def parents_of(location: Location, root: Location) -> tuple[tuple[str, str], ...]:
    """The directories from an origin's root to a place, each with the address that lists it."""
    base = root.path.rstrip("/")
    names = [name for name in location.path[len(base) :].split("/") if name]
    here, found = root, []
    for name in names:
        here = here.child(name)
        found.append((name, f"/origins?url={quote(str(here), safe='')}"))
    return tuple(found)


def entry_row(location: Location, entry: Entry) -> EntryRow:
    """An entry, and where a browser goes for it."""
    page = "/origins" if entry.facts.is_directory else "/proxy"
    return EntryRow(entry, f"{page}?url={quote(str(location), safe='')}", str(location))


class DeleteFile(PageHandler):
    """``/delete-file``: by the path of an area, or by an address at an origin."""

    async def post(self) -> None:
        """Delete it, and go back to the page where that was asked for."""
        path = self.argument("path")
        if "://" in path:
            await self.services.places.delete(self.principal, path)
        else:
            await self.services.files.delete(self.principal, path)
        self.done(
            f"{path.rpartition('/')[2]} is deleted.", security.local_path(self.argument("back"), "/files")
        )


@dataclass(frozen=True, slots=True)
class TransfersView:
    """What is being moved, was moved lately, and is kept."""

    plots: tuple[Plot, ...]
    live: tuple[TransferView, ...]
    ended: tuple[TransferView, ...]
    uploads: tuple[UploadView, ...]
    copies: tuple[Kept, ...]
    used_bytes: int
    max_bytes: int
    shows_cache: bool


class TransfersPage(PageHandler):
    """``/transfers``."""

    section = "transfers"

    async def get(self) -> None:
        """Show it: users what is theirs, administrators everything."""
        services = self.services
        shows_cache = scope_of(self.principal, "cache.list") is Scope.ANY
        cache = services.proxying.cache
        history = services.flow_history
        view = TransfersView(
            plots=tuple(
                rate_plot(name, history.rates(direction), span_s=_SPAN_S)
                for name, direction in (("To this site", Direction.IN), ("From this site", Direction.OUT))
            ),
            live=self._mine(services.transfers.live()),
            ended=self._mine(services.transfers.ended()),
            uploads=tuple(await services.uploads.service.list(self.principal, limit=_MOST_ROWS)),
            copies=tuple((await cache.copies())[:_MOST_ROWS]) if shows_cache else (),
            used_bytes=await cache.used_bytes() if shows_cache else 0,
            max_bytes=cache.max_bytes,
            shows_cache=shows_cache,
        )
        self.show("transfers", view, title="Transfers")

    def _mine(self, found: list[TransferView]) -> tuple[TransferView, ...]:
        is_any = check(self.principal, "transfer.list") is Scope.ANY
        seen = [view for view in found if is_any or view.flow.user == self.principal.id]
        return tuple(seen[:_MOST_ROWS])


class CacheAct(PageHandler):
    """``/cache/KEY/pin``, ``…/unpin`` and ``…/evict``."""

    def initialize(self, *, actions: Mapping[str, str], **given: str) -> None:
        """Take what the route passes on."""
        self._verb = given.pop("verb")
        super().initialize(actions=actions, **given)

    async def post(self, key: str) -> None:
        """Do it."""
        cache = self.services.proxying.cache
        if self._verb == "evict":
            await cache.evict(key)
        else:
            await cache.pin(key, on=self._verb == "pin")
        said = {"evict": "The copy is removed.", "pin": "The copy stays.", "unpin": "The copy may go."}
        self.done(said[self._verb], "/transfers")
