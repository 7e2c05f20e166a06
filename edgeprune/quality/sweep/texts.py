"""A sweep as a table: for Markdown, with errors; for a terminal, narrow; and as CSV, with everything."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from edgeprune.quality.errors import Mean
from edgeprune.quality.sweep.names import named
from edgeprune.quality.sweep.rows import ALL, Row, Sweep

__all__ = ["captions", "headings", "lines", "to_csv", "to_markdown"]

UNKNOWN = ("?", "unknown")
"""a time that is not told, where there is little room and where there is more"""


def headings(sweep: Sweep) -> list[str]:
    """Of `lines`, those of numbers with ` >` behind them."""
    lost = ["lost >"] if sweep.asked else []
    time = ["time >"] if _timed(sweep) else []
    inside = ["inside"] if _shortened(sweep) else []
    return [
        "method",
        *inside,
        "K >",
        *_extra(sweep),
        *(f"{column} >" for column in sweep.columns),
        *lost,
        "adds >",
        *time,
    ]


def lines(sweep: Sweep, errors: bool = True) -> list[list[str]]:
    """A list of texts for each row that was not refused.

    errors: each share with its standard error, not only what is lost
    """
    return [_line(sweep, row, errors) for row in sweep.rows if not row.refused]


def _line(sweep: Sweep, row: Row, errors: bool) -> list[str]:
    share = _with_error if errors else _share
    extra = {"precision": row.precision, "layer >": "own" if row.layer is None else str(row.layer)}
    first = row is sweep.rows[0]
    gain = row.gains.get(ALL)
    lost = "" if first or gain is None else f"{0.0 - 100 * gain.value:.1f} ±{100 * gain.error:.1f}"
    name = named(row)
    return [
        *([name.method, name.steps] if _shortened(sweep) else [row.method]),
        str(row.keep),
        *(extra[name] for name in _extra(sweep)),
        *(share(row.values.get(column)) for column in sweep.columns),
        *([lost] if sweep.asked else []),
        "" if row.keep == 0 else f"{row.multiply_adds / row.unpruned_multiply_adds:.3f}",
        *([_ratio(row, errors)] if _timed(sweep) else []),
    ]


def _ratio(row: Row, wide: bool) -> str:
    return "" if row.time is None else UNKNOWN[wide] if row.time.doubt else f"{row.time.ratio:.3f}"


def captions(sweep: Sweep) -> list[str]:
    """What has to be said beside the table."""
    what = "shares that are right" if sweep.asked else "shares that are left of the unpruned tokens"
    about = sweep.about
    asked = f" with {about['questions']:,} questions" if sweep.asked else ""
    notes = [
        f"Percent, {what}, of {about['images']:,} images{asked} ({about['data']}), ± one standard error, clustered by "
        f"image; {'adds and time' if _timed(sweep) else 'adds'}: over the unpruned graph's."
    ]
    if any(row.graph_keep > row.keep > 0 and "unpruned" not in row.method and row.time for row in sweep.rows):
        most = max(row.graph_keep for row in sweep.rows if row.keep < row.graph_keep and row.time)
        notes.append(f"Methods whose sets nest ran once, at {most} tokens, and were cut; their time is that graph's.")
    if doubts := [row for row in sweep.rows if row.time is not None and row.time.doubt]:
        notes.append(f"No time is told for {len(doubts)} rows: {doubts[0].time.doubt}.")  # type: ignore[union-attr]
    if _shortened(sweep):
        notes.append(
            "Steps inside shorten the encoder on the way, to the share of its multiply-adds that stands with them."
        )
    notes += [f"{row.method}, {row.keep} tokens: refused: {row.refused}." for row in sweep.rows if row.refused]
    return notes


def to_markdown(sweep: Sweep) -> str:
    names = headings(sweep)
    rules = ["---:" if name.endswith(" >") else "---" for name in names]
    table = [[name.removesuffix(" >") for name in names], rules, *lines(sweep)]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table]
    return "\n".join([*rows, "", *(f"{line}\n" for line in captions(sweep))])


def to_csv(sweep: Sweep) -> str:
    """Every figure: shares in 0..1 with their errors and counts; a refused method has its reason."""
    measures = ("value", "error", "gain", "gain_error", "count")
    fields = [f"{column}_{measure}" for column in sweep.columns for measure in measures]
    fixed = ("method", "keep", "precision", "layer", "graph_keep", "multiply_adds", "unpruned_multiply_adds")
    times = ("median_ms", "unpruned_ms", "time_ratio", "time_low", "time_high", "time_doubt")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*fixed, *times, *fields, "refused"])
    for row in sweep.rows:
        values = [value for column in sweep.columns for value in _measures(row, column)]
        layer = "" if row.layer is None else row.layer
        graph = (row.graph_keep, row.multiply_adds, row.unpruned_multiply_adds)
        writer.writerow([row.method, row.keep, row.precision, layer, *graph, *_times(row), *values, row.refused])
    return out.getvalue()


def _measures(row: Row, column: str) -> list[object]:
    mean, gain = row.values.get(column), row.gains.get(column)
    if mean is None or gain is None:
        return [""] * 5
    return [mean.value, _known(mean.error), gain.value, _known(gain.error), mean.count]


def _times(row: Row) -> list[object]:
    if (time := row.time) is None:
        return [""] * 6
    return [time.median_ms, time.unpruned_ms, time.ratio, *(time.interval or ("", "")), time.doubt]


def _known(error: float) -> object:
    return "" if math.isnan(error) else error


def _timed(sweep: Sweep) -> bool:
    return any(row.time is not None for row in sweep.rows)


def _shortened(sweep: Sweep) -> bool:
    return any(named(row).inside for row in sweep.rows)


def _extra(sweep: Sweep) -> list[str]:
    """Columns that say something only where there is more than one."""
    several: dict[str, Sequence[object]] = {
        "precision": [row.precision for row in sweep.rows],
        "layer >": [row.layer for row in sweep.rows],
    }
    return [name for name, values in several.items() if len(set(values)) > 1]


def _share(mean: Mean | None) -> str:
    return "" if mean is None else f"{100 * mean.value:.1f}"


def _with_error(mean: Mean | None) -> str:
    if mean is None:
        return ""
    return _share(mean) if math.isnan(mean.error) else f"{100 * mean.value:.1f} ±{100 * mean.error:.1f}"
