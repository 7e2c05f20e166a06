"""Steps inside the encoder: each one's decisions, and those of the method behind them, in rows in place of patches.

    trail.<layer>    [n + h] the row behind the step that each one is part of, -1 for none; K and above are hidden rows
    scores.<layer>   [n] what the rows were ranked by: of those that became one, the one of the highest goes on
    rule["steps"]    for each step its rule, `layer`, `keep`, and `hidden` rows behind it, if any

What later layers compute hangs on every earlier step. Where the device's trail is the reference's, the next step is
judged by the reference's numbers; behind one that differs within rounding nothing can be said of numbers: its decisions
count as undecided. An export runs the reference again on the device's own trail, so that there every step is judged.
What a step is by itself holds everywhere: each rule says what of a trail cannot be one of its own at all, by the
device's own scores (`Rule.malformed`), and the trails together say where each patch went (`places`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.decisions import NOTHING, Case, Chain, joined
from edgeprune.runtime.parity.energy import energy, unspent
from edgeprune.runtime.parity.halves import halves, unhalved
from edgeprune.runtime.parity.joins import joins, unjoined
from edgeprune.runtime.parity.pairs import pairs, unpaired
from edgeprune.runtime.parity.quadrants import quadrants, unquartered
from edgeprune.runtime.parity.topk import topk, undropped

__all__ = [
    "RANKED",
    "STEPS",
    "TRAIL",
    "Rule",
    "Stepped",
    "astray",
    "followed",
    "of_reference",
    "places",
    "stepped",
    "undecided",
]

TRAIL, RANKED = "trail.", "scores."
"""how the names of those outputs begin that say what a step did"""

Outputs: TypeAlias = "Mapping[str, NDArray[Any]]"
Step: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True)
class Rule:
    """Of a step: `indices` of its case are the rows that go on, `trail` where each row went, `scores` their ranks."""

    judge: Callable[[Case], Chain]
    malformed: Callable[[Case], list[str]]
    """what no step of this rule does, by the device's own numbers; then nothing is judged"""


STEPS: dict[str, Rule] = {
    "topk": Rule(topk, undropped),
    "pairs": Rule(pairs, unpaired),
    "joins": Rule(joins, unjoined),
    "quadrants": Rule(quadrants, unquartered),
    "energy": Rule(energy, unspent),
    "halves": Rule(halves, unhalved),
}


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
        rule, one = STEPS[step["name"]], _case(case, step)
        if defects := rule.malformed(one):
            return Stepped(joined([*chains, replace(NOTHING, defects=defects)]), None)
        if not same:
            chains.append(undecided(rule.judge(replace(one, got=one.reference))))
            continue
        chain = rule.judge(one)
        if not np.array_equal(one.reference["trail"], one.got["trail"]):
            same = False
            if (chain.regret <= 0).all() and (chain.margin > 0).all():
                unlike = f"trail.{step['layer']} is not the reference's, though every decision of it is"
                chain = replace(chain, defects=[*chain.defects, unlike])
        chains.append(chain)
    chain = joined(chains)
    return Stepped(chain, _behind(case) if same else None)


def undecided(chain: Chain) -> Chain:
    """As many decisions, of which nothing can be said."""
    none = np.zeros(len(chain.regret))
    return Chain(none, none + np.inf, none)


def of_reference(case: Case) -> Case:
    """The method's own decisions, in rows, as if the device had done what the reference did."""
    return _behind(replace(case, got=case.reference))


def followed(reference: Outputs, got: Outputs) -> bool:
    """Whether every step of a device did what the reference's did, so that all of them can be judged."""
    return all(np.array_equal(got[name], like) for name, like in reference.items() if name.startswith(TRAIL))


def places(outputs: Outputs, steps: Sequence[Step]) -> NDArray[np.int64]:
    """[N] the row behind the last step that each patch is part of, -1 for none, K and above for hidden ones.

    outputs: of one image
    """
    at = np.arange(len(outputs["scores"]))
    for step in steps:
        at = np.where(at < 0, -1, outputs[f"trail.{step['layer']}"].astype(np.int64)[at])
    return at


