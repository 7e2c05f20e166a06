"""AIM against the official loop, written here in numpy float64, token by token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners._rounds import rounds
from edgeprune.pruners.aim import Method
from edgeprune.runtime import Output
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
PATCHES = 25
RANDOM = np.random.default_rng(0).normal(size=(2, PATCHES, 16))
CASES = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "two clusters": RANDOM[:, np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "huge norms": 1e6 * RANDOM,
    "pairs alike": RANDOM[:, np.arange(PATCHES) // 2],
    "all equal": np.ones_like(RANDOM),
}
CLEAR = ("random", "one dominant", "two clusters", "huge norms")
"""where no two cosines are as near as rounding"""
BUDGETS = (1, 2, 9, 12, 13, 20, 24)


def formula(x: Floats, keep: int) -> tuple[list[int], Floats, Floats]:
    """bipartite_soft_matching_merge, again and again: one image [N, D] -> indices, scores, tokens"""
    tokens, names = list(x), list(range(len(x)))
    scores = np.zeros(len(x))
    first = True
    while first or len(tokens) > keep:
        unit = np.stack(tokens) / np.linalg.norm(tokens, axis=1, keepdims=True)
        scores_ab = unit[0::2] @ unit[1::2].T
        if first:
            scores[0::2], scores[1::2] = (1 - scores_ab.max(axis=1)) / 2, (1 - scores_ab.max(axis=0)) / 2
        if len(tokens) == keep:
            break
        first = False
        ranked = np.argsort(-scores_ab.max(axis=1), kind="stable").tolist()
        count = min(len(tokens) // 2, len(tokens) - keep)
        groups = [[token] for token in tokens[1::2]]
        for source in ranked[:count]:
            groups[int(scores_ab[source].argmax())].append(tokens[2 * source])
        tokens = [tokens[2 * a] for a in ranked[count:]] + [np.mean(group, axis=0) for group in groups]
        names = [names[2 * a] for a in ranked[count:]] + names[1::2]
        scores[names] += 2
    order = np.argsort(names)
    return [names[at] for at in order], scores, np.stack(tokens)[order]


def both(x: Floats, keep: int) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    projected, nothing = torch.tensor(x).float(), torch.empty(0)
    grid = (1, x.shape[1])
    static = Method(keep).select(Taps({}, nothing, projected, grid, prefix=1, depth=1))
    return static, Method(keep).official(Eager([], nothing, projected, grid, prefix=1))


def output(chosen: Selection, x: Floats) -> Output:
    projected = torch.tensor(x).float()
    tokens = projected if chosen.merged is None else chosen.merged
    return Output(tokens.numpy(), chosen.indices.int().numpy(), chosen.scores.numpy())


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize("keep", [*BUDGETS, PATCHES])
def test_both_forms_equal_the_formula(case: str, keep: int) -> None:
    x = CASES[case]
    for got in (output(chosen, x) for chosen in both(x, keep)):
        for image in range(2):
            indices, scores, tokens = formula(x[image], keep)
            assert got.indices[image].tolist() == indices
            np.testing.assert_allclose(got.scores[image], scores, atol=1e-5)
            np.testing.assert_allclose(got.tokens[image], tokens, rtol=1e-4, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", BUDGETS)
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(CASES[case], keep)
    assert not judged(Method(keep), CASES[case], official, static).reasons


def test_rounds_of_one_half_keep_the_same_patches_of_every_image() -> None:
    x = np.random.default_rng(1).normal(size=(3, 32, 8))
    assert both(x, 8)[0].indices.tolist() == [[3, 7, 11, 15, 19, 23, 27, 31]] * 3


@pytest.mark.parametrize(("patches", "keep", "merged"), [(576, 144, [288, 144]), (144, 143, [1]), (9, 1, [4, 2, 1, 1])])
def test_the_last_round_merges_as_many_as_leave_the_budget(patches: int, keep: int, merged: list[int]) -> None:
    assert rounds(patches, keep) == merged
