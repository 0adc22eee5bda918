"""``iceprod demo``: a site of its own, an example on it, and what comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import iceprod
from iceprod.cli import exits, output, watching
from iceprod.cli.connection import Site
from iceprod.cli.dataset import read_config, with_settings
from iceprod.cli.demo_server import DemoServer
from iceprod.cli.demo_site import DemoSite, arrange
from iceprod.cli.settings import load_settings
from iceprod.cli.task import choose_logs, print_log
from iceprod.errors import IceProdError, NotFoundError, Unavailable

if TYPE_CHECKING:
    from iceprod.server.beside import FirstAccount

_USER: Final = "demo"
_RESULTS: Final = ("result.json", "muons.svg")
_TIMEOUT_S: Final = 30.0
_ROOM_BYTES: Final = 50_000_000


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server running afterwards.")
@click.option(
    "-n", "--jobs", type=click.IntRange(1, 20), default=20, show_default=True, help="How many jobs."
)
@click.option(
    "--example",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The example's folder; by default examples/ice-muons of the checkout.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new folder for the site; by default a temporary one, which is removed at the end.",
)
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("iceprod-demo"),
    show_default=True,
    help="Where to put the results.",
)
@click.option(
    "--mongodb",
    metavar="URL",
    help="Keep the site in this MongoDB, mongodb://HOST[:PORT][/DATABASE], and run two processes on it; "
    "if no database is named, one is made, and removed at the end.",
)
@click.option("--nginx", "with_nginx", is_flag=True, help="Put nginx with TLS in front.")
def demo(
    *,
    keep: bool,
    jobs: int,
    example: Path | None,
    data: Path | None,
    target: Path,
    mongodb: str | None,
    with_nginx: bool,
) -> int:
    """Start a site, run an example on it, and show what comes out.

    The site has SQLite, the local grid, and listens on free ports of 127.0.0.1. A few tasks
    fail on purpose at first and are retried. Ends the site when the example is complete,
    unless --keep is given.
    """
    example = (example or _default_example()).absolute()
    folder = (data or Path(tempfile.mkdtemp(prefix="iceprod-demo-"))).absolute()
    kept = False
    site: DemoSite | None = None
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        _check_room(folder)
        site = arrange(folder, mongodb=mongodb, with_nginx=with_nginx)
        # Each process of the demo finds its settings here, this one included.
        os.environ.update(site.environment)
        account = _new_site(folder)
        with DemoServer(folder, site.arguments) as server:
            url = server.wait_until_ready()
            code = _run(Site(url, account.token, patient=True), server, example, jobs=jobs, target=target)
            if keep:
                server.leave_running()
                kept = True
                _tell_how_to_go_on(server, account, folder)
        return code
    finally:
        if not kept and site is not None and site.makes_database:
            _remove_database(folder)
        if not kept and data is None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(folder: Path) -> None:
    """End here if the site would refuse the example's files, which its tasks would try for long."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    needed = load_settings(None).files.keep_free_bytes + _ROOM_BYTES
    if shutil.disk_usage(existing).free < needed:
        exits.fail(f"{existing} has less than {needed / 1e6:.0f} MB free; name another folder by --data")


def _remove_database(folder: Path) -> None:
    from iceprod.server import beside  # noqa: PLC0415 - the whole server

    with contextlib.suppress(IceProdError):  # a server that is away is no reason to end otherwise
        asyncio.run(beside.remove_database(load_settings(None, server={"data_dir": folder})))


def _as_interrupt(*_: object) -> None:
    """Go on as after Ctrl-C: where a loop runs, asyncio lets it end in good order."""
    signal.raise_signal(signal.SIGINT)


def _default_example() -> Path:
    """The example beside the package, where it is a checkout.

    Raises NotFoundError elsewhere.
    """
    folder = Path(iceprod.__file__).parent.parent / "examples" / "ice-muons"
    if not (folder / "dataset.yaml").exists():
        raise NotFoundError("folder with the example (name it by --example)", folder)
    return folder


def _new_site(folder: Path) -> FirstAccount:
    """The site's database with one administrator, whose password is kept in a file."""
    from iceprod.server import beside  # noqa: PLC0415 - the whole server

    account = asyncio.run(beside.prepare(load_settings(None, server={"data_dir": folder}), name=_USER))
    for name, secret in (("password.txt", account.password), ("token.txt", account.token)):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(secret + "\n", encoding="utf-8")
    return account


