"""`quadrants`: the highest rows go on, and each of the others is part of the remains of its quadrant. numpy only.

quantities   `quadrant` [n], of each row, 0 to 3
decisions    a cut by the scores (`topk`); where the others went is geometry: row K + quadrant, and what was remains
             before stays of its quadrant
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain
from edgeprune.runtime.parity.topk import lower_went_on, topk

__all__ = ["quadrants", "unquartered"]


def quadrants(case: Case) -> Chain:
    chosen, trail = topk(case), case.got["trail"].astype(np.int64)
    kept = case.got["indices"].astype(np.int64)
    places = case.quantities["quadrant"].astype(np.int64)
    expected = np.concatenate((places, np.arange(len(trail) - len(places)))) + len(kept)
    expected[kept] = np.arange(len(kept))
    if np.array_equal(trail, expected):
        return chosen
    astray = f"a row that does not go on behind layer {case.rule['layer']} must be of the remains of its quadrant"
    return replace(chosen, defects=[*chosen.defects, astray])


def unquartered(case: Case) -> list[str]:
    """What a step of this kind never does: a row that goes on is alone, remains stay of their quadrant."""
    kept, trail, layer = case.got["indices"], case.got["trail"], case.rule["layer"]
    alone = np.flatnonzero((trail >= 0) & (trail < len(kept)))
    if not np.array_equal(alone, kept):
        return [f"a row that goes on behind layer {layer} must be alone"]
    before = len(case.got["scores"])
    if trail.min() < 0 or not np.array_equal(trail[before:], len(kept) + np.arange(len(trail) - before)):
        return [f"a row that does not go on behind layer {layer} must be of the remains of a quadrant"]
    return lower_went_on(case)