def astray(outputs: Outputs, steps: Sequence[Step], gains: bool) -> list[str]:
    """What cannot be steps at all, nor a choice of the rows that they left.

    outputs: of one image; gains: whether only what was picked has a score
    """
    rows, hidden = len(outputs["scores"]), 0
    for step in steps:
        layer, keep, remains = step["layer"], int(step["keep"]), int(step.get("hidden", 0))
        trail, scores = outputs[f"{TRAIL}{layer}"], outputs[f"{RANKED}{layer}"]
        if trail.shape != (rows + hidden,) or scores.shape != (rows,) or trail.dtype.kind != "i":
            return [f"trail.{layer} must be [{rows + hidden}] whole numbers, and scores.{layer} [{rows}]"]
        if not 0 < keep <= rows or remains < 0:
            return [f"behind layer {layer} there must be 1..{rows} rows, got {keep}"]
        if trail.min() < -1 or trail.max() >= keep + remains:
            return [f"trail.{layer} must lie in -1..{keep + remains - 1}, got {trail.min()}..{trail.max()}"]
        if empty := keep - len(np.intersect1d(trail[:rows], np.arange(keep))):
            return [f"trail.{layer} must fill {keep} rows behind the step; {empty} are empty"]
        if (np.diff(_went_on(trail, scores, keep)) <= 0).any():
            return [f"the rows behind layer {layer} must stay in raster order"]
        rows, hidden = keep, remains
    at, ranked = places(outputs, steps), np.isfinite(outputs["scores"])
    named, kept = _named(outputs, steps), outputs["indices"].astype(np.int64)
    if not named[kept].all() or (ranked & ~named).any():
        return ["only patches that a row goes under may be kept, and have scores; others do"]
    count = np.bincount(at[ranked], minlength=rows)
    if count.max() > 1 or not (gains or count.min() == 1):
        return ["every row behind the last step must have the score of one patch"]
    if "origin" in outputs:
        token = np.full(rows + 1, -1)
        token[at[kept]] = np.arange(len(kept))
        if not np.array_equal(outputs["origin"], token[np.where((at < 0) | (at >= rows), rows, at)]):
            return ["origin must be where the trails took each patch"]
    return []


def _behind(case: Case) -> Case:
    """What is decided behind the steps."""
    reference, got = (_in_rows(outputs, case.rule["steps"]) for outputs in (case.reference, case.got))
    own = {name: value for name, value in case.quantities.items() if not name.partition(".")[0].isdigit()}
    return replace(case, reference=reference, got=got, quantities=own)


def _case(case: Case, step: Step) -> Case:
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


def _highest(trail: NDArray[Any], scores: NDArray[Any], keep: int) -> NDArray[np.bool_]:
    """[keep, n] the rows of the highest score among those that became one; several where they are equal."""
    members = trail[: len(scores)] == np.arange(keep)[:, None]
    return np.asarray(members & (scores == np.where(members, scores, -np.inf).max(axis=1, keepdims=True)))


def _went_on(trail: NDArray[Any], scores: NDArray[Any], keep: int) -> NDArray[np.int64]:
    """[keep] the row that each one behind the step goes on from: of its members, the one of the highest score.

    Of equal ones, the first that keeps the rows in raster order, if there is one.
    """
    highest = _highest(trail, scores, keep)
    rows, before = np.zeros(keep, np.int64), -1
    for place, members in enumerate(highest):
        equal = np.flatnonzero(members)
        later = equal[equal > before]
        rows[place] = before = later[0] if len(later) else equal[0]
    return rows


def _named(outputs: Outputs, steps: Sequence[Step]) -> NDArray[np.bool_]:
    """[N] patches that a row behind the last step may go under: of the highest score at every step."""
    at = np.arange(len(outputs["scores"]))
    named = np.ones(len(at), bool)
    for step in steps:
        trail, scores = (outputs[f"{name}.{step['layer']}"] for name in ("trail", "scores"))
        highest = np.zeros(len(trail) + 1, bool)  # the last place is of none, -1
        highest[: len(scores)] = _highest(trail, scores, int(step["keep"])).any(axis=0)
        named &= highest[at]
        at = np.where(at < 0, -1, trail.astype(np.int64)[at])
    return named


def _in_rows(outputs: Outputs, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
    """indices, picks and scores of rows in place of patches; what no row was ranked by is -inf."""
    at, ranked = places(outputs, steps), np.isfinite(outputs["scores"])
    rows = dict(outputs)
    rows["scores"] = np.full(int(steps[-1]["keep"]), -np.inf, outputs["scores"].dtype)
    rows["scores"][at[ranked]] = outputs["scores"][ranked]
    for name in ("indices", "picks"):
        if name in outputs:
            rows[name] = at[outputs[name].astype(np.int64)]
    return rows
