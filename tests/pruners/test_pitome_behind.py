"""pitome_behind against its formula, written here in numpy float64, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeprune.errors import MethodError
from edgeprune.pruners import Selection
from edgeprune.pruners.pitome_behind import Method
from edgeprune.runtime.parity import Verdict
from tests.covering import always
from tests.pruners.test_tome_behind import CLEAR, FEATURES, KEYS, PATCHES, drawn, taken


def formula(keys: np.ndarray, keep: int, alpha: float) -> tuple[list[list[int]], np.ndarray]:
    """[N, d] -> the patches that went into each token, by the patch that it goes under; and energies [N]"""
    groups = {at: [at] for at in range(len(keys))}
    first = np.zeros(len(keys))
    while len(groups) > keep or not first.any():
        names = sorted(groups)
        mean = np.stack([keys[groups[name]].mean(axis=0) for name in names])
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        alike = mean @ mean.T
        energy = np.where(alike >= 0, alike, alpha * (np.exp(np.minimum(alike, 0)) - 1)).mean(axis=1)
        if not first.any():
            first = energy
        count = min(len(names) // 2, len(names) - keep)
        falling = np.argsort(-energy, kind="stable").tolist()
        joining, taking = falling[: 2 * count : 2], falling[1 : 2 * count : 2]
        for row in joining:
            target = max(taking, key=lambda other: alike[row, other])
            groups[names[target]] += groups.pop(names[row])
        if not count:
            break
    return [sorted(groups[name]) for name in sorted(groups)], first


def both(case: str | np.ndarray, method: Method) -> tuple[Selection, Selection]:
    taps, eager = taken(case)
    return method.select(taps), method.official(eager)


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize(("keep", "alpha"), [(5, 1.0), (18, 1.0), (30, 0.5), (PATCHES, 1.0)])
def test_both_forms_equal_the_formula(case: str, keep: int, alpha: float) -> None:
    keys = KEYS[case].mean(axis=1)[:, 1:]
    for chosen in both(case, Method(keep, alpha)):
        assert chosen.merge is not None
        for image in range(2):
            groups, energy = formula(keys[image], keep, alpha)
            wanted = np.stack([FEATURES[image][group].mean(axis=0) for group in groups])
            np.testing.assert_allclose(
                chosen.merge[image].double().numpy() @ FEATURES[image], wanted, rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(chosen.scores[image] % 2, (1 - energy) / 2, atol=1e-5)


@pytest.mark.parametrize("seed", always(range(36), *range(6)))
def test_both_forms_equal_the_formula_of_drawn_groups(seed: int) -> None:
    keys = drawn(seed)
    for keep in (5, 18, 30):
        for chosen in both(keys, Method(keep)):
            assert chosen.origin is not None
            for image in range(2):
                groups, _ = formula(keys[image].mean(axis=0)[1:], keep, 1.0)
                found = [np.flatnonzero(chosen.origin[image].numpy() == at).tolist() for at in range(keep)]
                assert found == groups


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("keep", [1, 9, 35])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(case, Method(keep))
    assert not judged(Method(keep), FEATURES, official, static).reasons


def test_patches_like_no_other_are_left_alone() -> None:
    """Of one large group and three that stand by themselves, the group is what merges."""
    keys = KEYS["all equal"].copy()
    keys[:, :, 1 + np.array([3, 17, 29])] = 5 * np.eye(8)[[0, 3, 6]] - 1
    taps, _ = taken("random")
    one = taps.attention[0]
    key = one.key.new_tensor(keys) + 1e-3 * one.key
    taps.attention[0].key.copy_(key)
    chosen = Method(30).select(taps)
    assert chosen.origin is not None
    for alone in (3, 17, 29):
        assert ((chosen.origin == chosen.origin[:, alone : alone + 1]).sum(dim=1) == 1).all()


@pytest.mark.parametrize("alpha", [0.0, 1.5, float("nan")])
def test_another_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(MethodError, match="option alpha of pitome_behind must be above 0 and at most 1, got"):
        Method(4, alpha)
