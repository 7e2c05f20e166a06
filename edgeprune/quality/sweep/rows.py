"""The rows of a sweep: what its cells come to, method by method and budget by budget.

A share stands with its standard error, clustered by image. Of `random` a row is the mean over its seeds, and how far
these lie apart is in the error: sqrt(clustered^2 + variance of the seeds' means / seeds).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune import typed
from edgeprune.errors import RequestError
from edgeprune.quality.errors import Mean, clustered, difference
from edgeprune.quality.questions import KINDS
from edgeprune.quality.sweep.fidelity import COLUMNS
from edgeprune.quality.sweep.items import Item
from edgeprune.quality.sweep.variants import RANDOM, UNPRUNED, Variant
from edgeprune.quality.sweep.work import BLIND, ORACLE, RIGHT, WRONG, Graph

__all__ = ["ALL", "NAMES", "Row", "Sweep", "Time", "read", "rows_of"]

ALL = "all"
"""the column of all questions"""
NAMES = {RIGHT: "unpruned", WRONG: "wrong image", BLIND: "no token", ORACLE: "oracle patches"}
"""what the rows of the unpruned graph are called"""

Setting = tuple[str, "int | None"]
Cells = Mapping[tuple[Variant, int, Setting, str], Sequence[Mapping[str, Any]]]
Serving = Mapping[tuple[Variant, int, Setting], Graph]


@dataclass(frozen=True)
class Time:
    """Of the graph beside the unpruned one, in turns."""

    median_ms: float
    unpruned_ms: float
    ratio: float
    """of the medians: below 1, pruning is faster"""
    interval: tuple[float, ...] | None
    """in which it lies with 95 %"""
    doubt: str
    """why the ratio says too little; empty where it may be told"""
    rounds: int


@dataclass(frozen=True)
class Row:
    method: str
    """with its options, or a name of NAMES"""
    keep: int
    """tokens of an image; K, or N of the unpruned graph"""
    precision: str
    layer: int | None
    """None: the model's own"""
    refused: str = ""
    """why there is nothing else; empty where there is"""
    values: Mapping[str, Mean] = field(default_factory=dict)
    """by kind of question, then ALL; or by column of `fidelity`: shares in 0..1"""
    gains: Mapping[str, Mean] = field(default_factory=dict)
    """the same, minus the unpruned row's, question by question: below 0 is lost"""
    multiply_adds: int = 0
    """of the graph; where it is cut, of an export with so many tokens, by the formula"""
    unpruned_multiply_adds: int = 0
    graph_keep: int = 0
    """tokens of the graph that ran, more than `keep` where it is cut"""
    time: Time | None = None
    """of that graph"""


