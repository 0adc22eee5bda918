"""``iceprod file``: files of the site's areas, of origins, and in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site, settings_folder
from iceprod.cli.file_progress import Shown, shown
from iceprod.cli.file_transfer import FileClient, UploadMemory
from iceprod.errors import InputError, TransferFailed

_POLL_S: Final = 0.5
_OVER: Final = frozenset({"stored", "failed", "expired"})


@click.group()
def file() -> None:
    """Look for files, fetch, send, copy and delete them.

    A PLACE is the URL of a file at an origin of the site (see "iceprod file ls"), like
    gsiftp://gridftp.example.org/data/x, or a path of the site's own areas:
    job_temp/DATASET/JOB/NAME, dataset_temp/DATASET/NAME, site_temp/NAME.
    """


class PlaceType(click.ParamType[str]):
    """A place; of a URL, spaces and letters beyond ASCII may be given as they are."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The place as the site wants it."""
        del param, ctx
        return quote(value, safe="%/:?#[]@!$&'()*+,;=~") if is_url(value) else str(value)


def is_url(place: str) -> bool:
    """Whether a place is elsewhere."""
    return "://" in place or place.startswith("file:")


PLACE: Final = PlaceType()


@file.command()
@click.argument("place", required=False, type=PLACE)
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@output.json_option
@on_site
def ls(site: Site, *, place: str | None, limit: int, as_json: bool) -> None:
    """List the origins, or what lies at PLACE."""
    if place is None:
        found = site.call("origin.list")
        _show(found, as_json, ("name", "url", "writable", "groups"), _origin_row)
    elif is_url(place):
        found = site.call("origin.entries", url=place, limit=limit)
        _show(found, as_json, ("name", "size", "modified"), _entry_row)
    else:
        dataset_id, prefix = split_path(place)
        found = site.listed("file.find", limit=limit, dataset_id=dataset_id, prefix=prefix)
        _show(found, as_json, ("path", "size", "made", "sha256"), _file_row)


@file.command()
@click.argument("place", type=PLACE)
@output.json_option
@on_site
def stat(site: Site, *, place: str, as_json: bool) -> None:
    """Tell what is known of a file."""
    if is_url(place):
        found = site.call("origin.stat", url=place)
    else:
        dataset_id, name = split_path(place)
        found = site.call("file.get", dataset_id=dataset_id, name=name)
    if as_json:
        output.print_json(found)
        return
    replicas = ", ".join(each["url"] for each in found.pop("replicas", []))
    sums = found.pop("checksums", {})
    found["size_bytes"] = _size(found.get("size_bytes"))
    for key in ("modified_at", "created_at"):
        if key in found:
            found[key] = output.when(found[key])
    output.print_fields([*found.items(), *sums.items(), *([("places", replicas)] if replicas else [])])


@file.command()
@click.argument("places", nargs=-1, required=True, metavar="PLACE...", type=PLACE)
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), default=Path(),
    help="A directory, or for one file its name here.",
)  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="At a time.")
@output.json_option
@on_site
def get(site: Site, *, places: tuple[str, ...], target: Path, jobs: int, as_json: bool) -> None:
    """Fetch files; what broke off goes on where it was when you ask again."""
    targets = targets_for(places, target)
    client = FileClient(site.url, site.token)

    def fetch(place: str, bars: Shown) -> dict[str, Any]:
        here = targets[place]
        size = client.fetch(place, here, moved=bars.begin(here.name))
        return {"place": place, "path": str(here), "size_bytes": size}

    _finish(_each(places, fetch, jobs=jobs), as_json, verb="fetched")


@file.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.argument("place", type=PLACE)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="At a time.")
@output.json_option
@on_site
def put(site: Site, *, sources: tuple[Path, ...], place: str, jobs: int, as_json: bool) -> None:
    """Send files to PLACE, a directory if it ends with a slash.

    What broke off goes on where it was when you ask again. A file is there for others when
    its size and checksum were found right.
    """
    if len(sources) > 1 and not place.endswith("/"):
        raise click.UsageError("several files go to a directory: end PLACE with a slash")
    for source in sources:
        if not source.is_file():
            raise InputError(f"{source} is no file")
    client, memory = FileClient(site.url, site.token), UploadMemory(settings_folder() / "uploads.json")
    by_name = {str(source): source for source in sources}

    def store(name: str, bars: Shown) -> dict[str, Any]:
        source = by_name[name]
        where = PLACE.convert(f"{place}{source.name}", None, None) if place.endswith("/") else place
        moved = bars.begin(source.name)
        upload_id = client.store(source, where, memory=memory, moved=moved)
        return {"path": name, "place": where, "size_bytes": source.stat().st_size, "upload_id": upload_id}

    done = _each(tuple(by_name), store, jobs=jobs)
    for each in done:
        _await_stored(site, each["upload_id"], each["place"])
    _finish(done, as_json, verb="sent")


