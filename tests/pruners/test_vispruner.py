"""VisPruner against the official loop, written here in numpy float64, on lists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.vispruner import Method, rounds
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
PATCHES = 40
RANDOM = np.random.default_rng(0).normal(size=(2, PATCHES, 16))
CASES = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "huge norms": 1e6 * RANDOM,
    "two clusters": RANDOM[:, np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "pairs alike": RANDOM[:, np.arange(PATCHES) // 2],
    "all equal": np.ones_like(RANDOM),
}
CLEAR = ("random", "one dominant", "huge norms")
"""where no two cosines are as near as rounding"""

QUERY, KEY = np.random.default_rng(1).normal(size=(2, 2, 3, PATCHES + 1, 8))
LOGITS = QUERY @ KEY.swapaxes(-1, -2) * 8**-0.5
WEIGHTS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
ROWS = WEIGHTS[:, :, 0, 1:].mean(axis=1)


def formula(row: Floats, h: Floats, keep: int) -> tuple[list[int], list[int], list[float]]:
    """One image: mean [CLS] row [N], features [N, C] -> important and diverse patches, and each gap that decided."""
    order = np.argsort(-row, kind="stable").tolist()
    important, rest = order[: keep // 2], order[keep // 2 :]
    gaps = (-np.diff(np.sort(row)[::-1])[max(keep // 2 - 1, 0) :] / row.max()).tolist()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    while (more := len(rest) - (keep - keep // 2)) > 0:
        a, b = rest[0::2], rest[1::2]
        score = (unit[a] @ unit[b].T).max(axis=1)
        a = [a[at] for at in np.argsort(-score, kind="stable")]
        count = min(8, more, len(a))
        later = -np.diff(np.sort(score)[::-1])[count - 1 :]
        gaps += later.tolist() if more > count else later[:1].tolist()
        rest = a[count:] + b
    return sorted(important), sorted(rest), gaps


def both(case: str, keep: int) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    layer = Attention(torch.tensor(QUERY).float(), torch.tensor(KEY).float(), 8**-0.5)
    h, grid = torch.tensor(CASES[case]).float(), (5, 8)
    method = Method(keep)
    static = method.select(Taps({0: layer}, h, h, grid, prefix=1, depth=1))
    return static, method.official(Eager([torch.tensor(WEIGHTS).float()], h, h, grid, prefix=1))


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize("keep", [1, 2, 7, 16, 39, 40])
def test_both_forms_equal_the_formula(case: str, keep: int) -> None:
    for chosen in both(case, keep):
        for image in range(2):
            important, diverse, _ = formula(ROWS[image], CASES[case][image], keep)
            assert chosen.indices[image].tolist() == sorted(important + diverse)
            scores = ROWS[image].copy()
            scores[important] += 4
            scores[diverse] += 2
            np.testing.assert_allclose(chosen.scores[image].numpy(), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 2, 7, 16, 39])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(case, keep)
    assert not judged(Method(keep), CASES[case], official, static).reasons


def test_of_equal_patches_exactly_keep_distinct_ones_are_chosen() -> None:
    indices = both("all equal", 15)[0].indices
    assert indices.shape == (2, 15)
    assert bool((indices.diff(dim=1) > 0).all())


def test_half_of_the_budget_is_what_cls_attends_to_most() -> None:
    chosen = both("random", 17)[0]
    for image in range(2):
        important = np.flatnonzero(chosen.scores[image].numpy() >= 4)
        np.testing.assert_array_equal(important, np.sort(np.argsort(-ROWS[image])[:8]))


@pytest.mark.parametrize(("patches", "keep", "count"), [(576, 128, 56), (576, 64, 64), (576, 576, 0)])
def test_there_are_as_many_rounds_as_it_takes_to_drop_eight_at_once(patches: int, keep: int, count: int) -> None:
    assert len(rounds(patches, keep)) == count
    assert sum(rounds(patches, keep)) == patches - keep


def test_an_odd_rest_keeps_its_last_patch_among_those_that_can_be_dropped() -> None:
    assert rounds(12, 2) == [6, 3, 1]  # of 11, 5 and 2 others; one is to be left
