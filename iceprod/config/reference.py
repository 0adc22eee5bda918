"""The example file and the reference page, written from the settings themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iceprod.config.settings import FailureRuleSettings, Settings

_PAGE_HEAD = """\
# Settings

The server reads one TOML file (`iceprod serve --config FILE`). Every setting can also be given in the
environment, which wins: `server.port` is `ICEPROD_SERVER__PORT`. An unknown key is an error, and all errors
are told at once. `iceprod config example` prints a file with every default.

This page is generated from `iceprod/config/`.
"""


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Headings of TOML tables and what may stand in each."""
    for name, field in Settings.model_fields.items():
        yield from _tables(name, field)


def _tables(path: str, field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """The table of that path and those inside it; none for a plain value."""
    kind, named = _table_of(field), _named_table_of(field)
    if kind is not None:
        yield f"[{path}]", kind
        for name, inner in kind.model_fields.items():
            yield from _tables(f"{path}.{name}", inner)
    elif named is not None:
        yield f"[{path}.NAME]", named
    elif _is_list_of_tables(field):
        yield f"[[{path}]]", FailureRuleSettings


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _named_table_of(field: FieldInfo) -> type[BaseModel] | None:
    """What the values are, of a dictionary whose values are tables."""
    last = get_args(field.annotation)[-1:]
    is_named = get_origin(field.annotation) is dict and isinstance(last[0], type)
    return last[0] if is_named and issubclass(last[0], BaseModel) else None


def _is_list_of_tables(field: FieldInfo) -> bool:
    return FailureRuleSettings in get_args(field.annotation)


def _plain_fields(kind: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        if not any(True for _ in _tables(name, field)):
            yield name, field


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, dict):
        return "{}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _shown(field: FieldInfo) -> str:
    """The default; an example where there is none."""
    if field.is_required():
        return _toml((field.examples or [""])[0])
    return '""' if field.default is None else _toml(field.default)


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def example_toml() -> str:
    """A settings file that says every default, commented out."""
    lines = ["# Settings of an IceProd site.  Every line that is commented out shows the default."]
    for heading, kind in _sections():
        commented = "# " if heading.endswith((".NAME]", "]]")) else ""
        lines += ["", f"{commented}{heading}"]
        for name, field in _plain_fields(kind):
            lines += [f"# {_text(field)}", f"# {name} = {_shown(field)}"]
    return "\n".join(lines) + "\n"


def reference_page() -> str:
    """The reference page in Markdown."""
    parts = [_PAGE_HEAD]
    for heading, kind in _sections():
        parts.append(f"## `{heading}`\n\n{kind.__doc__}\n\n| Key | Default | What it does |\n|---|---|---|")
        parts += [_row(name, field) for name, field in _plain_fields(kind)]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "must be given"
    else:
        default = "unset" if field.default is None else f"`{_toml(field.default)}`"
    return f"| `{name}` | {default} | {_text(field)}{_bounds(field)} |"


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most"}
    found = [
        f"{word} {getattr(rule, key)}"
        for rule in field.metadata
        for key, word in words.items()
        if getattr(rule, key, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""
