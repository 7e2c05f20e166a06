"""ApET against its formula, written here in numpy float64 with the inverse as it stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.apet import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps

Floats = NDArray[np.float64]
PATCHES = 40
DRAWN = np.random.default_rng(0).normal(size=(36, PATCHES, 24))
RANDOM = DRAWN[:2]
CASES = {
    "random": RANDOM,
    "one dominant": np.where(np.arange(PATCHES)[:, None] == 7, 50 * RANDOM, 1 + 0.1 * RANDOM),
    "two clusters": RANDOM[:, np.arange(PATCHES) % 2] + 1e-2 * RANDOM,
    "huge norms": 1e4 * RANDOM,
    "three directions": RANDOM[:, :, :3] @ RANDOM[:, :3],
    "all equal": np.ones_like(RANDOM),
}


def formula(h: Floats, keep: int, count: int) -> tuple[list[int], Floats, Floats]:
    """One image [N, C] -> picks in their order, errors, tokens in raster order."""
    basis = [0][:count]
    while len(basis) < count:
        basis.append(int(np.array([((h - h[one]) ** 2).sum(axis=1) for one in basis]).min(axis=0).argmax()))
    b = h[basis]
    error = ((h - (np.linalg.inv(b @ b.T + 1e-5 * np.eye(count)) @ b @ h.T).T @ b) ** 2).sum(axis=1)
    order = np.argsort(-error, kind="stable")[:keep].tolist()
    body, last = order[: keep - count], sorted(order[keep - count :])
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    groups = {j: [h[j]] for j in body}
    for i in set(range(len(h))) - set(order):
        groups[max(body, key=lambda j: unit[i] @ unit[j])].append(h[i])
    tokens = {j: np.mean(group, axis=0) for j, group in groups.items()} | dict(zip(last, b, strict=True))
    return order, error / (h**2).sum(axis=1).max(), np.stack([tokens[j] for j in sorted(order)])


def both(x: Floats, method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    features, nothing, grid = torch.tensor(x).float(), torch.empty(0), (5, 8)
    static = method.select(Taps({}, features, nothing, grid, prefix=1, depth=1))
    return static, method.official(Eager([], features, nothing, grid, prefix=1))


@pytest.mark.parametrize(("keep", "count"), [(1, 0), (2, 1), (8, 7), (12, 10), (30, 10)])
def test_both_forms_equal_the_formula_on_36_inputs(keep: int, count: int) -> None:
    for chosen in both(DRAWN, Method(keep)):
        assert chosen.picks is not None
        assert chosen.merge is not None
        tokens = chosen.merge @ torch.tensor(DRAWN).float()
        for image, h in enumerate(DRAWN):
            order, error, wanted = formula(h, keep, count)
            assert chosen.picks[image].tolist() == order
            np.testing.assert_allclose(chosen.scores[image].numpy(), error, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(tokens[image].numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [1, 9, 24, PATCHES])
def test_parity_takes_one_form_for_the_other(case: str, keep: int, judged: Callable[..., Verdict]) -> None:
    static, official = both(CASES[case], Method(keep))
    assert not judged(Method(keep), CASES[case], official, static).reasons


def test_the_last_kept_patches_hand_out_the_basis() -> None:
    static, _ = both(RANDOM, Method(20, basis=3))
    assert static.picks is not None
    assert static.order is not None
    assert static.merge is not None
    last = static.picks[:, 17:].sort(dim=1).values
    basis = static.order.gather(1, last)
    assert basis[:, 0].tolist() == [0, 0]
    tokens = static.merge @ torch.tensor(RANDOM).float()
    for image in range(2):
        places = torch.searchsorted(static.indices[image].contiguous(), last[image])
        torch.testing.assert_close(tokens[image, places], torch.tensor(RANDOM).float()[image, basis[image]])


def test_a_basis_of_none_is_refused() -> None:
    with pytest.raises(MethodError, match="option basis of apet must be 1 or more, got 0"):
        Method(20, basis=0)
