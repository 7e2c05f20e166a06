"""`topk`: one cut, the K highest of N scores. And `fixed`: the same of every image, nothing to decide. numpy only.

quantities   the scores themselves, which leave the graph; `shares`: they are means of a softmax, so that each is as
             exact as the largest, and on a peaked map what decides is far below it
"""

from __future__ import annotations

import math

import numpy as np

from edgeprune.runtime.parity.decisions import NOTHING, Case, Chain, cut, joined, largest, out_of_order

__all__ = ["fixed", "lower_went_on", "measured", "of_shares", "topk", "undropped"]


def topk(case: Case) -> Chain:
    reference = case.reference["scores"].astype(np.float64)
    error, relative, errors = measured(case.got["scores"].astype(np.float64), reference)
    if case.rule.get("shares"):
        relative = largest(relative, of_shares(errors, reference))
    chosen = np.asarray(case.got["indices"], np.int64)
    chain = cut(reference, chosen, np.ones(len(reference), bool), errors, case.eps)
    return joined([chain], error, relative, out_of_order(case))


def undropped(case: Case) -> list[str]:
    """What a step inside the encoder never does that drops rows: the K highest go on, each for itself, the others are
    gone."""
    stays, trail = case.got["indices"], case.got["trail"]
    layer, wanted = case.rule["layer"], np.full(len(trail), -1)
    wanted[stays] = np.arange(len(stays))
    if not np.array_equal(trail, wanted):
        return [f"a row that does not go on behind layer {layer} must be gone, and one that does go on alone"]
    return lower_went_on(case)


def lower_went_on(case: Case) -> list[str]:
    """The defect of a step whose rows that go on are not those of the highest of its own scores."""
    scores, stays = case.got["scores"], case.got["indices"]
    gone = np.setdiff1d(np.arange(len(scores)), stays)
    if len(gone) and scores[gone].max() > scores[stays].min():
        layer = case.rule["layer"]
        return [f"the rows that go on behind layer {layer} must be those of the highest scores; they are not"]
    return []


def fixed(case: Case) -> Chain:
    """No decision: the kept patches must be those of the reference, and in its order."""
    error, relative, _ = measured(case.got["scores"], case.reference["scores"])
    named = [name for name in ("indices", "picks") if name in case.reference]
    same = all(np.array_equal(case.got[name], case.reference[name]) for name in named)
    return joined([NOTHING], error, relative, [] if same else ["the kept patches are not the fixed ones"])


def measured(got: np.ndarray, reference: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Largest difference, the same over the largest reference, and [N] all of them."""
    errors = np.abs(got.astype(np.float64) - reference.astype(np.float64))
    error, scale = largest(errors), largest(np.abs(reference))
    return error, error / scale if scale else (math.inf if error else 0.0), errors


def of_shares(errors: np.ndarray, reference: np.ndarray) -> float:
    """The largest error of shares of attention over what each of them allows: four times itself, as errors of its
    logits are relative ones of it, and 1 % of the largest. Measured in float16: up to .2 % of a share."""
    scale = 4 * np.abs(reference) + 1e-2 * largest(np.abs(reference))
    return largest(errors / np.where(scale > 0, scale, 1))