@file.command()
@click.argument("source", type=PLACE)
@click.argument("target", type=PLACE)
@output.json_option
@on_site
def cp(site: Site, *, source: str, target: str, as_json: bool) -> None:
    """Copy a file from one origin to another, directly where their servers can do that."""
    if not (is_url(source) and is_url(target)):
        raise click.UsageError("cp copies between origins; use get and put for files of this machine")
    begun = site.call("origin.copy", source=source, target=target)
    with shown() as bars:
        told = site.call("transfer.get", transfer_id=begun["transfer_id"])
        moved = bars.begin(source.rpartition("/")[2])
        while told["ended_at"] is None:
            time.sleep(_POLL_S)
            told = site.call("transfer.get", transfer_id=begun["transfer_id"])
            moved(told["moved_bytes"], told["size_bytes"])
    if told["error"]:
        raise TransferFailed(told["error"], source=source)
    _finish([{"source": source, "place": target, "size_bytes": told["moved_bytes"]}], as_json, verb="copied")


@file.command()
@click.argument("places", nargs=-1, required=True, metavar="PLACE...", type=PLACE)
@on_site
def rm(site: Site, *, places: tuple[str, ...]) -> None:
    """Delete files at origins that may be written, and as an administrator of the site's areas."""
    client = FileClient(site.url, site.token)
    for place in places:
        if is_url(place):
            site.call("origin.delete", url=place)
        else:
            client.delete(place)
        output.note(f"{place} is deleted")


@file.command()
@click.argument("prefix", default="")
@click.option("--dataset", "dataset_id", metavar="ID", help="Of one dataset; '' for the site's own files.")
@click.option("--job", "job_index", type=click.IntRange(min=0), help="Of one job.")
@click.option("--task", "task_index", type=click.IntRange(min=0), help="Made by tasks of that index.")
@click.option("--sha256", help="With these contents, wherever they lie.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@output.json_option
@on_site
def find(site: Site, *, as_json: bool, **wanted: Any) -> None:
    """Find files in the catalogue whose names begin with PREFIX."""
    found = site.listed("file.find", **wanted)
    _show(found, as_json, ("dataset", "path", "size", "made", "sha256"), _found_row)
    if found["next"] is not None:
        output.note("there are more; see --limit")


@file.group()
def cache() -> None:
    """Look after the copies of origins' files on the server's disk."""


@cache.command("show")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@output.json_option
@on_site
def show_cache(site: Site, *, limit: int, as_json: bool) -> None:
    """List the copies, those read last first."""
    found = site.call("cache.list", limit=limit)
    if as_json:
        output.print_json(found)
        return
    rows = (
        (each["key"][:16], _size(each["size_bytes"]), output.when(each["read_at"]), _pin(each), each["url"])
        for each in found["items"]
    )
    output.print_table(("key", "size", "read", "", "url"), rows)
    output.note(f"{output.size(found['used_bytes'])} of {output.size(found['max_bytes'])}")


@cache.command()
@click.argument("copies", nargs=-1, required=True, metavar="KEY|URL...")
@click.option("--off", is_flag=True, help="Let them go when others need the room.")
@on_site
def pin(site: Site, *, copies: tuple[str, ...], off: bool) -> None:
    """Let copies stay however long nobody reads them."""
    for key in _keys(site, copies):
        site.call("cache.pin", key=key, pinned=not off)
        output.note(f"{key[:16]} is {'not pinned any more' if off else 'pinned'}")


@cache.command()
@click.argument("copies", nargs=-1, required=True, metavar="KEY|URL...")
@on_site
def evict(site: Site, *, copies: tuple[str, ...]) -> None:
    """Remove copies; who reads one reads on."""
    for key in _keys(site, copies):
        site.call("cache.evict", key=key)
        output.note(f"{key[:16]} is removed")


def split_path(path: str) -> tuple[str, str]:
    """Dataset and name, as the catalogue has them, of a path of the areas."""
    area, _, rest = path.removeprefix("/files/").strip("/").partition("/")
    if area == "site_temp":
        return "", f"{area}/{rest}" if rest else area
    if area not in ("job_temp", "dataset_temp") or not rest:
        raise InputError(f"{path!r} is no URL and no path of an area: see 'iceprod file --help'")
    dataset_id, _, inner = rest.partition("/")
    return dataset_id, f"{area}/{inner}"


def targets_for(places: Iterable[str], target: Path) -> dict[str, Path]:
    """Where each place is fetched to; raises InputError if two would be one file."""
    places = tuple(dict.fromkeys(places))
    if len(places) == 1 and not target.is_dir():
        return {places[0]: target}
    if not target.is_dir():
        raise InputError(f"{target} is no directory")
    found = {place: target / _name_of(place) for place in places}
    if len(set(found.values())) < len(found):
        raise InputError("two of these files have the same name: fetch them to different directories")
    return found


def _name_of(place: str) -> str:
    name = place.partition("?")[0].rstrip("/").rpartition("/")[2]
    name = unquote(name) if is_url(place) else name
    if name in ("", ".", "..") or "/" in name:
        raise InputError(f"{place!r} has no name: say by -o what it is to be called")
    return name


def _each(
    names: tuple[str, ...], work: Callable[[str, Shown], dict[str, Any]], *, jobs: int
) -> list[dict[str, Any]]:
    """What ``work`` gives for each name, some at a time; raises the first failure when all have ended."""
    names = tuple(dict.fromkeys(names))
    with shown() as bars, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(work, name, bars) for name in names]
    return [each.result() for each in running]


