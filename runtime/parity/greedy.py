"""`greedy`: one pick after the other, each of the highest gain given those before it. numpy only.

    gains[t] = objective given the device's own first t picks                 by the reference's quantities
    regret   = the highest gain of a patch that was free - that of the pick
    err      = |reported gain - gain| over the eight picks on either side
    may be   = bound x what attention and the like have in the gain + (error of a cosine) x what becomes of it

Objectives; C: `similarity`, cosines [N, N], S: the picks so far

    max-min     1 - C           first min over i != j of D[i, j], then min over S                      divprune
    world       attention, xyz  first `attention`, then min over S of balance |xyz - xyz_s| / the largest such distance
                                from the first pick + (1 - balance) (1 - C)                            segpruner
    max-sum     first `first`   then - sum over S of C                                                 todre
    determinant 1               what is left of the diagonal of C outside the span of S                dpp
    relevant    relevance       the same of (1 - weight) C + weight r C r, r: relevance in ..1         cdpruner
    volume      products        the same of I + `products`, less 1                                     otprune
    covers      asked, mask     sum over rows r of max(0, C'_ri - max over S of C'_rs), C' of softmaxes of these
                                cosines, of words and of patches with patches                          mmtok
    coverage    saliency        saliency_i * sum over j of max(0, C_ij - max(0, max over S of C_sj))   scope
    relevance   attention       balance * r_j - (1 - balance) * max over S of C, r: attention in 0..1  idpruner
    distance    sensitivity     r_j, then r_j * (1 - max over S of C), r: sensitivity in 0..1          zoo
    apart       saliency        saliency_j, then saliency_j * (1 - max over S of C)                    score
    suppression attention       r_j, less exp(-width (1 - C_sj)^2) * what s had left, for every s      idselection
    leading     first           the `leading` highest of `first`, then min over S of 1 - C             learnpruner
    pivots      length          the P longest, then for each in turn the least 1 - C with it           dart
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.parity.decisions import COSINE_NOISE, NOTHING, Case, Chain, joined, largest
from edgeprune.runtime.parity.worth import worth

__all__ = ["OBJECTIVES", "greedy"]

Floats = NDArray[np.float64]
Gain: TypeAlias = "Callable[[list[int]], Floats]"


@dataclass(frozen=True)
class Objective:
    gains: Gain
    """of every patch, given the picks so far"""
    noise: Gain
    """what errors of rows, of a cosine for instance, become in them"""
    measured: Gain
    """what relative errors of attention, which are larger, become in them"""
    falls: bool = False
    """whether gains fall without end, so that those far below the best say nothing of how exact it is"""


UNSURE = 1e-2
"""of a cosine, what float16 may be off by"""
BESIDE = 8
"""picks on either side that the error of one is taken of: gains fall by orders of magnitude along a chain"""


def greedy(case: Case) -> Chain:
    """`parts` [[first patch, end, picks], ...]: so many are chosen of these patches, one part after the other."""
    if not (parts := case.rule.get("parts")):
        return _chain(case)
    first, chains = 0, []
    for start, end, count in parts:
        picks = case.picks[first : first + count] - start
        if len(picks) != count or (picks < 0).any() or (picks >= end - start).any():
            return joined([NOTHING], defects=[f"picks {first} to {first + count} must be of patches {start} to {end}"])
        got = {"picks": picks, "scores": case.got["scores"][start:end]}
        quantities = {name: _part(value, start, end) for name, value in case.quantities.items()}
        chains.append(_chain(replace(case, got=got, quantities=quantities)))
        first += count
    return joined(chains)


def _among(free: NDArray[np.bool_], barred: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the patches that are free those that are not barred, as long as there is one."""
    allowed = free & ~barred
    return allowed if allowed.any() else free.copy()


def _part(value: NDArray[Any], start: int, end: int) -> NDArray[Any]:
    """Of some patches: [N] and [N, N]; one number stays."""
    if value.ndim == 2:
        return value[start:end, start:end]
    return value if value.shape == (1,) else value[start:end]


