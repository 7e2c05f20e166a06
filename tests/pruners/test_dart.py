"""DART in front of the language model: its formula, written here in numpy with sets, one patch after another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.dart import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
PATCHES, WIDTH = 36, 12
RANDOM = np.random.default_rng(0).normal(size=(2, PATCHES, WIDTH))
CASES = {
    "random": RANDOM,
    "two clusters": RANDOM[:, 2 + np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 50 * RANDOM, RANDOM),
    "huge norms": 1e6 * RANDOM,
    "tiny norms": 1e-6 * RANDOM,
}
TIED = {
    "all equal": np.ones((2, PATCHES, WIDTH)),
    "all zero": np.zeros((2, PATCHES, WIDTH)),
    "copies": np.repeat(RANDOM[:, :6], 6, axis=1),
}
BUDGETS = (1, 2, 8, 9, 15, 29, 35, 36)


def formula(x: Floats, keep: int, pivots: int = 8) -> tuple[list[int], list[float]]:
    """One image -> the pivots and then what each took; the gain of every pick."""
    norms = np.linalg.norm(x, axis=1)
    falling = [int(at) for at in np.argsort(-norms, kind="stable")]
    first = falling[: min(pivots, keep)]
    taken, gains = list(first), list(norms[first] / max(norms.max(), 1e-12))
    for turn, pivot in enumerate(first):
        cosine = x @ x[pivot] / np.maximum(norms * norms[pivot], 1e-24)
        quota = (keep - len(first)) // len(first) + (turn < (keep - len(first)) % len(first))
        free = [int(at) for at in np.argsort(cosine, kind="stable") if at not in taken]
        taken += free[:quota]
        for patch in free[:quota]:
            gains.append(1 - cosine[patch])
    return taken, gains


def select(method: Method, x: Floats) -> Selection:
    return method.select(Taps({}, torch.empty(0), torch.tensor(x, dtype=torch.float32), (6, 6), 1, 1))


def official(method: Method, x: Floats) -> Selection:
    return method.official(Eager([], torch.empty(0), torch.tensor(x, dtype=torch.float32), (6, 6), 1))


@pytest.mark.parametrize("case", CASES)
def test_both_forms_keep_pivots_and_what_is_least_like_them(case: str) -> None:
    for keep in BUDGETS:
        for chosen in (select(Method(keep), CASES[case]), official(Method(keep), CASES[case])):
            assert (chosen.indices.dtype, chosen.scores.dtype) == (torch.int64, torch.float32)
            for image, x in enumerate(CASES[case]):
                order, gains = formula(x, keep)
                assert chosen.indices[image].tolist() == sorted(order)
                want = np.full(PATCHES, -np.inf)
                want[order] = gains
                np.testing.assert_allclose(chosen.scores[image].numpy(), want, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("case", TIED)
def test_when_patches_tie_exactly_that_many_are_kept_and_parity_judges_which(
    case: str, judged: Callable[..., Verdict]
) -> None:
    for keep in BUDGETS:
        static, reference = select(Method(keep), TIED[case]), official(Method(keep), TIED[case])
        for chosen in (static, reference):
            assert chosen.indices.shape == (2, keep)
            assert bool((chosen.indices.diff(dim=1) > 0).all())
        assert not judged(Method(keep), TIED[case], reference, static).reasons


def test_both_forms_say_in_which_order_they_picked() -> None:
    for chosen in (select(Method(23, pivots=5), RANDOM), official(Method(23, pivots=5), RANDOM)):
        assert chosen.picks is not None
        for image, x in enumerate(RANDOM):
            assert chosen.picks[image].tolist() == formula(x, 23, pivots=5)[0]


def test_of_two_clusters_pivots_of_one_take_the_other() -> None:
    x = np.zeros((2, PATCHES, WIDTH))
    x[:, :18, 0], x[:, 18:, 1] = np.linspace(9, 8, 18), np.linspace(7, 6, 18)
    for chosen in (select(Method(20, pivots=2), x), official(Method(20, pivots=2), x)):
        assert chosen.indices[0].tolist() == [0, 1, *range(18, 36)]


def test_a_remainder_goes_to_the_first_pivots() -> None:
    """Each patch has one opposite; a pivot takes its own, if it has a turn."""
    x = np.zeros((1, 16, 8))
    x[0, np.arange(16), np.arange(16) % 8] = np.where(np.arange(16) < 8, np.arange(18, 2, -1), -1)
    for chosen in (select(Method(11), x), official(Method(11), x)):
        assert chosen.indices[0].tolist() == [*range(8), 8, 9, 10]


def test_a_budget_below_the_pivots_keeps_the_largest_norms() -> None:
    largest = np.argsort(-np.linalg.norm(RANDOM[1], axis=1))[:3]
    for chosen in (select(Method(3), RANDOM), official(Method(3), RANDOM)):
        assert chosen.indices[1].tolist() == sorted(largest.tolist())


def test_without_a_pivot_nobody_takes_turns() -> None:
    with pytest.raises(MethodError, match="option pivots of dart must be at least 1, got 0"):
        Method(8, pivots=0)
