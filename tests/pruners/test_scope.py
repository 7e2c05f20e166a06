"""SCOPE against the official formula, written here in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.scope import Method
from edgeprune.runtime import Output
from edgeprune.runtime.greedy_parity import Replay
from edgeprune.runtime.parity import compare
from edgeprune.taps import Attention, Taps

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


def attention(case: str) -> tuple[Attention, Floats]:
    """Queries and keys of a layer, and the attention they make: [B, 2, N + 1, N + 1]."""
    x = CASES[case]
    size = (*x.shape[:1], 2, x.shape[1] + 1, 4)
    query, key = np.random.default_rng(2).normal(size=size), np.random.default_rng(3).normal(size=size)
    if case == "all equal":
        key[:] = 1.0
    logits = query @ key.swapaxes(-1, -2) * 0.5
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return Attention(torch.tensor(query), torch.tensor(key), 0.5), weights / weights.sum(axis=-1, keepdims=True)


def cosines(x: Floats) -> Floats:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def gains(x: Floats, maps: Floats, chosen: list[int]) -> Floats:
    similarity = cosines(x)
    cover = np.maximum(similarity[chosen].max(axis=0), 0) if chosen else np.zeros(len(x))
    return np.asarray(np.maximum(similarity - cover, 0).sum(axis=1) * maps[:, 0, 1:].mean(axis=0))


def golden(x: Floats, maps: Floats, keep: int) -> tuple[Output, Replay]:
    """[B, N, D], attention [B, H, S, S] -> outputs and picks; every step from scratch"""
    order = np.zeros((len(x), keep), np.int32)
    margins, scores = np.full(order.shape, np.inf, np.float32), np.full(x.shape[:2], -np.inf, np.float32)
    for image in range(len(x)):
        for step in range(keep):
            chosen = order[image, :step].tolist()
            free = gains(x[image], maps[image], chosen)
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
    return Method(keep).select(Taps({0: attention(case)[0]}, torch.empty(0), x, (1, x.shape[1]), prefix=1, depth=1))


def official(case: str, keep: int) -> Selection:
    x = torch.tensor(CASES[case]).float()
    maps = torch.tensor(attention(case)[1]).float()
    return Method(keep).official(Eager([maps], torch.empty(0), x, (1, x.shape[1]), prefix=1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 2, 9, 39])
def test_both_forms_equal_the_formula_but_for_ties(case: str, keep: int) -> None:
    x = CASES[case]
    wanted, picks = golden(x, attention(case)[1], keep)
    for chosen in (select(case, keep), official(case, keep)):
        got = measured(x, chosen)
        assert not compare(wanted, got, "float32", picks).reasons
        if case in CLEAR and keep <= 9:
            np.testing.assert_array_equal(got.indices, wanted.indices)
            np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_the_reference_says_in_which_order_it_picked() -> None:
    picks = golden(RANDOM, attention("random")[1], 9)[1]
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


def test_without_saliency_coverage_alone_decides() -> None:
    x = torch.tensor(RANDOM).float()
    layer, maps = attention("random")
    indices = Method(5, alpha=0.0).select(Taps({0: layer}, torch.empty(0), x, (1, 40), prefix=1, depth=1)).indices
    np.testing.assert_array_equal(indices.numpy(), golden(RANDOM, np.ones_like(maps), 5)[0].indices)


@pytest.mark.parametrize("alpha", [-1.0, float("inf"), float("nan")])
def test_a_negative_power_is_refused(alpha: float) -> None:
    with pytest.raises(MethodError, match="option alpha of scope must be 0 or more, got"):
        Method(5, alpha)
