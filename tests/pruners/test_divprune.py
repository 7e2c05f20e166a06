"""DivPrune against its formula, written here in numpy float64 on the distances as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.divprune import Method
from edgeprune.runtime import Output
from edgeprune.runtime.greedy_parity import Replay
from edgeprune.runtime.parity import compare
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
RANDOM = np.random.default_rng(0).normal(size=(2, 40, 32))
CASES = {
    "random": RANDOM,
    "all equal": np.ones((2, 40, 32)),
    "two clusters": RANDOM[:, np.arange(40) % 2] + 1e-2 * RANDOM,
    "one dominant": np.where(np.arange(40)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "460 of 576 alike": np.random.default_rng(1).normal(size=(1, 576, 8))[:, np.maximum(np.arange(576) - 459, 0)],
    "huge norms": 1e6 * RANDOM,
}
CLEAR = ("random", "one dominant", "huge norms")
"""where no two gains are as near as rounding"""


def cosines(x: Floats) -> Floats:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def gains(x: Floats, chosen: list[int]) -> Floats:
    distance = 1 - cosines(x)
    if not chosen:
        return np.array([np.delete(distance[:, j], j).min() for j in range(len(x))])
    return np.asarray(distance[chosen].min(axis=0))


def golden(x: Floats, keep: int) -> tuple[Output, Replay]:
    """[B, N, D] -> outputs and picks; every step from scratch"""
    order = np.zeros((len(x), keep), np.int32)
    margins, scores = np.full(order.shape, np.inf, np.float32), np.full(x.shape[:2], -np.inf, np.float32)
    for image in range(len(x)):
        for step in range(keep):
            chosen = order[image, :step].tolist()
            free = gains(x[image], chosen)
            free[chosen] = -np.inf
            pick = int(free.argmax())
            order[image, step], scores[image, pick] = pick, free[pick]
            margins[image, step] = free[pick] - np.delete(free, pick).max(initial=-np.inf)
    return as_output(x, np.sort(order, axis=1), scores), Replay(order, margins)


def as_output(x: Floats, indices: NDArray[np.int32], scores: NDArray[np.float32]) -> Output:
    return Output(np.take_along_axis(x, indices[..., None].astype(int), 1).astype(np.float32), indices, scores)


def measured(x: Floats, chosen: Selection) -> Output:
    return as_output(x, chosen.indices.int().numpy(), chosen.scores.float().numpy())


def select(case: str, keep: int) -> Selection:
    x = torch.tensor(CASES[case]).float()
    return Method(keep).select(Taps({}, torch.empty(0), x, (1, x.shape[1]), prefix=1, depth=1))


def official(case: str, keep: int) -> Selection:
    x = torch.tensor(CASES[case]).float()
    return Method(keep).official(Eager([], torch.empty(0), x, (1, x.shape[1]), prefix=1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 2, 9, 39])
def test_both_forms_equal_the_formula_but_for_ties(case: str, keep: int) -> None:
    x = CASES[case]
    wanted, picks = golden(x, keep)
    for chosen in (select(case, keep), official(case, keep)):
        got = measured(x, chosen)
        assert not compare(wanted, got, "float32", picks).reasons
        if case in CLEAR and keep <= 9:
            np.testing.assert_array_equal(got.indices, wanted.indices)
            np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_the_reference_says_in_which_order_it_picked() -> None:
    picks = golden(RANDOM, 9)[1]
    chosen = official("random", 9)
    assert chosen.order is not None
    assert chosen.margins is not None
    np.testing.assert_array_equal(chosen.order.numpy(), picks.order)
    np.testing.assert_allclose(chosen.margins.numpy(), picks.margins, rtol=1e-3, atol=1e-5)


def test_of_many_copies_exactly_keep_distinct_patches_are_chosen() -> None:
    for case in ("all equal", "460 of 576 alike"):
        indices = select(case, 39).indices
        assert indices.shape[1] == 39
        assert bool((indices.diff(dim=1) > 0).all())