@dataclass(frozen=True)
class Sweep:
    rows: tuple[Row, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    """the model, the data, machine and versions, and how much of it was computed now"""
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the values: kinds of questions and ALL, or those of `fidelity`."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))

    @property
    def asked(self) -> bool:
        """Whether questions were asked; else it is fidelity."""
        return ALL in self.columns

    def to_json(self) -> dict[str, Any]:
        return _finite(asdict(self))  # type: ignore[no-any-return]


def read(file: Path) -> Sweep:
    """What `sweep.json` holds. Raises RequestError when it is none."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        for row in given["rows"]:
            for values in (row["values"], row["gains"]):
                for mean in values.values():
                    mean["error"] = math.nan if mean["error"] is None else mean["error"]
        sweep: Sweep = typed.read(Sweep, given, typed.JSON)
        return sweep
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{file} must be what `edgeprune sweep` wrote: {error!s:.100}") from None


def rows_of(
    cells: Cells,
    serving: Serving,
    records: Mapping[Graph, Mapping[str, Any]],
    times: Mapping[Graph, Mapping[str, Any]],
    items: Sequence[Item],
) -> tuple[Row, ...]:
    """cells: the result of each shard, of all that was not refused

    serving, records, times: which graph gave what, what is known of it, and how long it takes
    """
    asked = bool(items[0].queries)
    places = [at for at, item in enumerate(items) for _ in (item.queries if asked else [None])]
    kinds = [query.kind for item in items for query in item.queries]
    settings = list(dict.fromkeys(setting for _, _, setting in serving))
    base = _joined(cells[UNPRUNED, 0, settings[0], RIGHT])
    rows = []
    for setting in settings:
        whole = records[serving[UNPRUNED, 0, setting]]
        for (variant, keep, own, seen), results in cells.items():
            if own != setting:
                continue
            values = _joined(results)
            graph = serving[(UNPRUNED, 0, setting) if seen == ORACLE else (variant, keep, setting)]
            record = records[graph]
            less = 0 if variant == UNPRUNED else record["per_token"] * (record["keep"] - keep)
            row = Row(
                method=NAMES[seen] if variant == UNPRUNED else variant.name,
                keep=0 if seen == BLIND else keep or record["keep"],
                precision=setting[0],
                layer=setting[1],
                values=_means(values, kinds, places),
                gains=_means(values, kinds, places, base),
                multiply_adds=record["multiply_adds"] - less,
                unpruned_multiply_adds=whole["multiply_adds"],
                graph_keep=record["keep"],
                time=_time(times.get(graph)),
            )
            rows.append((variant, seen, row, values))
        rows += [(v, RIGHT, row, {}) for v, row in _refused(serving, records, setting)]
    return _ordered(_over_seeds(rows, kinds, places, base))


def _joined(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Column -> values in the order of the images; of answers, the one column `score`."""
    columns = ("score",) if "score" in results[0] else tuple(column for column in COLUMNS if column in results[0])
    return {column: [value for one in results for value in one[column]] for column in columns}


def _means(
    values: Mapping[str, Sequence[float]],
    kinds: Sequence[str],
    places: Sequence[int],
    base: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Mean]:
    """By kind of question and of all, or by column; minus `base`, where that is given."""

    def mean(column: str, chosen: Sequence[int]) -> Mean:
        own, groups = [values[column][at] for at in chosen], [places[at] for at in chosen]
        return clustered(own, groups) if base is None else difference(own, [base[column][at] for at in chosen], groups)

    every = range(len(places))
    if "score" not in values:
        return {column: mean(column, every) for column in values}
    named = [kind for kind in KINDS if kind in kinds]
    split = {kind: [at for at in every if kinds[at] == kind] for kind in dict.fromkeys([*named, *kinds])}
    return {**{kind: mean("score", chosen) for kind, chosen in split.items()}, ALL: mean("score", every)}


def _time(given: Mapping[str, Any] | None) -> Time | None:
    if given is None:
        return None
    interval = given["interval"]
    return Time(**{**given, "interval": None if interval is None else tuple(interval)})


def _refused(
    serving: Serving, records: Mapping[Graph, Mapping[str, Any]], setting: Setting
) -> list[tuple[Variant, Row]]:
    """One row for each reason of a method, at the largest budget that it is given for."""
    refusals: dict[tuple[Variant, str], Row] = {}
    for (variant, keep, own), graph in serving.items():
        why = records[graph]["refused"]
        if own == setting and why and (variant, why) not in refusals:
            refusals[variant, why] = Row(variant.name, keep, *setting, refused=why)
    return [(variant, row) for (variant, _), row in refusals.items()]


Found = list[tuple[Variant, str, Row, "dict[str, list[float]]"]]


def _over_seeds(rows: Found, kinds: Sequence[str], places: Sequence[int], base: Any) -> list[Row]:
    """The rows of RANDOM become one for each budget."""
    merged, seeds = [], dict[tuple[Any, ...], list[tuple[Row, dict[str, list[float]]]]]()
    for variant, _, row, values in rows:
        if variant in RANDOM and not row.refused:
            of = seeds.setdefault((row.keep, row.precision, row.layer), [])
            if not of:
                merged.append(row)  # its place
            of.append((row, values))
        elif variant not in RANDOM[1:]:
            merged.append(row)
    for drawn in seeds.values():
        mean = {column: np.mean([values[column] for _, values in drawn], axis=0).tolist() for column in drawn[0][1]}
        place = next(at for at, row in enumerate(merged) if row is drawn[0][0])
        merged[place] = replace(
            merged[place],
            method=f"random ({len(drawn)} seeds)",
            values=_spread(_means(mean, kinds, places), [row.values for row, _ in drawn]),
            gains=_spread(_means(mean, kinds, places, base), [row.gains for row, _ in drawn]),
        )
    return merged


def _spread(means: dict[str, Mean], seeds: Sequence[Mapping[str, Mean]]) -> dict[str, Mean]:
    """With what the seeds differ by in the error."""
    spread = {}
    for column, mean in means.items():
        own = [seed[column].value for seed in seeds]
        variance = float(np.var(own, ddof=1)) / len(own) if len(own) > 1 else 0.0
        spread[column] = replace(mean, error=math.sqrt(mean.error**2 + variance))
    return spread


def _ordered(rows: list[Row]) -> tuple[Row, ...]:
    """What is measured from first, then method by method, the largest budget first."""
    names = list(dict.fromkeys(row.method for row in rows))
    first = [NAMES[seen] for seen in (RIGHT, WRONG, BLIND, ORACLE)]
    place = {name: at for at, name in enumerate([*first, *(name for name in names if name not in first)])}
    return tuple(sorted(rows, key=lambda row: (place[row.method], row.precision, row.layer or 0, -row.keep)))


def _finite(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
