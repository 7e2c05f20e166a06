"""Merging in rounds by size against its formula, in numpy float64, row by row; `aim` has the other form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.pruners._rounds import in_rounds, means_of, officially_in_rounds, rounds
from tests.pruners.test_aim import CASES, CLEAR, PATCHES, Floats

BUDGETS = (2, 9, 20)


def formula(x: Floats, keep: int) -> list[list[int]]:
    """[N, d] -> the rows that went into each that is left, by the row that it goes under."""
    groups = [[row] for row in range(len(x))]
    heads = list(range(len(x)))
    while len(heads) > keep:
        mean = np.stack([x[group].mean(axis=0) for group in groups])
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        alike = mean[0::2] @ mean[1::2].T
        ranked = np.argsort(-alike.max(axis=1), kind="stable").tolist()
        count = min(len(heads) // 2, len(heads) - keep)
        took = [list(group) for group in groups[1::2]]
        for source in ranked[:count]:
            took[int(alike[source].argmax())] += groups[2 * source]
        groups = [groups[2 * at] for at in ranked[count:]] + took
        heads = [heads[2 * at] for at in ranked[count:]] + heads[1::2]
    return [sorted(groups[at]) for at in np.argsort(heads)]


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_merge_the_rows_that_the_formula_does(case: str, keep: int) -> None:
    x = torch.tensor(CASES[case]).float()
    for chosen in (in_rounds(x, keep, by_size=True), officially_in_rounds(x, keep, by_size=True)):
        assert chosen.origin is not None
        assert chosen.merged is not None
        for image in range(2):
            groups = formula(CASES[case][image], keep)
            assert [torch.nonzero(chosen.origin[image] == at).flatten().tolist() for at in range(keep)] == groups
            wanted = np.stack([CASES[case][image][group].mean(axis=0) for group in groups])
            scale = float(np.abs(CASES[case]).max())
            np.testing.assert_allclose(chosen.merged[image], wanted, rtol=1e-4, atol=1e-5 * scale)


def test_sizes_matter_from_the_second_round_on() -> None:
    x = torch.tensor(CASES["random"]).float()
    for keep, same in ((13, True), (5, False)):
        by_size, each_once = in_rounds(x, keep, by_size=True).merged, in_rounds(x, keep).merged
        assert by_size is not None
        assert each_once is not None
        assert torch.allclose(by_size, each_once, rtol=1e-4, atol=1e-6) == same


def test_means_are_of_what_went_into_each_token() -> None:
    merge = means_of(torch.tensor([[0, 1, 0, 0]]), 2)
    torch.testing.assert_close(merge, torch.tensor([[[1 / 3, 0, 1 / 3, 1 / 3], [0, 1, 0, 0]]]))


def test_nothing_merges_where_every_row_is_kept() -> None:
    assert rounds(PATCHES, PATCHES) == []
    assert in_rounds(torch.randn(1, PATCHES, 4), PATCHES, by_size=True).merged is None
