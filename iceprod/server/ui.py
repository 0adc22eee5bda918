"""Pieces of pages that recur: the only place where HTML is written outside templates."""

from __future__ import annotations

from tornado.escape import xhtml_escape
from tornado.web import UIModule

from iceprod.clock import iso
from iceprod.server import text
from iceprod.server.plots import HEIGHT, WIDTH, Plot
from iceprod.server.site_map import BOX_HEIGHT, BOX_WIDTH, Box, SiteMap
from iceprod.server.views import Bar

_HEIGHT = 14


class StatusBar(UIModule):
    """A bar of statuses as SVG, readable without colours: it has a title that says all."""

    def render(self, bar: Bar, key: str = "") -> str:
        """Write ``bar``; live pages find it by ``key``."""
        parts = "".join(
            f'<rect class="s-{xhtml_escape(part.status)}"'
            f' x="{part.x:g}" y="0" width="{part.width:g}" height="{_HEIGHT}"/>'
            for part in bar.segments
        )
        label = xhtml_escape(f"{bar.label}: {bar.summary}")
        live = f' data-bar="{xhtml_escape(key)}"' if key else ""
        return (
            f'<svg class="bar" viewBox="0 0 1000 {_HEIGHT}" preserveAspectRatio="none" role="img"'
            f' aria-label="{label}"{live}><title>{label}</title>'
            f'<rect class="track" x="0" y="0" width="1000" height="{_HEIGHT}"/><g>{parts}</g></svg>'
        )


class StatusMark(UIModule):
    """A status as a word with a shape and a colour."""

    def render(self, status: object) -> str:
        """Write ``status``."""
        name = xhtml_escape(str(status))
        return f'<span class="status s-{name}">{name}</span>'


class Instant(UIModule):
    """An instant for people and machines."""

    def render(self, at: float | None) -> str:
        """Write ``at``, seconds since the epoch."""
        if not at:
            return "–"
        return f'<time datetime="{iso(at)}">{text.instant(at)}</time>'


class RatePlot(UIModule):
    """A line over time as SVG, with its scale; the words say the same."""

    def render(self, plot: Plot) -> str:
        """Write ``plot``."""
        label = xhtml_escape(plot.label)
        return (
            f'<figure class="plot"><figcaption>{label}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img"'
            f' aria-label="{label}"><title>{label}</title>'
            f'<polygon class="area" points="{plot.area}"/>'
            f'<polyline class="line" points="{plot.line}" vector-effect="non-scaling-stroke"/></svg>'
            f'<p class="scale" aria-hidden="true"><span>{xhtml_escape(plot.span)}</span>'
            f"<span>top: {xhtml_escape(plot.top)}</span><span>now</span></p></figure>"
        )


_MARKS = {
    "well": "M0 6a6 6 0 1 0 12 0a6 6 0 1 0-12 0",
    "silent": "M0 6a6 6 0 1 0 12 0a6 6 0 1 0-12 0M3 6a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "paused": "M1 0h4v12H1zM7 0h4v12H7z",
    "leaving": "M0 4h6V0l6 6l-6 6V8H0z",
    "left": "M1 1h10v10H1zM3 3v6h6V3z",
    "revoked": "M2 0l4 4l4-4l2 2l-4 4l4 4l-2 2l-4-4l-4 4l-2-2l4-4l-4-4z",
}
"""A shape for each condition of a site, in a box of 12 by 12."""


class SiteTree(UIModule):
    """The map of sites as SVG: each a link, told apart by words and shapes, too."""

    def render(self, drawing: SiteMap, screen: str) -> str:
        """Write ``drawing``, for one kind of ``screen`` alone: wide or narrow."""
        label, width, height = xhtml_escape(drawing.label), f"{drawing.width:g}", f"{drawing.height:g}"
        lines = "".join(f'<path class="edge" d="{line}"/>' for line in drawing.lines)
        boxes = "".join(map(self._box, drawing.boxes))
        return (
            f'<svg class="map on-{xhtml_escape(screen)}" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="group" aria-label="{label}">'
            f"{lines}{boxes}</svg>"
        )

    def _box(self, box: Box) -> str:
        mark = _MARKS.get(box.condition, "")
        drawn = (
            f"<title>{xhtml_escape(f'{box.full_name}: {box.words}')}</title>"
            f'<rect width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
            f'<path class="mark" transform="translate(13 12)" fill-rule="evenodd" d="{mark}"/>'
            f'<text class="name" x="{33 if mark else 13}" y="23">{xhtml_escape(box.name)}</text>'
            f'<text x="{33 if mark else 13}" y="43">{xhtml_escape(box.words)}</text>'
        )
        inner = f'<a href="{xhtml_escape(box.address)}">{drawn}</a>' if box.address else drawn
        return f'<g class="box s-{box.condition}" transform="translate({box.x:g} {box.y:g})">{inner}</g>'


UI_MODULES = {
    "StatusBar": StatusBar,
    "StatusMark": StatusMark,
    "Instant": Instant,
    "RatePlot": RatePlot,
    "SiteTree": SiteTree,
}
"""Name in templates → module."""
