"""Who may import whom: the rule of docs/explanation/architecture.md, room by room."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "iceprod"
FILES = sorted(ROOT.rglob("*.py"))

LEAVES = {"errors", "clock", "ids", "config", "log", "_version", "__init__"}
PORTS = {"store.base", "store.files", "store.federation", "grids.base", "movers.base"}

# What a room may import of the other rooms; a dotted name allows that module alone.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"_version"},
    "config": {"errors"},
    "model": {"errors"},
    "formats": {"model", "errors"},
    "store": {"model", "errors", "clock", "config", "ids"},
    "grids": {"model", "errors", "clock", "config"},
    "movers": {"model", "errors", "clock", "config"},
    "services": {"model", "errors", "formats", "clock", "ids", *PORTS},
    # Of the ports the methods use values only: filters, what is known of a log or a remote file.
    "rpc": {"services", "site_sync", "model", "formats", "errors", "clock", "_version", *PORTS},
    "rpc.protocol": {"errors"},
    "rpc.client": {"errors", "_version"},
    "site_sync": {"services", "model", "errors", "clock", "ids", "rpc.client", *PORTS},
    "server": LEAVES | {"model", "formats", "store", "grids", "movers", "services", "rpc", "site_sync"},
    # The authority is files in a folder, which commands need where there is no server.
    "cli": LEAVES | {"services.ca", "server", "rpc.client", "rpc.codes", "formats", "model"},
    "pilot": {"model", "errors", "rpc.protocol", "_version"},
}

# Third-party packages that only some rooms may know.
CONFINED: dict[str, tuple[str, ...]] = {
    "asyncssh": ("movers.ssh_link",),
    "tornado": ("server", "rpc.client", "site_sync", "movers.http"),
    "motor": ("store.mongo",),
    "pymongo": ("store.mongo",),
    "bson": ("store.mongo",),
    "globus_sdk": ("movers.globus",),
    "jsonrpcclient": ("rpc.client", "site_sync"),
    "pycurl": ("rpc.client", "site_sync", "movers"),
    "httptools": ("server",),
    "click": ("cli",),
    "rich": ("cli",),
    "pydantic": ("config",),
    "pydantic_settings": ("config",),
    "cryptography": ("services", "movers.gridftp"),
    "argon2": ("services", "server.assembly"),
    "psutil": ("pilot", "grids", "server"),
}

# Rooms that may use the standard library and these packages only.
BARE: dict[str, set[str]] = {
    "model": set(),
    "pilot": {"psutil"},
    "errors": set(),
    "clock": set(),
    "ids": set(),
    "rpc.protocol": {"msgspec"},
    "rpc.codes": set(),
    "formats": {"yaml", "msgspec"},
}


def module_of(path: Path) -> str:
    """Dotted name below ``iceprod``: ``rpc.client``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, relative ones resolved; type checking's own ones left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    package = ("iceprod", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if node in for_types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            # "from iceprod.store import base" names a module, "from … import Store" does not.
            yield from (f"{start}.{alias.name}" for alias in node.names)


def lies_in(module: str, room: str) -> bool:
    """Whether ``module`` is ``room`` or inside it."""
    return module == room or module.startswith(f"{room}.")


def allowed_for(module: str) -> set[str]:
    """The rule for a file: that of its own name, or that of its room."""
    for name in (module, module.split(".", maxsplit=1)[0]):
        if name in ALLOWED:
            return ALLOWED[name]
    return set()


def ids_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids_of)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    module = module_of(path)
    room = module.split(".")[0]
    wanted = {name.removeprefix("iceprod.") for name in imports(path) if name.startswith("iceprod.")}
    outside = {name for name in wanted if not lies_in(name, room)}

    forbidden = {name for name in outside if not any(lies_in(name, may) for may in allowed_for(module))}

    # "from iceprod import ids" is the leaf ids, "from iceprod import __version__" the version.
    assert forbidden - {"__version__"} == set()


@pytest.mark.parametrize("path", FILES, ids=ids_of)
def test_a_package_is_known_only_where_it_belongs(path: Path) -> None:
    module = module_of(path)
    known = {name.split(".")[0] for name in imports(path)}

    misplaced = {
        package
        for package in known & CONFINED.keys()
        if not any(lies_in(module, room) for room in CONFINED[package])
    }

    assert misplaced == set()


@pytest.mark.parametrize("path", FILES, ids=ids_of)
def test_a_bare_room_needs_only_the_standard_library(path: Path) -> None:
    module = module_of(path)
    rules = [packages for room, packages in BARE.items() if lies_in(module, room)]
    if not rules:
        return
    foreign = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"iceprod"}

    assert foreign - set.union(*rules) == set()


@pytest.mark.parametrize("path", FILES, ids=ids_of)
def test_a_file_stays_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_every_room_has_a_rule() -> None:
    rooms = {module_of(path).split(".")[0] for path in FILES}

    assert rooms - set(ALLOWED) - LEAVES == set()
