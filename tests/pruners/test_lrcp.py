"""LRCP against its formula, written here in numpy float64 with LAPACK's SVD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.lrcp import Method
from edgeprune.runtime import Output
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
PATCHES = 30
RANDOM = np.random.default_rng(0).normal(size=(2, PATCHES, 24))
CASES = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "two clusters": RANDOM[:, np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "huge norms": 1e6 * RANDOM,
    "three directions": RANDOM[:, :, :3] @ RANDOM[:, :3],
    "all equal": np.ones_like(RANDOM),
}
CLEAR = ("random", "one dominant", "two clusters", "huge norms")
"""where something is left beside the main directions"""


def left(x: Floats, basis: Floats) -> Floats:
    """What projecting onto the columns of the basis leaves of each row, squared."""
    return np.asarray(((x - x @ basis @ basis.T) ** 2).sum(axis=1))


def formula(x: Floats, keep: int, rank: int) -> tuple[list[int], Floats, Floats]:
    """One image [N, D] -> indices, scores, tokens."""
    centred = x - x.mean(axis=0)
    scores = left(centred, np.linalg.svd(centred, full_matrices=False)[2][:rank].T)
    kept = sorted(np.argsort(-scores, kind="stable")[:keep].tolist())
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    groups = {j: [x[j]] for j in kept}
    for i in set(range(len(x))) - set(kept):
        groups[max(kept, key=lambda j: unit[i] @ unit[j])].append(x[i])
    return kept, scores, np.stack([np.mean(groups[j], axis=0) for j in kept])


def both(x: Floats, method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    projected, nothing, grid = torch.tensor(x).float(), torch.empty(0), (1, x.shape[1])
    static = method.select(Taps({}, nothing, projected, grid, prefix=1, depth=1))
    return static, method.official(Eager([], nothing, projected, grid, prefix=1))


def output(chosen: Selection, x: Floats) -> Output:
    projected = torch.tensor(x).float()
    tokens = projected if chosen.merged is None else chosen.merged
    return Output(tokens.numpy(), chosen.indices.int().numpy(), chosen.scores.numpy())


@pytest.mark.parametrize("case", CLEAR)
@pytest.mark.parametrize(("keep", "rank"), [(1, 4), (9, 1), (9, 4), (29, 8), (30, 4)])
def test_both_forms_equal_the_formula(case: str, keep: int, rank: int) -> None:
    x = CASES[case]
    for got in (output(chosen, x) for chosen in both(x, Method(keep, rank))):
        for image in range(2):
            indices, scores, tokens = formula(x[image], keep, rank)
            assert got.indices[image].tolist() == indices
            np.testing.assert_allclose(got.scores[image], scores, rtol=2e-3, atol=1e-5 * scores.max())
            np.testing.assert_allclose(got.tokens[image], tokens, rtol=1e-4, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 2, 9, 29])
def test_the_forms_differ_only_by_what_rounding_explains(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(CASES[case], Method(keep))
    assert not judged(Method(keep), CASES[case], official, static).reasons


def test_a_token_that_nothing_joins_is_itself() -> None:
    chosen = both(RANDOM, Method(29))[0]
    assert chosen.merged is not None
    own = torch.take_along_dim(torch.tensor(RANDOM).float(), chosen.indices.unsqueeze(-1), dim=1)
    itself = (chosen.merged - own).abs().amax(dim=-1) < 1e-6
    assert itself.sum(dim=1).tolist() == [28, 28]  # one patch is left out, and joins one of the 29


def test_of_equal_patches_nothing_is_left_but_rounding() -> None:
    static, _ = both(CASES["all equal"], Method(9))
    assert float(static.scores.abs().max()) < 1e-9
    assert bool((static.indices.diff(dim=1) > 0).all())


@pytest.mark.parametrize("rank", [0, -1])
def test_no_direction_at_all_is_refused(rank: int) -> None:
    with pytest.raises(MethodError, match=f"option rank of lrcp must be 1 or more, got {rank}"):
        Method(4, rank)
