"""The configuration of nginx as one text, made of the templates and the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from iceprod.config import Settings
from iceprod.server.nginx.values import Values

TEMPLATES: Final = Path(__file__).parent / "templates"
_MAIN: Final = "iceprod.conf.in"
_INCLUDE: Final = re.compile(r"^( *)include (snippets/[a-z-]+\.conf);\n", re.M)
_LINE: Final = re.compile(r"^( *)@([a-z_]+)@\n", re.M)
_PLACE: Final = re.compile(r"@([a-z_]+)@")


def render(settings: Settings) -> str:
    """The configuration that these settings make.

    Raises:
        ConfigError: a setting is missing, or can't stand in a configuration of nginx.
    """
    values = Values(settings).gather()
    nginx = settings.nginx
    values["http_server"] = _filled("snippets/redirect.conf", values) if nginx.http_port else ""
    values["client_certificates"] = _filled("snippets/client-cert.conf", values) if nginx.client_ca else ""
    return _filled(_MAIN, values)


def _filled(name: str, values: Mapping[str, str]) -> str:
    """A template with its snippets and its values in their places.

    A line that is nothing but the name of a value takes as many lines as that has, maybe
    none.
    """
    text = _LINE.sub(lambda found: _indented(values[found[2]], found[1]), _with_snippets(name))
    return _PLACE.sub(lambda found: values[found[1]], text)


def _with_snippets(name: str) -> str:
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: _indented(_with_snippets(found[2]), found[1]), text)


def _indented(text: str, indent: str) -> str:
    return "".join(f"{indent}{line}\n" if line else "\n" for line in text.splitlines())
