"""The rule `groups`, with numbers that were worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.runtime.parity.decisions import Chain
from edgeprune.runtime.parity.groups import groups
from tests.runtime.parity.test_rules import case, counts


def grouped(
    order: list[int], stands: list[int], kept: list[int], shares: list[float], worth: list[float]
) -> dict[str, Any]:
    scores = np.array(shares)
    scores[stands] += 2
    scores[kept] += 4
    picks = sorted(kept, key=lambda one: -scores[one])
    return {"indices": sorted(kept), "picks": picks, "scores": scores, "order": order, "worth": worth}


def test_of_groups_who_is_in_one_who_stands_and_who_is_kept_are_judged_apart() -> None:
    """Patches 0 to 2 are one group, of which 1 is like 0, and 3 and 4 are another, of which none is like the other."""
    rule = {"name": "groups", "most": 5, "times": 1.0}
    shares = [0.4, 0.3, 0.2, 0.25, 0.1]
    similarity = np.eye(5)
    similarity[0, 1] = similarity[1, 0] = 0.9
    directions = np.array([[0.7, 0.1], [0.5, 0.2], [0.4, 0.35], [0.1, 0.7], [0.2, 0.5]])
    own = [0.7, 0.5, 0.4, 0.7, 0.5]
    given = {"similarity": similarity, "directions": directions, "threshold": [0.5]}
    given |= {"turn": [1.0, 1.0], "rounding": [0.0, 0.0]}

    def seen(got: dict[str, Any]) -> Chain:
        return groups(case(rule, right, got, **given))

    # 2 stand in each: of the one place beside one for each group, the first has a half, which is rounded to 0
    two = [0, 0, 0, 1, 1]
    right = grouped(two, [0, 2, 3, 4], [0, 3, 4], shares, own)
    assert counts(seen(right)) == (13, 13, 0, 0)
    assert not seen(right).defects
    wrong = {
        "2 is of the first group, by .05": (
            [0, 0, 1, 1, 1],
            [0, 2, 3, 4],
            [0, 2, 3],
            shares,
            [*own[:2], 0.35, *own[3:]],
        ),
        "none that stands is like 2": (two, [0, 3, 4], [0, 3, 4], shares, own),
        "1 comes behind 0": (two, [1, 2, 3, 4], [1, 3, 4], shares, own),
        "0 is above 2": (two, [0, 2, 3, 4], [2, 3, 4], shares, own),
    }
    for words, one in wrong.items():
        assert counts(seen(grouped(*one)))[3] == 1, words
        assert not seen(grouped(*one)).defects, words
    assert counts(seen(grouped(two, [0, 1, 2, 3, 4], [0, 1, 3], shares, own)))[3] == 2  # 0 and 1 are alike
    assert seen({**right, "worth": [0.7, 0.5, 0.4, 0.6, 0.5]}).relative > 1e-2
    defects = {
        "group 0 must keep 1 patches, got 2": (two, [0, 2, 3, 4], [0, 2, 3], shares, own),
        "group 0 must keep all that stand in it before the others": (two, [0, 2, 3, 4], [1, 3, 4], shares, own),
        "order must name one of 2 groups": ([0, 0, 0, 1, 2], [0, 2, 3, 4], [0, 3, 4], shares, own),
        "a group must have a patch that stands": (two, [0, 2], [0, 3, 4], shares, own),
    }
    for words, one in defects.items():
        assert words in seen(grouped(*one)).defects
