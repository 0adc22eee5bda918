"""What `Access.options` may say to this protocol."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from iceprod.errors import InputError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "protection": ("C", "S", "P"),
    "dcau": ("A", "N"),
    "delegate": ("limited", "full", "no"),
    "atomic": ("yes", "no"),
    "parents": ("yes", "no"),
    "verify": ("yes", "no"),
    "striped": ("no", "yes"),
}
_MAX_STREAMS: Final = 64


@dataclass(frozen=True, slots=True)
class Options:
    """How files are moved; the names and values are those of the mover's docstring."""

    protection: str = "C"
    dcau: str = "A"
    delegate: str = "limited"
    streams: int = 1
    striped: bool = False
    atomic: bool = True
    parents: bool = True
    verify: bool = True
    subject: str = ""
    data_hosts: str = "control"

    @property
    def delegates(self) -> bool:
        """Whether the server needs a proxy: to show it on data connections."""
        return self.dcau == "A"

    def allows_data_host(self, address: str, control: str) -> bool:
        """Whether data may go to ``address`` when the control connection goes to ``control``."""
        there = _plain(address)
        if self.data_hosts == "any" or there == _plain(control):
            return True
        return self.data_hosts != "control" and any(there in one for one in _networks(self.data_hosts))


def read_options(given: Mapping[str, str]) -> Options:
    """The options that are given, and what stands for the others.

    Raises:
        InputError: one is unknown, or has a value that it can't have.
    """
    known = [one.name for one in fields(Options)]
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; {near[0]} is meant?" if near else ""
            raise InputError(f"GridFTP has no option {name[:40]!r}{hint}")
        values[name] = _value(name, text)
    if values.get("delegate") == "no":
        if values.setdefault("dcau", "N") == "A":
            raise InputError("with dcau = A something must be delegated")
        if values.get("protection", "C") != "C":
            raise InputError("data can be protected only where something is delegated")
    if values.get("dcau") == "N" and values.get("protection", "C") != "C":
        raise InputError("data can be protected with dcau = A only")
    return Options(**values)


def _value(name: str, text: str) -> str | int | bool:
    if name == "streams":
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= _MAX_STREAMS):
            raise InputError(f"streams is a number from 1 to {_MAX_STREAMS}")
        return int(text)
    if name == "data_hosts":
        if text not in ("any", "control"):
            _networks(text)
        return text
    choices = _CHOICES.get(name)
    if choices is None:
        return text
    if text not in choices:
        raise InputError(f"{name} is one of {', '.join(choices)}")
    return text == "yes" if set(choices) == {"yes", "no"} else text


def _networks(text: str) -> list[_Network]:
    try:
        return [ipaddress.ip_network(one.strip()) for one in text.split(",")]
    except ValueError:
        raise InputError("data_hosts is 'control', 'any', or networks with commas between") from None


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(address)
    return getattr(found, "ipv4_mapped", None) or found
