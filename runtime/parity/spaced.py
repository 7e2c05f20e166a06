"""`spaced`: the highest scores of patches that have room, each pick wanting more of it; then the highest of the rest.

    room     1 - C >= tau_s to the s-th pick, for every pick s so far; C: `similarity`, cosines [N, N]     agilepruner
             tau_s = min(most, step s `rank` / average), rank: N^2 / sum of C^2; of an average of 0: step s
    score    s + 4 of a patch that was picked while it had room, s + 2 of one that was picked without, s: attention

Each pick is two decisions: had it room, or, of one without, had none; and was its score the highest of all that had.
A patch as near to the edge as rounding is may stand on either side: it never makes another pick wrong. numpy only.
"""

from __future__ import annotations

import math

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain, joined, out_of_order
from edgeprune.runtime.parity.tiers import compared, tiers_of
from edgeprune.runtime.parity.worth import worth

__all__ = ["spaced"]

BESIDE = 8
"""picks on either side that the error of one is taken of"""


def spaced(case: Case) -> Chain:
    tiers = tiers_of(case.got["scores"])
    reference, error, relative, errors = compared(case)
    similarity, picks = case.quantities["similarity"].astype(np.float64), case.picks
    average, most, step = (float(case.rule[name]) for name in ("average", "most", "step"))
    patches = len(reference)
    rank = float(case.quantities["rank"][0])
    share = rank / (average or rank)
    off = 4 * case.cosine_error  # of a cosine, and of the rank that it is held against
    over, free = np.full(patches, -np.inf), np.ones(patches, bool)  # over: how much nearer it stands than it may
    regret, tolerance, margin = (np.zeros(2 * len(picks)) for _ in range(3))
    best, mean = np.zeros(len(picks)), np.zeros(len(picks))
    for turn, pick in enumerate(picks):
        had, room, edge = tiers[pick] == 2, free & (over < -off), free & (over <= off)
        among, sure = (edge, room) if had else (free, free)
        held = float(over[pick]) if had else -float(over[free].min())
        regret[2 * turn], margin[2 * turn], tolerance[2 * turn] = max(held, 0.0), abs(held), off
        mean[turn] = reference[free].mean()
        free[pick] = False
        others = [float(np.max(reference[mask & free], initial=-math.inf)) for mask in (sure, among)]
        best[turn] = max(others[0], float(reference[pick]))
        near = picks[max(0, turn - BESIDE) : turn + BESIDE + 1]
        regret[2 * turn + 1] = max(others[0] - reference[pick], 0.0)
        margin[2 * turn + 1] = abs(others[1] - reference[pick])
        tolerance[2 * turn + 1] = 2 * float(errors[near].max()) + case.eps * float(reference[near].max())
        if had:
            over = np.maximum(over, similarity[pick] - 1 + np.minimum(most, step * (turn + 1) * share))
    defects = (
        []
        if (np.diff(tiers[picks]) <= 0).all() and (tiers[picks] > 0).all()
        else ["picks must be those that had room, and then those that had none"]
    )
    count = int((tiers > 0).sum())
    if count != len(picks):
        defects.append(f"the scores must mark the {len(picks)} picks, got {count}")
    chain = Chain(regret, tolerance, margin, sets=[worth(best, reference[picks], mean)])
    return joined([chain], error, relative, [*defects, *out_of_order(case)])
