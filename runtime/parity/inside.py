"""Steps inside the encoder: each one's decisions, and those of the method behind them, in rows in place of patches.

    trail.<layer>    [n + h] the row behind the step that each one is part of, -1 for none; K and above are hidden rows
    scores.<layer>   [n] what the rows were ranked by: of those that became one, the one of the highest goes on
    rule["steps"]    for each step its rule, `layer` and `keep`

What later layers compute hangs on every earlier step. Where the device's trail is the reference's, the next step is
judged by the reference's numbers; behind one that differs within rounding nothing can be said: its decisions count as
undecided. An export runs the reference again on the device's own trail, so that there every step is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.decisions import Case, Chain, joined
from edgeprune.runtime.parity.energy import energy
from edgeprune.runtime.parity.joins import joins
from edgeprune.runtime.parity.pairs import pairs
from edgeprune.runtime.parity.quadrants import quadrants
from edgeprune.runtime.parity.topk import topk

__all__ = ["STEPS", "Stepped", "rows_left", "stepped"]

STEPS: dict[str, Callable[[Case], Chain]] = {
    "topk": topk,
    "pairs": pairs,
    "joins": joins,
    "quadrants": quadrants,
    "energy": energy,
}
"""rules of a step; `indices` of such a case are the rows that go on, `trail` where each one went"""

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Stepped:
    """What the steps of one image come to."""

    chain: Chain
    case: Case | None
    """the method's own decisions, in rows; None where the trails differ"""


def stepped(case: Case) -> Stepped:
    """Judge the steps of one image, and bring the rest into rows."""
    chains: list[Chain] = []
    same = True
    for step in case.rule["steps"]:
        of_step = _case(case, step)
        if not same:
            chains.append(_undecided(len(of_step.reference["indices"])))
            continue
        if defects := _defects(of_step, step):
            chains.append(replace(_undecided(0), defects=defects))
            same = False
            continue
        chains.append(STEPS[step["name"]](of_step))
        same = np.array_equal(of_step.reference["trail"], of_step.got["trail"])
    chain = joined(chains)
    if not same:
        return Stepped(joined([chain, _undecided(case.keep)]), None)
    reference, got = (_in_rows(outputs, case.rule["steps"]) for outputs in (case.reference, case.got))
    own = {name: value for name, value in case.quantities.items() if not name.split(".")[0].isdigit()}
    return Stepped(chain, replace(case, reference=reference, got=got, quantities=own))


def rows_left(outputs: Outputs, steps: list[Mapping[str, Any]]) -> NDArray[np.int64]:
    """[n] the patches that the rows behind the last step go under, ascending; outputs: of one image."""
    names = np.arange(len(outputs["scores"]))
    for step in steps:
        trail, scores = (outputs[f"{name}.{step['layer']}"] for name in ("trail", "scores"))
        names = names[_went_on(trail, scores, int(step["keep"]))]
    return names


def _case(case: Case, step: Mapping[str, Any]) -> Case:
    """The decisions of one step."""

    def outputs(given: Outputs) -> dict[str, NDArray[Any]]:
        trail, scores = (given[f"{name}.{step['layer']}"] for name in ("trail", "scores"))
        return {"trail": trail, "scores": scores, "indices": _went_on(trail, scores, int(step["keep"]))}

    prefix = f"{step['layer']}."
    quantities = {
        name.removeprefix(prefix): value for name, value in case.quantities.items() if name.startswith(prefix)
    }
    return replace(
        case, reference=outputs(case.reference), got=outputs(case.got), quantities=quantities, rule=dict(step)
    )


def _went_on(trail: NDArray[Any], scores: NDArray[Any], keep: int) -> NDArray[np.int64]:
    """[keep] the row that each one behind the step goes on from: of its members, the one of the highest score."""
    members = trail[: len(scores)] == np.arange(keep)[:, None]
    return np.asarray(np.where(members, scores, -np.inf).argmax(axis=1), np.int64)


def _defects(case: Case, step: Mapping[str, Any]) -> list[str]:
    """What is no step at all."""
    trail, layer = case.got["trail"], step["layer"]
    places = np.arange(int(step["keep"]))
    if trail.min() < -1 or not np.isin(places, trail[: len(case.got["scores"])]).all():
        return [f"trail.{layer} must say for every row where it went, and fill {len(places)} rows behind the step"]
    if trail.max() > case.reference["trail"].max():
        return [f"trail.{layer} must lie in -1..{case.reference['trail'].max()}, got {trail.max()}"]
    if (np.diff(case.got["indices"]) <= 0).any():
        return [f"the rows behind layer {layer} must stay in raster order"]
    return []


def _undecided(count: int) -> Chain:
    """So many decisions of which nothing can be said."""
    none = np.zeros(count)
    return Chain(none, none + np.inf, none)


def _in_rows(outputs: Outputs, steps: list[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """indices, picks and scores of rows in place of patches."""
    names = rows_left(outputs, steps)
    rows = dict(outputs)
    rows["scores"] = outputs["scores"][names]
    for name in ("indices", "picks"):
        if name in outputs:
            rows[name] = np.searchsorted(names, outputs[name])
    return rows
