"""`energy`: of the rows of the highest energy every other one joins the most similar of the rest. One step of PiToMe.

quantities   `similarity` [n, n], cosines of the rows' keys; `margin`, by which f jumps at it: a cosine within
             rounding of it may stand on either side, which moves an energy by margin / n
scores       -E of a row that goes on alone or joins another one, TAKES - E of a row that others may join
decisions    2r picks: the row of the highest energy of all that are left, whose turn says whether it joins or takes;
             then each of the r that join goes to the most similar of the r that take

The order in which rows were picked is that of the device's own scores, in turns; whether it is right is judged by the
reference's. numpy only.

`match` in the form `energy`: one such step after the other behind the encoder. `worth` holds the scores of each round,
`order` whom each patch joined, and `products` [N, N], inner products of keys, make the cosines of every mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import NEAR, NOTHING, Case, Chain, Floats, joined, largest
from edgeprune.runtime.parity.joins import nearest
from edgeprune.runtime.parity.tiers import TIER_ROUNDING, parted, tiers_of
from edgeprune.runtime.parity.topk import measured
from edgeprune.runtime.parity.worth import worth

__all__ = ["TAKES", "cosines", "energy", "energy_rounds", "unspent"]

TAKES = 4.0
"""above every energy, which lies in -1..1"""
TOLD = 2.0**-21
"""what an energy may lose to TAKES, in float32"""


def energy(case: Case) -> Chain:
    trail, kept = (case.got[name].astype(np.int64) for name in ("trail", "indices"))
    own, takers = _energies(case.got["scores"]), _takers(case.got["scores"])
    true = _energies(case.reference["scores"])
    error, _, errors = measured(own, true)
    relative = largest(errors - _jumps(case)) / max(largest(np.abs(true)), 1e-30)
    gone = np.setdiff1d(np.arange(len(trail)), kept)
    alike = case.quantities["similarity"].astype(np.float64)[np.ix_(gone, takers)]
    merges = nearest(alike, np.searchsorted(takers, kept[trail[gone]]), 2 * case.cosine_error + case.eps)
    picked = _picked(true, _order(own, gone, takers), errors, case.eps * largest(np.abs(true)))
    return joined([picked, merges], error, relative)


def unspent(case: Case) -> list[str]:
    """What PiToMe never does: as many rows take as join, these go to those, and their turns fall by energy."""
    scores, kept, trail = (case.got[name] for name in ("scores", "indices", "trail"))
    layer, own, takers = case.rule["layer"], _energies(scores), _takers(scores)
    gone = np.setdiff1d(np.arange(len(scores)), kept)
    if len(takers) != len(gone):
        return [f"scores.{layer} must mark {len(gone)} rows that take others, got {len(takers)}"]
    into = trail[gone]
    if (into < 0).any() or not np.isin(kept[into.clip(0)], takers).all() or np.isin(takers, gone).any():
        return [f"a row that does not go on behind layer {layer} must join one that takes others"]
    alone = np.setdiff1d(kept, takers)
    turns = own[_order(own, gone, takers)]
    if (np.diff(turns) > TOLD).any() or (len(alone) and len(turns) and own[alone].max() > turns[-1] + TOLD):
        return [f"the rows that join and take behind layer {layer} must be those of the highest energies, in turns"]
    return []


def energy_rounds(case: Case) -> Chain:
    through, worth = tiers_of(case.got["scores"]), case.got["worth"]
    origin, order = (np.asarray(case.got[name], np.int64) for name in ("origin", "order"))
    products = case.quantities["products"].astype(np.float64)
    names, root, size, mix = (
        np.arange(len(through)),
        np.arange(len(through)),
        np.ones(len(through)),
        np.eye(len(through)),
    )
    chains: list[Chain] = []
    for turn, count in enumerate(int(count) for count in case.rule["merged"]):
        scores, worth = worth[: len(names)], worth[len(names) :]
        gone = through[names] == turn
        stays = names[~gone]
        joins = order[names[gone], None] == stays
        if gone.sum() != count or not joins.any(axis=1).all():
            return joined([NOTHING, *chains], defects=[f"round {turn + 1} must merge {count} tokens into others of it"])
        trail = np.empty(len(names), np.int64)
        trail[~gone], trail[gone] = np.arange(len(stays)), joins.argmax(axis=1)
        alike = cosines(mix[names], mix[names], products)
        pull = np.where(alike >= 0, alike, float(case.rule["alpha"]) * (np.exp(np.minimum(alike, 0)) - 1)).mean(axis=1)
        step = replace(
            case,
            reference={"scores": -pull},
            got={"scores": scores, "trail": trail, "indices": np.flatnonzero(~gone)},
            quantities={"similarity": alike},
            rule={**case.rule, "layer": turn + 1},
        )
        if said := unspent(step):
            return joined([NOTHING, *chains], defects=said)
        chains.append(energy(step))
        into = stays[trail]
        weights = np.zeros((len(stays), len(through)))
        np.add.at(weights, trail, size[names, None] * mix[names])
        size[stays] = np.bincount(trail, weights=size[names], minlength=len(stays))
        mix[stays] = weights / size[stays, None]
        renamed = np.arange(len(through))
        renamed[names] = into
        root, names = renamed[root], stays
    defects = []
    if not np.array_equal(names, case.got["indices"]) or (through[names] != len(case.rule["merged"])).any():
        defects.append("the kept patches are not what the rounds leave")
    elif not np.array_equal(names[origin], root):
        defects.append("origin is not where the rounds took each patch")
    own, known = parted(case.got["scores"]), parted(case.reference["scores"])  # (1 - E) / 2 of the first round
    error = 2 * max(largest(np.abs(own - known)) - TIER_ROUNDING, 0.0)
    relative = error / max(largest(np.abs(1 - 2 * known)), 1e-30)
    return joined([NOTHING, *chains], error, relative, defects)


def cosines(left: np.ndarray, right: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Of mixtures of features, by the inner products of these: [A, N], [B, N], [N, N] -> [A, B]"""
    lengths = [np.sqrt(np.einsum("ij,jk,ik->i", rows, products, rows).clip(1e-24)) for rows in (left, right)]
    matrix: np.ndarray = left @ products @ right.T / np.outer(*lengths)
    return matrix


