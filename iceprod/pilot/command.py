"""From a module to the argument vector and environment of its process."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iceprod.model.plan import ModuleRun
from iceprod.model.resources import Resources

_CALL = Path(__file__).with_name("call.py")

# What a module sees of the pilot's environment when its own is to be clear.
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LOGNAME",
    "OPENCL_VENDOR_PATH",
    "X509_CERT_DIR",
    "X509_USER_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "_CONDOR_SCRATCH_DIR",
    "ICEPROD_PILOT_ID",  # by which a grid finds what a pilot left behind
)
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_OWN_PATH = str(Path(sys.executable).parent)


def task_environment(
    inherited: Mapping[str, str],
    *,
    home: Path,
    tmp: Path,
    resources: Resources,
    gpus: Sequence[str],
    clear: bool,
) -> dict[str, str]:
    """The environment of a task's processes, `KEPT` or all of the pilot's as the base.

    A task sees exactly the GPUs that it was given: an empty list hides them all.  The
    directory of this Python comes last on the path, so that a plain ``python`` is found.
    """
    base = {key: inherited[key] for key in KEPT if key in inherited} if clear else dict(inherited)
    devices = ",".join(gpus)
    path = base.get("PATH") or _DEFAULT_PATH
    return {
        **base,
        "PATH": f"{path}:{_OWN_PATH}",
        "HOME": str(home),
        "PWD": str(home),
        "TMPDIR": str(tmp),
        "TMP": str(tmp),
        "PYTHONNOUSERSITE": "1",
        "CUDA_VISIBLE_DEVICES": devices,
        "GPU_DEVICE_ORDINAL": devices,
        "NUM_CPUS": f"{resources.cpu:g}",
        "NUM_GPUS": str(len(gpus)),
        "NUM_MEMORY": f"{resources.memory:g}",
        "NUM_DISK": f"{resources.disk:g}",
        "NUM_TIME": f"{resources.time_h:g}",
        "OMP_NUM_THREADS": f"{max(1, int(resources.cpu))}",
    }


def command(module: ModuleRun, *, src: Path | None, env: Mapping[str, str], call: Path) -> list[str]:
    """The argument vector that runs ``module``, whose fetched or local source is ``src``.

    ``call`` is where the arguments of a ``running_class`` lie (`call_arguments`).

    ``env_shell`` comes first: a script that sets up an environment and executes the rest of
    its arguments.  Raises ValueError if the module names nothing to run.
    """
    shell = list(module.env_shell)
    if module.running_class and not is_program(module.running_class):
        run = [_python(shell, env), str(_CALL), str(call)]
    else:
        script = src if src is not None else Path(module.running_class)
        if str(script) == ".":
            raise ValueError("the module has neither src nor running_class")
        run = [*_interpreter(script, shell, env), str(script), *module.argv]
    return [*shell, *run]


def in_container(image: str, argv: Sequence[str], *, root: Path, work: Path) -> list[str]:
    """``argv`` inside the container ``image``, with the sandbox and the pilot's own script visible there.

    Raises ValueError if this node has no program for containers.
    """
    tool = shutil.which("apptainer") or shutil.which("singularity")
    if tool is None:
        raise ValueError(f"the container {image} needs apptainer or singularity, and neither is here")
    binds = ["--bind", str(root), "--bind", f"{_CALL}:{_CALL}:ro"]
    return [tool, "exec", *binds, "--pwd", str(work), image, *argv]


def is_program(running_class: str) -> bool:
    """Whether a ``running_class`` is the path of a program instead of a Python name."""
    return "/" in running_class


def call_arguments(module: ModuleRun, *, src: Path | None, stats: Path) -> str:
    """What `call.py` needs to know of a ``running_class``, as JSON."""
    args, kwargs = _call_values(module)
    return json.dumps(
        {
            "name": module.running_class,
            "src": str(src) if src is not None else None,
            "args": args,
            "kwargs": kwargs,
            "stats": str(stats),
        }
    )


def _call_values(module: ModuleRun) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of a Python callable; a text's words are positional."""
    given = module.args
    if isinstance(given, dict):
        if set(given) == {"args", "kwargs"}:
            return list(given["args"] or ()), dict(given["kwargs"] or {})
        return [], given
    if isinstance(given, list):
        return given, {}
    return list(module.argv), {}


def _interpreter(script: Path, shell: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """What runs ``script``: nothing where it starts with ``#!`` or is a binary."""
    try:
        mode = script.stat().st_mode
        if script.suffix in (".py", ".sh") and not _has_shebang(script):
            return [_python(shell, env) if script.suffix == ".py" else "/bin/sh"]
    except OSError:
        return []  # starting it will say what is wrong
    if not mode & stat.S_IXUSR and os.access(script.parent, os.W_OK):
        script.chmod(mode | stat.S_IXUSR)
    return []


def _has_shebang(script: Path) -> bool:
    with script.open("rb") as file:
        return file.read(2) == b"#!"


def _python(shell: Sequence[str], env: Mapping[str, str]) -> str:
    """The interpreter for a module: inside an ``env_shell`` the one that is set up there."""
    if not shell:
        return sys.executable
    return "python" if shutil.which("python", path=env.get("PATH")) else "python3"
