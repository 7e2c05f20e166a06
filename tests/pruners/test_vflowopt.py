"""VFlowOpt against its formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.vflowopt import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
ROWS, COLUMNS = 5, 8
PATCHES = ROWS * COLUMNS
DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(36, PATCHES, 24))
QUERY, KEY = (DRAWN.normal(size=(36, 2, 1 + PATCHES, 4)) for _ in range(2))
LOGITS = QUERY @ KEY.swapaxes(-1, -2)
MAPS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)


def formula(x: Floats, maps: Floats, keep: int, threshold: float, cells: int) -> tuple[list[int], Floats, list[int]]:
    """One image -> picks, tokens in raster order, the context."""
    seen = maps.mean(axis=0)[1:, 1:]
    received = seen.mean(axis=0)
    context = [i for i in range(PATCHES) if received[i] > threshold * received.mean()] or [int(received.argmax())]
    attended = seen[context].mean(axis=0)
    order = sorted(range(PATCHES), key=lambda j: -attended[j])
    count = cells**2 if cells**2 < keep else 0
    lead, left = order[: keep - count], order[keep - count :]
    groups: dict[tuple[int, int], list[int]] = {}
    for j in left if count else []:
        groups.setdefault((j // COLUMNS * cells // ROWS, j % COLUMNS * cells // COLUMNS), []).append(j)
    stands = sorted((group[0] for group in groups.values()), key=lambda j: -attended[j])
    filled = [j for j in left if j not in stands][: count - len(stands)]
    picks = lead + stands + filled
    tokens = {j: x[j] for j in picks}
    for head, *others in groups.values():
        members = [head] + [j for j in others if j not in filled]
        tokens[head] = attended[members] @ x[members] / attended[members].sum()
    return picks, np.stack([tokens[j] for j in sorted(picks)]), context


def both(method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    x, maps, grid, nothing = torch.tensor(X).float(), torch.tensor(MAPS).float(), (ROWS, COLUMNS), torch.empty(0)
    seen = {0: Attention(torch.tensor(QUERY).float(), torch.tensor(KEY).float(), 1.0)}
    static = method.select(Taps(seen, nothing, x, grid, prefix=1, depth=1))
    return static, method.official(Eager([maps], nothing, x, grid, prefix=1))


BUDGETS = [(1, 2), (4, 2), (9, 2), (16, 3), (38, 3), (PATCHES, 2), (9, 0)]
"""(keep, cells)"""


@pytest.mark.parametrize(
    ("keep", "cells", "threshold"),
    always(
        [(*budget, threshold) for budget in BUDGETS for threshold in (0.5, 2.0, 28.7)],
        *((1, 2, 2.0), (9, 2, 0.5), (9, 0, 2.0), (16, 3, 2.0), (38, 3, 28.7)),
    ),
)
def test_both_forms_equal_the_formula_on_36_inputs(
    keep: int, cells: int, threshold: float, judged: Callable[..., Verdict]
) -> None:
    method = Method(keep, threshold, cells)
    static, official = both(method)
    assert not judged(method, X, official, static).reasons
    for chosen in (static, official):
        assert chosen.picks is not None
        assert chosen.merged is not None
        assert chosen.order is not None
        for image in range(36):
            picks, tokens, context = formula(X[image], MAPS[image], keep, threshold, cells)
            assert sorted(chosen.picks[image].tolist()) == sorted(picks)  # in order, ties apart, says the verdict
            assert chosen.order[image].nonzero().flatten().tolist() == context
            np.testing.assert_allclose(chosen.merged[image].numpy(), tokens, rtol=1e-4, atol=1e-5)


def test_every_patch_is_part_of_a_token_where_there_are_cells() -> None:
    with_cells, without = (both(Method(16, cells=cells))[0].origin for cells in (2, 0))
    assert with_cells is not None
    assert without is not None
    assert int(with_cells.min()) >= 0
    assert bool(((without >= 0).sum(dim=1) == 16).all())


@pytest.mark.parametrize(("option", "value"), [("threshold", -1.0), ("threshold", float("nan")), ("cells", -1)])
def test_an_option_below_zero_is_refused(option: str, value: float) -> None:
    with pytest.raises(MethodError, match=f"option {option} of vflowopt must be 0 or more, got"):
        Method(9, **{option: value})  # type: ignore[arg-type]