def _energies(scores: np.ndarray) -> Floats:
    scores = scores.astype(np.float64)
    return np.where(scores > TAKES / 2, TAKES - scores, -scores)


def _takers(scores: np.ndarray) -> np.ndarray:
    return np.flatnonzero(scores > TAKES / 2)


def _jumps(case: Case) -> Floats:
    """[n]: how far an energy may be off because cosines stand at the margin."""
    margin = float(case.rule["margin"])
    near = np.abs(case.quantities["similarity"].astype(np.float64) - margin) <= 2 * case.cosine_error
    jumps: Floats = near.mean(axis=1) * margin
    return jumps


def _order(own: Floats, gone: np.ndarray, takers: np.ndarray) -> np.ndarray:
    """[2r]: rows in turns, those that join by falling energy, and behind each of them one that takes."""
    order = np.empty(2 * len(gone), np.int64)
    order[0::2], order[1::2] = (rows[np.argsort(-own[rows], kind="stable")] for rows in (gone, takers))
    return order


def _picked(true: Floats, order: np.ndarray, errors: Floats, scale: float) -> Chain:
    """Was each the highest of all that were left?"""
    left, regret, tolerance, margin = true.copy(), [], [], []
    highest, mean = np.zeros(len(order)), np.zeros(len(order))
    for turn, row in enumerate(order):
        highest[turn], mean[turn] = left.max(), left[np.isfinite(left)].mean()
        left[row] = -np.inf
        best = left.max()
        near = order[max(0, turn - NEAR) : turn + NEAR]
        regret.append(max(0.0, best - true[row]))
        margin.append(abs(true[row] - best))
        tolerance.append(2 * float(errors[near].max()) + scale)
    lost = worth(highest, true[order], mean)
    return Chain(np.array(regret), np.array(tolerance), np.array(margin), sets=[lost])
