"""EntropyPrune against its formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.entropyprune import Method
from edgeprune.taps import Attention, Taps
from tests.covering import always

PATCHES = 36
BUDGETS = (3, 12, 30)


def drawn(seed: int) -> np.ndarray:
    """Keys [2, H, 1 + N, d] of one of 36 inputs: heads, widths and sizes that differ, some of few directions."""
    rng = np.random.default_rng(seed)
    heads, width = (2, 3, 4, 8, 12, 16)[seed % 6], (4, 8, 16)[seed // 6 % 3]
    keys = rng.normal(size=(2, heads, PATCHES + 1, width)) * (0.1, 1.0, 4.0)[seed // 12]
    if seed % 5 == 0:
        keys[..., 2:] *= 0.05
    return np.asarray(keys * rng.uniform(0.5, 2, size=(2, 1, PATCHES + 1, 1)))


def formula(keys: np.ndarray) -> np.ndarray:
    """[H, N, d] -> scores [N]"""
    heads, scores = len(keys), []
    for patch in range(keys.shape[1]):
        z = keys[:, patch] - keys[:, patch].mean(axis=0)
        spectrum = np.linalg.svd(z, compute_uv=False) ** 2 / heads
        spectrum = np.maximum(np.concatenate((spectrum, np.zeros(heads - len(spectrum)))), 1e-10)
        scores.append(-(spectrum * np.log(spectrum)).sum() / np.log(heads))
    return np.array(scores)


def both(keys: np.ndarray, keep: int) -> tuple[Selection, Selection]:
    key, nothing = torch.tensor(keys).float(), torch.zeros(len(keys), PATCHES, 1)
    taps = Taps({0: Attention(key, key, 1.0)}, nothing, nothing, (6, 6), prefix=1, depth=1)
    method = Method(keep)
    return method.select(taps), method.official(Eager([], nothing, nothing, (6, 6), prefix=1, keys=key))


@pytest.mark.parametrize("seed", always(range(36), *range(6)))
def test_both_forms_equal_the_formula(seed: int) -> None:
    keys = drawn(seed)
    wanted = np.stack([formula(one[:, 1:]) for one in keys])
    for keep in BUDGETS:
        order = np.sort(np.argsort(-wanted, axis=1, kind="stable")[:, :keep], axis=1)
        for chosen in both(keys, keep):
            np.testing.assert_allclose(chosen.scores, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
            np.testing.assert_array_equal(chosen.indices, order)


def test_heads_that_say_the_same_have_nothing_to_tell() -> None:
    keys = drawn(3)
    keys[:, :, 5] = keys[:, :1, 5]
    static, official = both(keys, 3)
    for chosen in (static, official):
        assert float(chosen.scores[:, 4].abs().max()) < 1e-6


def test_an_encoder_of_one_head_is_refused() -> None:
    for form in (0, 1):
        with pytest.raises(MethodError, match="must have two or more; got 1"):
            both(drawn(0)[:, :1], 3)[form]