def _run(site: Site, server: DemoServer, example: Path, *, jobs: int, target: Path) -> int:
    """Submit, follow, show; the exit code."""
    with site:
        dataset_id = _submit(site, example, jobs=jobs, trouble=server.folder)
        password = server.folder / "password.txt"
        click.echo(f"dataset page   {site.url}/datasets/{dataset_id}")
        click.echo(f"sign in as     {_USER}, password {password.read_text(encoding='utf-8').strip()}")
        dataset = watching.follow(site, dataset_id, while_true=server.check)
        if dataset["status"] != "complete":
            _show_failure(site, dataset_id)
            return 1
        retried = _retries(site, dataset_id)
        folder = _fetch(site, dataset_id, server.token, target)
    _show_results(folder, retried)
    return 0


def _submit(site: Site, example: Path, *, jobs: int, trouble: Path) -> str:
    marks = trouble / "trouble"
    marks.mkdir(exist_ok=True)
    config = with_settings(
        read_config(example / "dataset.yaml"), (f"code=file:{example}", f"trouble={marks}")
    )
    made = site.call("dataset.submit", config=config, njobs=jobs)
    return str(made["dataset_id"])


def _retries(site: Site, dataset_id: str) -> int:
    tasks = site.listed("task.list", limit=1000, dataset_id=dataset_id)["items"]
    return sum(task["failures"] for task in tasks)


def _show_failure(site: Site, dataset_id: str) -> None:
    """The first failed task, what happened and what it printed."""
    for status in ("failed", "suspended"):
        found = site.listed("task.list", limit=1, dataset_id=dataset_id, status=status)["items"]
        if found:
            break
    else:
        output.note("error: the dataset did not complete")
        return
    task_id = found[0]["task_id"]
    attempts = site.call("task.get", task_id=task_id)["attempts"]
    output.note(f"error: task {found[0]['name']} of job {found[0]['job_index']} is {found[0]['status']}")
    if attempts:
        output.note(attempts[-1]["summary"])
    for log in choose_logs(site.call("task.logs", task_id=task_id)["items"], name=None, attempt=None):
        output.note(f"--- {log['name']}")
        print_log(site, task_id, log)


def _fetch(site: Site, dataset_id: str, token: str, target: Path) -> Path:
    """Bring the results here, into a new folder if need be."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _RESULTS:
        request = urllib.request.Request(  # noqa: S310 - our own server on this machine
            f"{site.url}/files/dataset_temp/{dataset_id}/{name}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - as above
                (target / name).write_bytes(response.read())
        except OSError as exc:
            raise Unavailable(f"could not fetch the result {name}: {exc}") from None
    return target.absolute()


def _show_results(folder: Path, retried: int) -> None:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    events = result["events"]
    click.echo()
    output.print_table(("atmospheric muons in the ice", "", ""), _rows(result, events, retried))
    click.echo()
    click.echo(f"plot           {folder / 'muons.svg'}")


def _rows(result: dict[str, Any], events: dict[str, int], retried: int) -> list[tuple[str, str, str]]:
    arriving, detected = result["rate_arriving_hz"], result["rate_detected_hz"]
    return [
        ("muons simulated", f"{events['generated']:,}", ""),
        ("arriving at the detector", f"{events['arrived']:,}", f"{arriving[0]:.0f} ± {arriving[1]:.0f} Hz"),
        ("detected", f"{events['detected']:,}", f"{detected[0]:.0f} ± {detected[1]:.0f} Hz"),
        ("expected with average energy losses", "", f"{result['rate_expected_hz']:.0f} Hz"),
        ("median energy at the detector", "", f"{result['median_energy_gev']:.0f} GeV"),
        ("attempts that failed and were retried", f"{retried}", ""),
    ]


def _tell_how_to_go_on(server: DemoServer, account: FirstAccount, folder: Path) -> None:
    with contextlib.suppress(IceProdError):
        click.echo()
        click.echo(f"the site goes on at {server.url}  (user {account.name}; data in {folder})")
        trust = f" SSL_CERT_FILE={os.environ['SSL_CERT_FILE']}" if server.url.startswith("https:") else ""
        click.echo(
            f"for commands   export ICEPROD_URL={server.url} ICEPROD_TOKEN_FILE={folder / 'token.txt'}{trust}"
        )
        click.echo(f"to end it      kill {server.pid}")