def _await_stored(site: Site, upload_id: str, place: str) -> None:
    """Wait until a file that was sent is in its place."""
    while (told := site.call("upload.get", upload_id=upload_id))["stage"] not in _OVER:
        time.sleep(_POLL_S)
    if told["stage"] != "stored":
        raise TransferFailed(told["error"] or f"{place}: the upload has {told['stage']}", source=place)


def _finish(done: list[dict[str, Any]], as_json: bool, *, verb: str) -> None:
    if as_json:
        output.print_json({"items": done})
        return
    total = output.size(sum(each["size_bytes"] for each in done))
    output.note(f"{len(done)} {'file' if len(done) == 1 else 'files'}, {total}, {verb}")


def _show(
    found: Mapping[str, Any],
    as_json: bool,
    columns: tuple[str, ...],
    row: Callable[[Mapping[str, Any]], tuple[Any, ...]],
) -> None:
    if as_json:
        output.print_json(found)
    else:
        output.print_table(columns, (row(each) for each in found["items"]))


def _origin_row(each: Mapping[str, Any]) -> tuple[Any, ...]:
    return each["name"], each["url"], "yes" if each["writable"] else "no", ", ".join(each["groups"])


def _entry_row(each: Mapping[str, Any]) -> tuple[Any, ...]:
    slash = "/" if each["is_directory"] else ""
    return f"{each['name']}{slash}", _size(each["size_bytes"]), output.when(each["modified_at"])


def _file_row(each: Mapping[str, Any]) -> tuple[Any, ...]:
    sums = each["checksums"].get("sha256", "")[:12]
    return each["name"], _size(each["size_bytes"]), output.when(each["created_at"]), sums


def _found_row(each: Mapping[str, Any]) -> tuple[Any, ...]:
    return each["dataset_id"], *_file_row(each)


def _keys(site: Site, wanted: tuple[str, ...]) -> list[str]:
    """The keys of copies given by key, the beginning of one, or URL."""
    copies = site.call("cache.list", limit=10_000)["items"]
    keys = []
    for name in wanted:
        found = [each["key"] for each in copies if each["url"] == name or each["key"].startswith(name)]
        if not found:
            raise InputError(f"there is no copy {name!r}; see 'iceprod file cache show'")
        keys += found
    return keys


def _pin(each: Mapping[str, Any]) -> str:
    return "pinned" if each["pinned"] else ""


def _size(count: int | None) -> str:
    return "" if count is None else output.size(count)
