"""A drawing of this site among others: parents above, children below, as many rows as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from iceprod.model.federation import PeerRole
from iceprod.server import text
from iceprod.site_sync.seen.overview import Standing

BOX_WIDTH: Final = 200
BOX_HEIGHT: Final = 56
_GAP: Final = 20
_BETWEEN: Final = 44
_PER_ROW: Final = 4
_MARGIN: Final = 18
_LONGEST: Final = 18
_INDENT: Final = 26
_APART: Final = 14


@dataclass(frozen=True, slots=True)
class Box:
    """A site; ``x`` and ``y`` are its left upper corner, ``name`` is cut to what has room."""

    name: str
    full_name: str
    condition: str
    words: str
    address: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class SiteMap:
    """Boxes and the lines between them (paths of SVG), with what all of it says in words."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    label: str


def site_map(own_name: str, standings: Sequence[Standing]) -> SiteMap:
    """The map of these sites around this one."""
    parents = _rows(each for each in standings if each.peer.role is PeerRole.PARENT)
    children = _rows(each for each in standings if each.peer.role is PeerRole.CHILD)
    widest = max((len(row) for row in (*parents, *children)), default=1)
    width = widest * BOX_WIDTH + (widest - 1) * _GAP + 2 * _MARGIN
    boxes: list[Box] = []
    lines: list[str] = []
    own_y = 2.0 + len(parents) * (BOX_HEIGHT + _BETWEEN)
    _place(parents, boxes, lines, top=2.0, hub=own_y, width=width)
    boxes.append(_own(own_name, (width - BOX_WIDTH) / 2, own_y))
    _place(children, boxes, lines, top=own_y + BOX_HEIGHT + _BETWEEN, hub=own_y + BOX_HEIGHT, width=width)
    height = max(box.y for box in boxes) + BOX_HEIGHT + 2
    return SiteMap(width, height, tuple(boxes), tuple(lines), _label(own_name, standings))


def site_list(own_name: str, standings: Sequence[Standing]) -> SiteMap:
    """The same in one column, for narrow screens: the others are indented, and hang on a line at the left."""
    parents = [each for each in standings if each.peer.role is PeerRole.PARENT]
    children = [each for each in standings if each.peer.role is PeerRole.CHILD]
    step = BOX_HEIGHT + _APART
    own = _own(own_name, 2.0, 2.0 + len(parents) * step)
    above = [_box(each, _INDENT, 2.0 + place * step) for place, each in enumerate(parents)]
    below = [_box(each, _INDENT, own.y + (place + 1) * step) for place, each in enumerate(children)]
    lines = [f"M10 {box.y + BOX_HEIGHT / 2:g}H{_INDENT}" for box in (*above, *below)]
    if above:
        lines.append(f"M10 {above[0].y + BOX_HEIGHT / 2:g}V{own.y:g}")
    if below:
        lines.append(f"M10 {own.y + BOX_HEIGHT:g}V{below[-1].y + BOX_HEIGHT / 2:g}")
    height = (below[-1] if below else own).y + BOX_HEIGHT + 2
    width = _INDENT + BOX_WIDTH + 2
    return SiteMap(width, height, (*above, own, *below), tuple(lines), _label(own_name, standings))


def _rows(standings: Iterable[Standing]) -> list[list[Standing]]:
    """As few rows as possible, as even as possible."""
    found = list(standings)
    count = -(-len(found) // _PER_ROW)
    rows, start = [], 0
    for left in range(count, 0, -1):
        length = -(-(len(found) - start) // left)
        rows.append(found[start : start + length])
        start += length
    return rows


def _place(
    rows: Sequence[Sequence[Standing]],
    boxes: list[Box],
    lines: list[str],
    *,
    top: float,
    hub: float,
    width: float,
) -> None:
    """Add the boxes of some rows, and what leads from each to the edge of this site at height ``hub``.

    A row is hung on a line of its own, on the side of this site; where there are several, these
    lines meet at the left.
    """
    is_below = top > hub
    for place, row in enumerate(rows):
        y = top + place * (BOX_HEIGHT + _BETWEEN)
        edge = y if is_below else y + BOX_HEIGHT
        rail = y - _BETWEEN / 2 if is_below else edge + _BETWEEN / 2
        left = (width - len(row) * BOX_WIDTH - (len(row) - 1) * _GAP) / 2
        for column, each in enumerate(row):
            x = left + column * (BOX_WIDTH + _GAP)
            boxes.append(_box(each, x, y))
            lines.append(f"M{x + BOX_WIDTH / 2:g} {edge:g}V{rail:g}H{width / 2:g}")
        if place == (0 if is_below else len(rows) - 1):
            lines.append(f"M{width / 2:g} {hub:g}V{rail:g}")
        if len(rows) > 1:
            lines.append(f"M{width / 2:g} {rail:g}H6")
    if len(rows) > 1:
        first = top - _BETWEEN / 2 if is_below else top + BOX_HEIGHT + _BETWEEN / 2
        lines.append(f"M6 {first:g}V{first + (len(rows) - 1) * (BOX_HEIGHT + _BETWEEN):g}")


def _box(standing: Standing, x: float, y: float) -> Box:
    peer = standing.peer
    tasks = "1 task" if standing.held == 1 else f"{text.number(standing.held)} tasks"
    return Box(
        name=_cut(peer.name),
        full_name=peer.name,
        condition=standing.condition,
        words=f"{standing.condition} · {tasks}",
        address=f"/sites/{peer.role}/{peer.name}",
        x=x,
        y=y,
    )


def _own(name: str, x: float, y: float) -> Box:
    return Box(_cut(name), name, "own", "this site", "", x, y)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _label(own_name: str, standings: Sequence[Standing]) -> str:
    """The same for who does not see it."""

    def named(role: PeerRole) -> str:
        found = [f"{each.peer.name} ({each.condition})" for each in standings if each.peer.role is role]
        return ", ".join(found) or "none"

    parents, children = named(PeerRole.PARENT), named(PeerRole.CHILD)
    return f"{own_name}; parents: {parents}; children: {children}"
