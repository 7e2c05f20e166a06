"""Drawings as SVG, in the ink of the page that they stand on: light or dark, it is the reader's."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from edgeprune.errors import MissingPackageError

__all__ = ["ACCENT", "bars", "figure", "svg_of"]

INK = "#010203"
"""stands for the colour of the text around, and for nothing else"""
ACCENT, PLAIN = "#2f80c2", "#9aa4b2"


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches. Raises MissingPackageError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "report", error) from None
    style = {
        "svg.fonttype": "none",  # text stays text: small, and of the page's font
        "svg.hashsalt": "edgeprune",
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    }
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=(width, height), layout="constrained")
        drawn.patch.set_alpha(0)
    return drawn


def svg_of(drawn: Any) -> str:
    """The drawing as an element of a page, as wide as there is room."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgeprune"}):
        drawn.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()[content.getvalue().index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"font: ([^;\"]*?)(['\"][^;]*|sans-serif)", r"font: \1inherit", text)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)


def bars(names: Sequence[str], values: Sequence[float], ends: Sequence[float] | None, unit: str) -> str:
    """Horizontal bars, the first of them the one that matters; ends: of a whisker, each at least its value."""
    drawn = figure(6.4, 0.42 * len(names) + 0.55)
    axes = drawn.subplots()
    places = range(len(names))
    axes.barh(places, values, color=[ACCENT, *[PLAIN] * (len(names) - 1)], height=0.62)
    if ends is not None:
        axes.hlines(places, values, ends, color=INK, linewidth=1)
    longest = max([*values, *(ends or ())], default=0.0) or 1.0
    for place, value, end in zip(places, values, ends or values, strict=True):
        axes.text(end + 0.012 * longest, place, f"{value:,.4g}", va="center", color=INK)
    axes.set_yticks(list(places), list(names))
    axes.set_xlim(0, 1.15 * longest)
    axes.set_xlabel(unit)
    axes.invert_yaxis()
    _plain(axes)
    return svg_of(drawn)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(axis="both", length=0, colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