def _chain(case: Case) -> Chain:
    quantities = {name: value.astype(np.float64) for name, value in case.quantities.items()}
    objective = OBJECTIVES[case.rule["objective"]](quantities, case.rule)
    picks, reported = case.picks.tolist(), case.got["scores"].astype(np.float64)
    free, barred = np.ones(len(reported), bool), quantities.get("barred", np.zeros(len(reported))) > 0
    regret, margin, scales, chosen, best, mean, noise, measured = (np.zeros(len(picks)) for _ in range(8))
    for step, pick in enumerate(picks):
        gains, among = objective.gains(picks[:step]), _among(free, barred)
        noise[step], measured[step] = objective.noise(picks[:step])[pick], objective.measured(picks[:step])[pick]
        chosen[step], best[step], mean[step] = gains[pick], gains[among].max(), gains[among].mean()
        scales[step] = max(abs(best[step]), abs(gains[pick])) if objective.falls else np.abs(gains[among]).max()
        if not among[pick]:
            return joined([NOTHING], defects=[f"pick {step + 1} is barred, and another patch is left that is not"])
        free[pick], among[pick] = False, False
        if among.any():
            over = gains[among].max() - gains[pick]
            regret[step], margin[step] = max(over, 0), abs(over)
        else:
            margin[step] = math.inf
    errors = np.abs(reported[picks] - chosen)
    near = np.array([errors[max(0, at - BESIDE) : at + BESIDE + 1].max() for at in range(len(picks))])
    tolerance = 2 * near + case.eps * scales + 2 * COSINE_NOISE * noise
    # One scale for all would let a gain be anything where it is small beside the first. Roundings add up.
    rounding = 4 * COSINE_NOISE * np.sqrt(1 + np.arange(len(picks)))
    scale = measured + noise * (case.cosine_error + rounding) / case.bound
    sets = [worth(best, chosen, mean)]
    return Chain(regret, tolerance, margin, largest(errors), largest(errors / scale), sets=sets)


