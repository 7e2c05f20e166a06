"""`greedy`: one pick after the other, each of the highest gain given those before it. numpy only.

    gains[t] = objective given the device's own first t picks                 by the reference's quantities
    regret   = the highest gain of a patch that was free - that of the pick
    err      = |reported gain - gain| over the eight picks on either side

Objectives; C: `similarity`, cosines [N, N], S: the picks so far

    max-min     1 - C           first min over i != j of D[i, j], then min over S                      divprune
    max-sum     first `first`   then - sum over S of C                                                 todre
    determinant 1               what is left of the diagonal of C outside the span of S                dpp
    coverage    saliency        saliency_i * sum over j of max(0, C_ij - max(0, max over S of C_sj))   scope
    relevance   attention       balance * r_j - (1 - balance) * max over S of C, r: attention in 0..1  idpruner
    distance    sensitivity     r_j, then r_j * (1 - max over S of C), r: sensitivity in 0..1          zoo
    pivots      length          the P longest, then for each in turn the least 1 - C with it           dart
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.decisions import COSINE_NOISE, Case, Chain

__all__ = ["OBJECTIVES", "greedy"]

Floats = NDArray[np.float64]
Gain: TypeAlias = "Callable[[list[int]], Floats]"
Made: TypeAlias = "tuple[Gain, float, float]"
"""the gains given the picks so far; what the noise of a cosine becomes in a gain; what the measured quantities become
at most in units of a gain, 0 where the gains themselves say so"""

BESIDE = 8
"""picks on either side that the error of one is taken of: gains fall by orders of magnitude along a chain"""


def greedy(case: Case) -> Chain:
    quantities = {name: value.astype(np.float64) for name, value in case.quantities.items()}
    gains_of, noise, stretched = OBJECTIVES[case.rule["objective"]](quantities, case.rule)
    picks, reported = case.picks.tolist(), case.got["scores"].astype(np.float64)
    free = np.ones(len(reported), bool)
    regret, margin, largest, chosen = (np.zeros(len(picks)) for _ in range(4))
    for step, pick in enumerate(picks):
        gains = gains_of(picks[:step])
        chosen[step], largest[step] = gains[pick], np.abs(gains[free]).max()
        free[pick] = False
        if free.any():
            over = gains[free].max() - gains[pick]
            regret[step], margin[step] = max(over, 0), abs(over)
        else:
            margin[step] = math.inf
    errors = np.abs(reported[picks] - chosen)
    near = np.array([errors[max(0, at - BESIDE) : at + BESIDE + 1].max() for at in range(len(picks))])
    tolerance = 2 * near + case.eps * largest + 2 * COSINE_NOISE * noise
    error, scale = float(errors.max()), max(float(np.abs(chosen).max()), stretched)
    small = error <= max(4 * case.eps, COSINE_NOISE) * noise
    relative = error / scale if scale else math.inf if error else 0.0
    if small:  # a few roundings of a cosine, whatever is left of the gains
        relative = min(relative, case.bound)
    return Chain(regret, tolerance, margin, error, relative)


def _max_min(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    distance = 1 - given["similarity"]
    first = np.where(np.eye(len(distance), dtype=bool), np.inf, distance).min(axis=0)
    first = np.where(np.isfinite(first), first, 0.0)

    def gains(picks: list[int]) -> Floats:
        return distance[picks].min(axis=0) if picks else first

    return gains, 1.0, 0.0


def _max_sum(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    def gains(picks: list[int]) -> Floats:
        return -given["similarity"][picks].sum(axis=0) if picks else given["first"]

    return gains, 1.0, 0.0


def _determinant(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    """An incremental Cholesky in float64; what has `smallest` left or less is no direction."""
    left: list[Floats] = [np.ones(len(given["similarity"]))]
    factor: list[Floats] = []

    def gains(picks: list[int]) -> Floats:
        while len(left) <= len(picks):
            pick, now = picks[len(left) - 1], left[-1]
            row = np.zeros(len(now))
            if now[pick] > rule["smallest"]:
                row = given["similarity"][pick] - sum((done[pick] * done for done in factor), np.zeros(len(now)))
                row = row / math.sqrt(now[pick])
            factor.append(row)
            left.append(now - row * row)
        return left[len(picks)]

    return gains, 1.0, 0.0


def _coverage(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    similarity, saliency = given["similarity"], given["saliency"]

    def gains(picks: list[int]) -> Floats:
        covered = similarity[picks].max(axis=0).clip(0) if picks else np.zeros(len(saliency))
        gained: Floats = (similarity - covered).clip(0).sum(axis=1) * saliency
        return gained

    return gains, math.sqrt(len(saliency)) * float(saliency.max()), 0.0


def _relevance(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    measured, balance = given["attention"], float(rule["balance"])
    spread = float(measured.max() - measured.min()) + float(rule["smallest"])
    wanted = balance * (measured - measured.min()) / spread

    def gains(picks: list[int]) -> Floats:
        return np.asarray(wanted - (1 - balance) * given["similarity"][picks].max(axis=0) if picks else wanted)

    # an importance is the difference of two measured values, stretched to 0..1
    return gains, 1.0, 2 * balance * float(measured.max()) / spread


def _distance(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    measured = given["sensitivity"]
    spread = max(float(measured.max() - measured.min()), float(rule["flat"]) * float(measured.max()), 1e-30)
    relevance = (measured - measured.min()) / spread

    def gains(picks: list[int]) -> Floats:
        return np.asarray(relevance * (1 - given["similarity"][picks].max(axis=0)) if picks else relevance)

    return gains, 1.0, float(measured.max()) / spread


def _pivots(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Made:
    length, pivots = given["length"] / max(float(given["length"].max()), 1e-12), int(rule["pivots"])
    turns = [turn for turn, count in enumerate(rule["quotas"]) for _ in range(count)]

    def gains(picks: list[int]) -> Floats:
        if len(picks) < pivots:
            return length
        away: Floats = 1 - given["similarity"][picks[turns[len(picks) - pivots]]]
        return away

    return gains, 1.0, 0.0


OBJECTIVES: dict[str, Callable[[Mapping[str, Floats], Mapping[str, Any]], Made]] = {
    "max-min": _max_min,
    "max-sum": _max_sum,
    "determinant": _determinant,
    "coverage": _coverage,
    "relevance": _relevance,
    "distance": _distance,
    "pivots": _pivots,
}
