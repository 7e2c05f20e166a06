"""Plots of a sweep, as SVG: the share that is right against tokens, multiply-adds and time, with error bars.

Against multiply-adds and time the rows that nothing beats are joined. With steps inside the encoder: `panels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgeprune.errors import MissingPackageError
from edgeprune.quality.sweep.frontier import frontier
from edgeprune.quality.sweep.names import named
from edgeprune.quality.sweep.panels import draw_panels
from edgeprune.quality.sweep.rows import ALL, NAMES, Row, Sweep
from edgeprune.quality.sweep.work import ORACLE

__all__ = ["PLOTS", "plot"]

Point = tuple[float, "tuple[float, float] | None"]
"""where a row stands, and the error bar there"""

BEFORE = ("uniform", "pool", "random")
"""drawn grey and dashed: what a method has to beat"""
MARKERS = "osD^vP*X<>"


def _tokens(row: Row) -> Point | None:
    return row.keep, None


def _multiply_adds(row: Row) -> Point | None:
    return row.multiply_adds / row.unpruned_multiply_adds, None


def _time(row: Row) -> Point | None:
    if row.time is None or row.time.doubt:
        return None
    low, high = row.time.interval or (row.time.ratio, row.time.ratio)
    return row.time.ratio, (max(0.0, row.time.ratio - low), max(0.0, high - row.time.ratio))


PLOTS: dict[str, tuple[str, Callable[[Row], Point | None]]] = {
    "tokens": ("tokens kept", _tokens),
    "multiply-adds": ("multiply-adds of the encoder / unpruned", _multiply_adds),
    "time": ("time of the encoder / unpruned, medians in turns, 95 %", _time),
}
"""name of the file -> its axis, and where a row stands on it"""


def plot(sweep: Sweep, name: str, path: Path) -> bool:
    """Draw one of PLOTS into a file; False where no row has a place on it.

    Raises OSError; MissingPackageError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingPackageError("matplotlib", "sweep") from None
    label, place = PLOTS[name]
    column = ALL if sweep.asked else sweep.columns[0]
    base = sweep.rows[0]
    series = {method: rows for method, rows in _series(sweep, column).items() if any(place(row) for row in rows)}
    if not series:
        return False
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgeprune"}):  # text as text, same ids
        figure = Figure(figsize=(8.5, 5), layout="constrained")
        FigureCanvasSVG(figure)
        shown = [row for rows in series.values() for row in rows]
        if any(named(row).inside for row in shown):
            every = draw_panels(figure, name, column, base, shown, place)
        else:
            every = [figure.subplots()]
            _curves(every[0], name, column, base, series, place)
        ticks = sorted({row.keep for row in shown})
        what = "answers that are right" if sweep.asked else f"{column} to the unpruned tokens"
        for axes in every:
            if name == "tokens":
                axes.set_xscale("log", base=2)
                axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
        if len(every) > 1:
            figure.supxlabel(label, fontsize=10)
            figure.supylabel(f"{what}, %", fontsize=10)
        else:
            every[0].set(xlabel=label, ylabel=f"{what}, %")
        figure.suptitle(f"{what}, {sweep.about['images']:,} images, ± one standard error", fontsize=11)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return True


def _curves(
    axes: Any,
    name: str,
    column: str,
    base: Row,
    series: dict[str, list[Row]],
    place: Callable[[Row], Point | None],
) -> None:
    """A curve for each method, and the frontier; the legend stands beside them."""
    colours = iter(range(len(series)))
    for at, (method, rows) in enumerate(series.items()):
        before = method.startswith(BEFORE)
        style: dict[str, Any] = {"color": "0.45", "ls": ":"} if before else {"color": f"C{next(colours) % 10}"}
        _draw(axes, rows, column, place, method, {**style, "marker": MARKERS[at % len(MARKERS)]})
    level = 100 * base.values[column].value
    axes.axhline(level, color="0.4", linewidth=0.8, zorder=0)
    axes.annotate("unpruned", (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    if name != "tokens":
        able = [row for rows in series.values() for row in rows if row.method != NAMES[ORACLE] and place(row)]
        best = frontier(able, column, lambda row: (place(row) or (0.0,))[0])
        points = [((place(row) or (0.0,))[0], 100 * row.values[column].value) for row in best]
        axes.plot(*zip(*points, strict=True), color=axes.title.get_color(), linewidth=2.5, alpha=0.35, zorder=0,
                  gid="frontier", label="nothing better for less")  # fmt: skip
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def _series(sweep: Sweep, column: str) -> dict[str, list[Row]]:
    """Method -> its rows; those of the unpruned graph are no curve."""
    series: dict[str, list[Row]] = {}
    several = len({(row.precision, row.layer) for row in sweep.rows}) > 1
    for row in sweep.rows:
        pruned = row.graph_keep < sweep.rows[0].keep or row.method == NAMES[ORACLE]
        if not row.refused and pruned and column in row.values:
            name = f"{row.method} {row.precision}" if several else row.method
            series.setdefault(name, []).append(row)
    return series


def _draw(
    axes: Any,
    rows: Iterable[Row],
    column: str,
    place: Callable[[Row], Point | None],
    name: str,
    style: dict[str, Any],
) -> None:
    placed = [(row, where) for row in rows if (where := place(row)) is not None]
    if not placed:
        return
    errors = [0.0 if math.isnan(row.values[column].error) else 100 * row.values[column].error for row, _ in placed]
    wide = [bar or (0.0, 0.0) for _, (_, bar) in placed]
    across = [[low for low, _ in wide], [high for _, high in wide]] if any(map(any, wide)) else None
    axes.errorbar(
        [x for _, (x, _) in placed],
        [100 * row.values[column].value for row, _ in placed],
        yerr=errors,
        xerr=across,
        label=name,
        markersize=4,
        linewidth=1.2,
        elinewidth=0.7,
        capsize=2,
        **style,
    )