def _max_min(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    distance = 1 - given["similarity"]
    first = np.where(np.eye(len(distance), dtype=bool), np.inf, distance).min(axis=0)
    first = np.where(np.isposinf(first), 0.0, first)
    return _of_cosines(lambda picks: distance[picks].min(axis=0) if picks else first, len(first))


def _world(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    attended, xyz, balance = given["attention"], given["xyz"], float(rule["balance"])
    seen = (1 - balance) * (1 - given["similarity"])
    away = np.linalg.norm(xyz[:, None] - xyz[None], axis=-1)

    def gains(picks: list[int]) -> Floats:
        if not picks:
            return attended
        far = max(float(away[picks[0]].max()), 1e-12)
        return np.asarray((balance * away[picks] / far + seen[picks]).min(axis=0))

    none = np.zeros(len(attended))
    return Objective(gains, lambda picks: none + 1 if picks else none, lambda picks: none if picks else attended)


def _max_sum(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    none = np.zeros(len(given["first"]))

    def gains(picks: list[int]) -> Floats:
        return -given["similarity"][picks].sum(axis=0) if picks else given["first"]

    return Objective(gains, lambda picks: none + math.sqrt(len(picks)), lambda picks: none if picks else given["first"])


def _determinant(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    kernel = given["similarity"]
    return _of_cosines(_left(kernel, np.ones(len(kernel)), float(rule["smallest"])), len(kernel))


def _relevant(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    """A relevance is a cosine times the text's length, and its error becomes one of r times that over the spread. An r
    of nothing is that error alone."""
    relevance, length, weight = given["relevance"], float(given["length"][0]), float(rule["weight"])
    most = float(relevance.max())
    spread = max(most - float(relevance.min()), float(rule["flat"]) * length, 1e-12)
    r = 1 - (most - relevance) / spread
    kernel = given["similarity"] * ((1 - weight) + weight * r[:, None] * r)
    left = _left(kernel, (1 - weight) + weight * r * r, float(rule["smallest"]))

    def noise(picks: list[int]) -> Floats:
        diagonal = (1 - weight) + weight * r * r
        off = length / spread
        return np.asarray(diagonal + 2 * weight * np.maximum(np.abs(r), UNSURE * off) * off)

    return Objective(left, noise, lambda _: np.zeros(len(r)))


def _volume(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    diagonal = given["products"].diagonal()
    left = _left(given["products"], diagonal, 0.0, own=1.0)

    def noise(picks: list[int]) -> Floats:
        """A row squared is off by what is left of it times what it was."""
        return np.asarray(np.sqrt(diagonal * left(picks).clip(0)))

    return Objective(left, noise, lambda _: np.zeros(len(diagonal)))


def _left(kernel: Floats, diagonal: Floats, smallest: float, own: float = 0.0) -> Gain:
    """An incremental Cholesky of own x I + kernel in float64, without what is its own; what has `smallest` left or less
    is no direction."""
    left: list[Floats] = [diagonal]
    factor: list[Floats] = []

    def gains(picks: list[int]) -> Floats:
        while len(left) <= len(picks):
            pick, now = picks[len(left) - 1], left[-1]
            row = np.zeros(len(now))
            if now[pick] + own > smallest:
                row = kernel[pick] - sum((done[pick] * done for done in factor), np.zeros(len(now)))
                row = row / math.sqrt(now[pick] + own)
            factor.append(row)
            left.append(now - row * row)
        return left[len(picks)]

    return gains


def _coverage(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    similarity, saliency = given["similarity"], given["saliency"]

    def gains(picks: list[int]) -> Floats:
        covered = similarity[picks].max(axis=0).clip(0) if picks else np.zeros(len(saliency))
        gained: Floats = (similarity - covered).clip(0).sum(axis=1) * saliency
        return gained

    noise = np.full(len(saliency), math.sqrt(len(saliency)) * float(saliency.max()))
    return Objective(gains, lambda _: noise, gains)


def _covers(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    """A share of a softmax is off by itself times what its logit is off by. A word is exact, a patch is not, so that a
    cosine of the two has half of the error of one of two patches."""
    mask, similarity = given["mask"], given["similarity"]
    heat, warmth = float(rule["words"]), float(rule["patches"])
    words = _softmax(given["asked"] / heat) * (mask / max(float(mask.sum()), 1.0))[:, None]
    patches = _softmax(similarity / warmth) * (float(rule["alpha"]) / len(similarity))
    rows = np.concatenate((words, patches))
    slope = np.concatenate((np.full(len(words), 0.5 / heat), np.full(len(patches), 1 / warmth)))[:, None]

    def best(picks: list[int]) -> Floats:
        return rows[:, picks].max(axis=1, keepdims=True) if picks else np.zeros((len(rows), 1))

    def gains(picks: list[int]) -> Floats:
        gained: Floats = (rows - best(picks)).clip(0).sum(axis=0)
        return gained

    def noise(picks: list[int]) -> Floats:
        covered = best(picks)
        near = rows > covered / 2  # an error may bring it over what is covered
        return np.asarray((slope * np.where(near, rows + covered, 0.0)).sum(axis=0) + 1e-12)

    return Objective(gains, noise, lambda _: np.zeros(len(similarity)))


def _softmax(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _relevance(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    balance = float(rule["balance"])
    importance, measured = _stretched(given["attention"], lambda spread: spread + float(rule["smallest"]))

    def gains(picks: list[int]) -> Floats:
        wanted = balance * importance
        return np.asarray(wanted - (1 - balance) * given["similarity"][picks].max(axis=0) if picks else wanted)

    return replace(_of_cosines(gains, len(importance)), measured=lambda _: balance * measured)


def _distance(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    floor = max(float(rule["flat"]) * float(given["sensitivity"].max()), 1e-30)
    relevance, measured = _stretched(given["sensitivity"], lambda spread: max(spread, floor))

    def times_distance(values: Floats, picks: list[int]) -> Floats:
        return np.asarray(values * (1 - given["similarity"][picks].max(axis=0)) if picks else values)

    def noise(picks: list[int]) -> Floats:  # a sensitivity is of one row, a cosine of two
        return relevance + times_distance(measured, picks) / 2

    return replace(_of_cosines(lambda picks: times_distance(relevance, picks), len(relevance)), noise=noise)


def _apart(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    similarity, saliency = given["similarity"], given["saliency"]

    def gains(picks: list[int]) -> Floats:
        return np.asarray(saliency * (1 - similarity[picks].max(axis=0)) if picks else saliency)

    return Objective(gains, lambda picks: saliency if picks else 0 * saliency, gains)


def _suppression(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    """What is left of the importance, and what errors of a cosine and of attention become in it, pick by pick."""
    importance, measured = _stretched(given["attention"], lambda spread: spread + float(rule["smallest"]))
    away, width = 1 - given["similarity"], float(rule["width"])
    chain = [(importance, 0 * importance, measured)]

    def after(picks: list[int]) -> tuple[Floats, Floats, Floats]:
        while len(chain) <= len(picks):
            pick, (left, noise, relative) = picks[len(chain) - 1], chain[-1]
            pull = np.exp(-width * away[pick] ** 2)
            far = np.abs(away[pick])  # the nearer two rows are, the less does an error of one change their cosine
            slope = 2 * width * far * pull * np.sqrt((2 * far).clip(None, 1))  # of the pull
            had = float(left[pick])
            if had > 0:
                left, noise = left - pull * had, noise + slope * had + pull * noise[pick]
                relative = relative + pull * relative[pick]
            chain.append((left, noise, relative))
        return chain[len(picks)]

    left, noise, relative = (lambda picks, at=at: after(picks)[at] for at in range(3))
    return Objective(left, noise, relative, falls=True)


def _stretched(measured: Floats, divisor: Callable[[float], float]) -> tuple[Floats, Floats]:
    """Measured values stretched to 0..1; and what a relative error of 1 of each of them, of the least and of the
    largest would come to there."""
    least, most = float(measured.min()), float(measured.max())
    spread = divisor(most - least)
    values = (measured - least) / spread
    return values, (measured + least + values * (most + least)) / spread


def _pivots(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    length, pivots = given["length"] / max(float(given["length"].max()), 1e-12), int(rule["pivots"])
    turns = [turn for turn, count in enumerate(rule["quotas"]) for _ in range(count)]

    def gains(picks: list[int]) -> Floats:
        if len(picks) < pivots:
            return length
        away: Floats = 1 - given["similarity"][picks[turns[len(picks) - pivots]]]
        return away

    return _of_cosines(gains, len(length))


def _leading(given: Mapping[str, Floats], rule: Mapping[str, Any]) -> Objective:
    first, count, away = given["first"], int(rule["leading"]), 1 - given["similarity"]
    none, scale = np.zeros(len(first)), np.full(len(first), max(float(np.abs(first).max()), 1e-12))

    def by_score(picks: list[int]) -> bool:
        return not picks or len(picks) < count

    return Objective(
        lambda picks: first if by_score(picks) else np.asarray(away[picks].min(axis=0)),
        lambda picks: none if by_score(picks) else none + 1,
        lambda picks: scale if by_score(picks) else none,
    )


def _of_cosines(gains: Gain, patches: int) -> Objective:
    return Objective(gains, lambda _: np.ones(patches), lambda _: np.zeros(patches))


OBJECTIVES: dict[str, Callable[[Mapping[str, Floats], Mapping[str, Any]], Objective]] = {
    "max-min": _max_min,
    "world": _world,
    "max-sum": _max_sum,
    "determinant": _determinant,
    "relevant": _relevant,
    "volume": _volume,
    "coverage": _coverage,
    "covers": _covers,
    "relevance": _relevance,
    "distance": _distance,
    "apart": _apart,
    "suppression": _suppression,
    "leading": _leading,
    "pivots": _pivots,
}
