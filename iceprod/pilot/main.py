"""The command ``iceprod-pilot``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import secrets
import ssl
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iceprod._version import __version__
from iceprod.errors import ConfigError, FormatError
from iceprod.model.resources import Offer, Resources
from iceprod.pilot import processes
from iceprod.pilot.agent import Agent, Settings
from iceprod.pilot.detect import Detected, detect
from iceprod.pilot.home import Home
from iceprod.pilot.keeper import Keeper
from iceprod.pilot.offline import OfflineJob, run_offline
from iceprod.pilot.slots import Slots

TOKEN_VARIABLE = "ICEPROD_PILOT_TOKEN"  # noqa: S105 - the name of a variable
USAGE_ERROR = 2
BAD_CONFIG = 78


def parser() -> argparse.ArgumentParser:
    """The command line; secrets are not on it, for every user of the machine can read it."""
    made = argparse.ArgumentParser(
        prog="iceprod-pilot",
        description="Claims tasks from an iceprod server and runs them on this machine.",
        epilog=f"The token is read from --token-file or from the environment variable {TOKEN_VARIABLE}.",
    )
    made.add_argument("--version", action="version", version=f"iceprod-pilot {__version__}")
    made.add_argument("-u", "--url", help="address of the server, for example https://host:8080")
    made.add_argument("--token-file", type=Path, help="file that holds the pilot's token")
    made.add_argument("--cert-file", type=Path, help="certificate or grid proxy of the pilot, with its key")
    made.add_argument("--grid", default="", help="name of the grid that this pilot was submitted to")
    _add_offer(made)
    made.add_argument(
        "--work-dir", type=Path, help="where the tasks run (default: the batch system's scratch)"
    )
    made.add_argument(
        "--idle-time", type=float, default=600.0, metavar="S", help="end after S seconds without a task"
    )
    made.add_argument("--max-tasks", type=int, metavar="N", help="end after N tasks")
    made.add_argument(
        "--max-failures", type=int, default=10, metavar="N", help="end after N quick failures in a row"
    )
    made.add_argument(
        "--grace", type=float, default=10.0, metavar="S", help="once told to end, report for up to S seconds"
    )
    made.add_argument(
        "--log-interval", type=float, default=10.0, metavar="S", help="send the tails of logs every S seconds"
    )
    made.add_argument("--run-once", action="store_true", help="run one task, then end")
    made.add_argument("-v", "--verbose", action="store_true", help="say more")
    _add_offline(made)
    return made


def _add_offer(made: argparse.ArgumentParser) -> None:
    offer = made.add_argument_group("offer", "what tasks may use (default: what is found here)")
    offer.add_argument("--cpu", type=float, metavar="N", help="cores")
    offer.add_argument("--gpu", type=float, metavar="N", help="GPUs")
    offer.add_argument("--memory", type=float, metavar="GB", help="memory")
    offer.add_argument("--disk", type=float, metavar="GB", help="disk")
    offer.add_argument("--time", type=float, metavar="H", help="hours until this pilot must end")
    offer.add_argument("--os", help="platform, for example RHEL_7_x86_64")
    offer.add_argument("--site", default="", help="name of this site")


def _add_offline(made: argparse.ArgumentParser) -> None:
    offline = made.add_argument_group("offline", "run one task of a configuration file, with no server")
    offline.add_argument("--offline", type=Path, metavar="CONFIG", help="the dataset configuration, as JSON")
    offline.add_argument("--task", default="0", help="name or index of the task")
    offline.add_argument("--job", type=int, default=0, metavar="N", help="index of the job")
    offline.add_argument("--jobs-submitted", type=int, default=1, metavar="M", help="number of jobs")
    offline.add_argument("--dataset", type=int, default=0, metavar="D", help="number of the dataset")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s iceprod-pilot %(levelname)s %(message)s",
    )
    token = processes.take_secret(TOKEN_VARIABLE)
    try:
        code = _offline(args) if args.offline else _online(args, token)
    except (ConfigError, FormatError) as exc:
        sys.stderr.write(f"iceprod-pilot: {exc}\n")
        code = BAD_CONFIG if isinstance(exc, ConfigError) else USAGE_ERROR
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may still wait for a server that does not answer; nothing depends on it any more.
    os._exit(code)


def _online(args: argparse.Namespace, token: str) -> int:
    if not args.url:
        raise ConfigError("the address of the server is missing (--url)")
    if args.token_file:
        token = _read_token(args.token_file)
    if not token and not args.cert_file:
        raise ConfigError(f"the pilot's token is missing (--token-file, {TOKEN_VARIABLE} or --cert-file)")
    key, keeper = _guard()
    with Home.open(args.work_dir or default_work_dir(os.environ)) as home:
        detected, offer = _offer(args, home.path)
        settings = Settings(
            url=args.url,
            token=token,
            cert_file=_checked_certificate(args.cert_file),
            work_dir=home.path,
            grid=args.grid,
            idle_s=args.idle_time,
            most_tasks=1 if args.run_once else args.max_tasks,
            most_failures=args.max_failures,
            grace_s=args.grace,
            live_log_s=args.log_interval,
            inherited=dict(os.environ),
        )
        code = asyncio.run(_live(settings, Slots(offer, detected.gpus), home, keeper=keeper, key=key))
    keeper.stop()
    return code


async def _live(settings: Settings, slots: Slots, home: Home, *, keeper: Keeper, key: str) -> int:
    agent = Agent(settings, slots, keeper=keeper, key=key)
    agent.add_left_over(home.left_over)
    return await agent.run()


def _offline(args: argparse.Namespace) -> int:
    work_dir = (args.work_dir or Path.cwd()).absolute()
    work_dir.mkdir(parents=True, exist_ok=True)
    _, keeper = _guard()
    detected, offer = _offer(args, work_dir)
    job = OfflineJob(
        config_path=args.offline,
        task=args.task,
        job=args.job,
        jobs_submitted=args.jobs_submitted,
        dataset=args.dataset,
    )
    detected = replace(detected, resources=offer.resources)
    inherited = dict(os.environ)
    code = asyncio.run(
        run_offline(job, work_dir=work_dir, detected=detected, keeper=keeper, inherited=inherited)
    )
    keeper.stop()
    return code


def _guard() -> tuple[str, Keeper]:
    """Shield this process, and fork the keeper, which is shielded with it, while there is one thread."""
    key = secrets.token_hex(8)
    processes.prepare_this_process()
    return key, Keeper.start(key)


def _checked_certificate(path: Path | None) -> str:
    """The file as a path that goes on to be found, once it was read with success."""
    if path is None:
        return ""
    try:
        ssl.create_default_context().load_cert_chain(path)
    except OSError as exc:
        raise ConfigError(f"the certificate in {path} can't be used: {exc}") from exc
    return str(path.absolute())


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise ConfigError(f"the token can't be read: {exc}") from exc


def default_work_dir(environ: dict[str, str] | os._Environ[str]) -> Path:
    """The batch system's scratch directory, or one of our own below the temporary directory."""
    for name in ("_CONDOR_SCRATCH_DIR", "SLURM_TMPDIR", "PBS_JOBFS"):
        if environ.get(name):
            return Path(environ[name])
    return _private(Path(tempfile.gettempdir()) / f"iceprod-pilot-{platform.node()}-{os.getuid()}")


def _private(path: Path) -> Path:
    """``path`` as a directory that others cannot change: anybody may have made it, for its name is known."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as exc:
        raise ConfigError(f"the work directory can't be used: {exc}") from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{path} is not this user's alone; remove it, or give --work-dir")
    return path


def _offer(args: argparse.Namespace, work_dir: Path) -> tuple[Detected, Offer]:
    """What is found here, overridden by what the command line says."""
    os.chdir(work_dir)
    found = detect()
    gpus = found.gpus
    if args.gpu is not None:
        wanted = int(args.gpu)
        gpus = gpus[:wanted] if wanted <= len(gpus) else tuple(map(str, range(wanted)))
    given = {"cpu": args.cpu, "memory": args.memory, "disk": args.disk, "time_h": args.time}
    told = {name: value for name, value in given.items() if value is not None}
    resources: Resources = replace(found.resources, gpu=len(gpus), **told)
    return replace(found, gpus=gpus), Offer(resources=resources, os=args.os or found.os, site=args.site)


if __name__ == "__main__":
    sys.exit(main())
