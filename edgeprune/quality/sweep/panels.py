"""Plots of a sweep with steps inside the encoder, in panels: ten reducers at two costs are too much for one.

Against tokens a panel for each cost; against multiply-adds and time one for each count of tokens, for a frontier is of
what gives a language model as much to read. A reducer has its colour in all of them, a method its marker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgeprune.quality.sweep.frontier import frontier
from edgeprune.quality.sweep.names import named
from edgeprune.quality.sweep.rows import Row

__all__ = ["draw_panels"]

BEFORE = ("uniform", "pool", "random", "oracle")
MARKERS = "osD^vP*X<>"
GREY = "0.5"
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "#7fc97f", "C8", "C9")
"""without the grey of what nothing is inside of"""


def draw_panels(
    figure: Any, name: str, column: str, base: Row, rows: Sequence[Row], place: Callable[[Row], Any]
) -> Any:
    """Draw into an empty figure -> its axes, the panels of the last row last.

    name: of the plot; base: the unpruned row; rows: pruned, in their order; place: where one stands, None for nowhere
    """
    rows = [row for row in rows if place(row) is not None]
    panels = dict(_by_cost(rows) if name == "tokens" else _by_tokens(rows))
    across = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    down = math.ceil(len(panels) / across)
    figure.set_size_inches(max(8.5, 3.6 * across + 2.2), 0.9 + 3.9 * down)
    every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    styles, labels = _styles(rows), dict[str, Any]()
    ink = figure.axes[0].title.get_color()
    for axes, (title, own) in zip(every, panels.items(), strict=False):
        axes.set_title(title, fontsize=10)
        curves: dict[tuple[str, str, int], list[Row]] = {}
        for row in own:
            key = named(row)
            curves.setdefault((key.method, key.inside, 0 if name == "tokens" else row.keep), []).append(row)
        for (method, inside, _), those in curves.items():
            drawn = _curve(axes, those, column, place, styles[method, inside])
            labels.setdefault(named(those[0]).series, drawn)
        level = 100 * base.values[column].value
        axes.axhline(level, color=GREY, linewidth=0.8, zorder=0)
        axes.annotate(
            "unpruned", (0.99, level), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=7
        )
        if name != "tokens":
            _frontier(axes, [row for row in own if not row.method.startswith("oracle")], column, place, ink)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    figure.legend(
        labels.values(), labels.keys(), loc="outside right center", fontsize=8, frameon=False, handlelength=1.5
    )
    return every[: len(panels)]


def _by_cost(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """What nothing is inside of is drawn in each panel, the bar for the others."""
    costs = sorted({named(row).cost for row in rows} - {""}, key=float, reverse=True)
    for cost in costs:
        yield f"encoder at {cost} of the multiply-adds", [row for row in rows if named(row).cost in ("", cost)]


def _by_tokens(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for keep in sorted({row.keep for row in rows}, reverse=True):
        yield f"{keep} tokens", [row for row in rows if row.keep == keep]


def _styles(rows: Sequence[Row]) -> Mapping[tuple[str, str], dict[str, Any]]:
    """(method, what is inside) -> its style."""
    keys = list(dict.fromkeys((named(row).method, named(row).inside) for row in rows))
    asked = [method for method in dict.fromkeys(method for method, _ in keys) if not method.startswith(BEFORE)]
    inside = list(dict.fromkeys(reducer for _, reducer in keys if reducer))
    controls = [method for method, _ in keys if method.startswith(BEFORE)]
    styles = {}
    for method, reducer in keys:
        if method.startswith(BEFORE):
            style = {"color": GREY, "ls": ":", "marker": "x+12"[controls.index(method) % 4], "zorder": 1}
        else:
            colour = COLOURS[inside.index(reducer) % 10] if reducer else GREY
            late = bool(reducer) and inside.index(reducer) >= 10
            style = {
                "color": colour,
                "marker": MARKERS[asked.index(method) % len(MARKERS)],
                "ls": "--" if late else "-",
            }
        styles[method, reducer] = style
    return styles


def _curve(axes: Any, rows: Sequence[Row], column: str, place: Callable[[Row], Any], style: dict[str, Any]) -> Any:
    placed = sorted(((place(row)[0], row) for row in rows), key=lambda one: one[0])
    errors = [row.values[column].error for _, row in placed]
    return axes.errorbar(
        [x for x, _ in placed],
        [100 * row.values[column].value for _, row in placed],
        yerr=[0.0 if math.isnan(error) else 100 * error for error in errors],
        markersize=4.5,
        linewidth=1.0,
        elinewidth=0.5,
        capsize=0,
        **style,
    )


def _frontier(axes: Any, rows: Sequence[Row], column: str, place: Callable[[Row], Any], ink: str) -> None:
    """The rows that nothing beats, joined and named; what they leave room for lies to the upper left."""
    best = frontier(rows, column, lambda row: place(row)[0])
    points = [(place(row)[0], 100 * row.values[column].value) for row in best]
    axes.plot(*zip(*points, strict=True), color=ink, linewidth=1.6, zorder=4, gid="frontier")
    for row, point in zip(best, points, strict=True):
        name = named(row)
        text = name.steps or name.method
        axes.annotate(
            text, point, xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=7.5, zorder=5, color=ink
        )
    axes.margins(x=0.28, y=0.08)
