"""tome_behind: rounds of `_rounds` on keys, means of features; the rounds themselves are tested there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.tome_behind import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always
from tests.pruners.test__rounds import formula

Floats = np.ndarray
PATCHES = 36
RANDOM = np.random.default_rng(0).normal(size=(2, 3, PATCHES + 1, 8))
KEYS = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES + 1)[:, None] == 7, 9 * RANDOM, 1 + 0.1 * RANDOM),
    "two clusters": RANDOM[:, :, np.arange(PATCHES + 1) % 2] + 1e-2 * RANDOM,
    "huge norms": 1e4 * RANDOM,
    "all equal": np.ones_like(RANDOM),
}
CLEAR = ("random", "one dominant", "huge norms")
FEATURES = np.random.default_rng(1).normal(size=(2, PATCHES, 6))


def drawn(seed: int) -> np.ndarray:
    """Keys of one of 36 inputs, of groups that are more or less alike."""
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(2, 3, 2 + seed % 9, 8))[:, :, rng.integers(0, 2 + seed % 9, PATCHES + 1)]
    return np.asarray(groups + (0.1, 0.5, 1, 3)[seed % 4] * rng.normal(size=groups.shape))


def taken(case: str | np.ndarray) -> tuple[Taps, Eager]:
    """What the static form sees of keys of two images and three heads, and what the official one does."""
    keys = KEYS[case] if isinstance(case, str) else case
    key, features, grid = torch.tensor(keys).float(), torch.tensor(FEATURES).float(), (6, 6)
    taps = Taps({0: Attention(key, key, 1.0)}, features, features, grid, prefix=1, depth=1)
    return taps, Eager([], features, features, grid, prefix=1, keys=key)


def both(case: str | np.ndarray, keep: int) -> tuple[Selection, Selection]:
    taps, eager = taken(case)
    return Method(keep).select(taps), Method(keep).official(eager)


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize("keep", [5, 18, 30])
def test_both_forms_equal_the_formula(case: str, keep: int) -> None:
    keys = KEYS[case].mean(axis=1)[:, 1:]
    for chosen in both(case, keep):
        assert chosen.merge is not None
        for image in range(2):
            groups = formula(keys[image], keep)
            wanted = np.stack([FEATURES[image][group].mean(axis=0) for group in groups])
            np.testing.assert_allclose(
                chosen.merge[image].double().numpy() @ FEATURES[image], wanted, rtol=1e-4, atol=1e-6
            )


@pytest.mark.parametrize("seed", always(range(36), *range(6)))
def test_both_forms_equal_the_formula_of_drawn_groups(seed: int) -> None:
    keys = drawn(seed)
    for keep in (5, 18, 30):
        for chosen in both(keys, keep):
            assert chosen.origin is not None
            for image in range(2):
                groups = formula(keys[image].mean(axis=0)[1:], keep)
                found = [np.flatnonzero(chosen.origin[image].numpy() == at).tolist() for at in range(keep)]
                assert found == groups


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("keep", [1, 9, 35])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(case, keep)
    assert not judged(Method(keep), FEATURES, official, static).reasons


def test_the_projector_sees_means_of_features_not_of_keys() -> None:
    static, _ = both("random", 18)
    assert static.merged is None
    assert static.merge is not None
    torch.testing.assert_close(static.merge.sum(dim=2), torch.ones(2, 18))
