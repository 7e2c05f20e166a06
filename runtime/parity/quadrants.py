"""`quadrants`: the highest rows go on, and each of the others is part of the remains of its quadrant. numpy only.

quantities   `quadrant` [n], of each row, 0 to 3
decisions    a cut by the scores (`topk`); where the others went is geometry: row K + quadrant, and what was remains
             before stays of its quadrant
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.runtime.parity.decisions import Case, Chain
from edgeprune.runtime.parity.topk import topk

__all__ = ["quadrants"]


def quadrants(case: Case) -> Chain:
    chosen, trail = topk(case), case.got["trail"].astype(np.int64)
    kept = case.got["indices"].astype(np.int64)
    places = case.quantities["quadrant"].astype(np.int64)
    expected = np.concatenate((places, np.arange(len(trail) - len(places)))) + len(kept)
    expected[kept] = np.arange(len(kept))
    if np.array_equal(trail, expected):
        return chosen
    return replace(chosen, defects=[*chosen.defects, "a row that is gone must be part of what remains of its quadrant"])
