"""Pieces of pages that recur: the only place where HTML is written outside templates."""

from __future__ import annotations

from tornado.escape import xhtml_escape
from tornado.web import UIModule

from iceprod.clock import iso
from iceprod.server import text
from iceprod.server.plots import HEIGHT, WIDTH, Plot
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


UI_MODULES = {"StatusBar": StatusBar, "StatusMark": StatusMark, "Instant": Instant, "RatePlot": RatePlot}
"""Name in templates → module."""
