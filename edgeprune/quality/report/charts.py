"""Drawings as SVG, in the ink of the page that they stand on: light or dark, it is the reader's."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeprune.errors import MissingPackageError

__all__ = ["bars", "in_ink"]

INK = "#010203"
"""stands for the colour of the text around, and for nothing else"""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and of the page's font
    "svg.hashsalt": "edgeprune",
    "font.size": 10,
    "savefig.transparent": True,
    "grid.color": INK,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
}
ACCENT, PLAIN = "#2f80c2", "#9aa4b2"


def in_ink(draw: Callable[[], bool], file: Path) -> str:
    """What `draw` writes into a file, as an element of the page; "" where it says that there is nothing to draw.

    Raises MissingPackageError without matplotlib.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context(STYLE):
        return _element(file.read_text(encoding="utf-8")) if draw() else ""


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError("matplotlib", "report", error) from None
    return matplotlib


def _element(text: str) -> str:
    """An SVG file as an element as wide as there is room: black is the ink, and white the paper, which is seen through.

    Its text is of the page's font.
    """
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"font: ([^;\"]*?)(['\"][^;]*|sans-serif)", r"font: \1inherit", text)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)


def bars(names: Sequence[str], values: Sequence[float], ends: Sequence[float] | None, unit: str) -> str:
    """Horizontal bars, the first of them the one that matters; ends: of a whisker, each at least its value."""
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(6.4, 0.42 * len(names) + 0.55), layout="constrained")
        axes = drawn.subplots()
        places = range(len(names))
        axes.barh(places, values, color=[ACCENT, *[PLAIN] * (len(names) - 1)], height=0.62)
        if ends is not None:
            axes.hlines(places, values, ends, color=INK, linewidth=1)
        longest = max([*values, *(ends or ())], default=0.0) or 1.0
        axes.set(xlim=(0, 1.02 * longest), xlabel=unit)
        axes.set_yticks(list(places), [f"{name}  {value:,.4g}" for name, value in zip(names, values, strict=True)])
        axes.invert_yaxis()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="both", length=0)
        content = io.StringIO()
        drawn.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return _element(content.getvalue())
