"""Pages about files: the catalogue, origins, and what is being moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from iceprod.errors import InputError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.file import Direction, FileRecord
from iceprod.model.location import Location, parse_location
from iceprod.movers.base import Entry
from iceprod.server.handlers.pages.base import PageHandler
from iceprod.server.plots import Plot, rate_plot
from iceprod.services.authorization import Scope, check, scope_of
from iceprod.services.cache.shelf import Kept
from iceprod.services.file_catalogue import FileQuery
from iceprod.services.origins import OriginRule
from iceprod.services.transfers import TransferView
from iceprod.services.uploads.values import UploadView

_MOST_ENTRIES: Final = 2000
_MOST_ROWS: Final = 200
_SPAN_S: Final = 3600.0
_SHA256: Final = 64


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of the catalogue; ``address`` is where it can be had, empty if nowhere."""

    file: FileRecord
    address: str
    elsewhere: int


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
            rows=tuple(file_row(file) for file in found.items),
            crumbs=crumbs_of(prefix, action),
            prefix=prefix,
            sha256=sha256,
            origins=self._origins() if dataset_id is None else (),
            next=self.next_address(found.next),
            action=action,
        )
        self.show("files", view, title="Files")

    def _origins(self) -> tuple[OriginRule, ...]:
        if scope_of(self.principal, "origin.list") is Scope.NONE:
            return ()
        return tuple(self.services.places.origins(self.principal))


def file_row(file: FileRecord) -> FileRow:
    """A file and how a browser gets it: from here, else through this site."""
    places = [replica.url for replica in file.replicas]
    here = next((url for url in places if url.startswith("/files/")), "")
    far = next((url for url in places if "://" in url and not url.startswith("file:")), "")
    return FileRow(file, here or (f"/proxy?{urlencode({'url': far})}" if far else ""), len(places))


def crumbs_of(prefix: str, action: str) -> tuple[tuple[str, str], ...]:
    """The directories of a prefix, each with the address that lists it."""
    names = prefix.split("/")[:-1]
    return tuple(
        (name, f"{action}?{urlencode({'prefix': '/'.join(names[: index + 1]) + '/'})}")
        for index, name in enumerate(names)
    )


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A file or directory at an origin, and the address behind it."""

    entry: Entry
    address: str


@dataclass(frozen=True, slots=True)
class OriginView:
    """A directory at an origin."""

    origin: OriginRule
    url: str
    parents: tuple[tuple[str, str], ...]
    rows: tuple[EntryRow, ...]


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
        entries = await places.entries(self.principal, str(location), limit=_MOST_ENTRIES)
        view = OriginView(
            origin=rule,
            url=str(location),
            parents=parents_of(location, rule.root),
            rows=tuple(EntryRow(entry, address_of(location.child(entry.name), entry)) for entry in entries),
        )
        self.show("origin", view, title=f"Origin {rule.name}")


def parents_of(location: Location, root: Location) -> tuple[tuple[str, str], ...]:
    """The directories from an origin's root to a place, each with the address that lists it."""
    base = root.path.rstrip("/")
    names = [name for name in location.path[len(base) :].split("/") if name]
    here, found = root, []
    for name in names:
        here = here.child(name)
        found.append((name, f"/origins?url={quote(str(here), safe='')}"))
    return tuple(found)


def address_of(location: Location, entry: Entry) -> str:
    """Where a browser goes for an entry."""
    page = "/origins" if entry.facts.is_directory else "/proxy"
    return f"{page}?url={quote(str(location), safe='')}"


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
