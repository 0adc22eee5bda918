"""Numbers, times and durations as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from iceprod.clock import iso
from iceprod.model.federation import site_of

_THIN = "\u202f"
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def number(value: float) -> str:
    """A count with thin spaces between thousands; other numbers with three significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}".replace(",", _THIN)
    return f"{value:.3g}"


def percent(part: float, whole: float) -> str:
    """A share, never rounded up to 100 % before all is there."""
    if whole <= 0:
        return "0 %"
    share = 100 * part / whole
    if share == 0 or share >= 100:
        return f"{share:.0f}{_THIN}%"
    return f"{min(99.9, max(0.1, share)):.1f}{_THIN}%"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return "under 1 s" if seconds > 0 else "0 s"
    parts: list[str] = []
    rest = float(round(seconds))
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{int(count)}{_THIN}{unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def rate(per_s: float | None) -> str:
    """A rate of tasks in the unit that makes it a readable number."""
    if not per_s:
        return "–"
    for factor, unit in ((1.0, "s"), (60.0, "min"), (3600.0, "h")):
        if per_s * factor >= 1:
            return f"{per_s * factor:.3g} per {unit}"
    return f"{per_s * 86400:.2g} per day"


def instant(at: float) -> str:
    """An instant to the second, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(at: float, now: float) -> str:
    """How long ago, or in how long."""
    return f"{duration(now - at)} ago" if at <= now else f"in {duration(at - now)}"


def size(count: float) -> str:
    """A number of bytes, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}{_THIN}{unit}"
        count /= 1000
    return f"{count:.3g}{_THIN}TB"


def usage(amounts: Mapping[str, float]) -> str:
    """What an attempt used, in the units of the dataset format (GB, hours), in readable ones."""
    writers: dict[str, Callable[[float], str]] = {
        "cpu": lambda cores: f"{cores:.2g} cores",
        "gpu": lambda gpus: f"{gpus:.2g} GPUs",
        "memory": lambda gigabytes: f"{size(gigabytes * 1e9)} memory",
        "disk": lambda gigabytes: f"{size(gigabytes * 1e9)} disk",
        "time": lambda hours: duration(hours * 3600),
    }
    found = [writers[name](amount) for name, amount in amounts.items() if name in writers and amount > 0]
    return ", ".join(found) or "–"


HELPERS = {
    "ago": ago,
    "duration": duration,
    "instant": instant,
    "iso": iso,
    "number": number,
    "percent": percent,
    "rate": rate,
    "site_of": site_of,
    "size": size,
    "usage": usage,
}
"""What templates may call."""
