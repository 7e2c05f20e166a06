"""AOT against its formula, written here in numpy float64, patch by patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.aot import Method, windows
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps
from tests.covering import always

Floats = NDArray[np.float64]
ROWS, COLUMNS, DEPTH, PREFIX = 6, 7, 9, 1
PATCHES = ROWS * COLUMNS
FIRST, THEN = 1, 7
"""from 0: a quarter of the way up 9 layers, and the last but one"""
DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(36, PATCHES, 24))
QUERY, KEY = (DRAWN.normal(size=(2, 36, 2, PREFIX + PATCHES, 4)) for _ in range(2))
LOGITS = QUERY @ KEY.swapaxes(-1, -2) * 0.5
MAPS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
FIRSTS, THENS = (MAPS[at].mean(axis=(1, 2))[:, PREFIX:] for at in range(2))


def formula(x: Floats, first: Floats, then: Floats, keep: int, rounds: int) -> tuple[list[int], Floats]:
    """One image -> kept patches, tokens."""
    anchors = []
    for row in range(3):
        for column in range(3):  # rows 2 2 2, columns 3 2 2
            down = range(2 * row, 2 * row + 2)
            across = range(0, 3) if column == 0 else range(2 * column + 1, 2 * column + 3)
            inside = [i * COLUMNS + j for i in down for j in across]
            anchors += sorted(inside, key=lambda patch: -first[patch])[: keep // 2 // 9]
    rest = [patch for patch in np.argsort(-then, kind="stable").tolist() if patch not in anchors]
    kept = sorted(anchors + rest[: keep - len(anchors)])
    gone = [patch for patch in range(PATCHES) if patch not in kept]
    if not gone:
        return kept, x
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    place = np.array([(i / (ROWS - 1), j / (COLUMNS - 1)) for i in range(ROWS) for j in range(COLUMNS)])
    away = np.linalg.norm(place[gone][:, None] - place[kept], axis=2)
    heat = np.exp(-(1 - unit[gone] @ unit[kept].T + 0.5 * away) / 0.1)
    into = np.ones(keep)
    for _ in range(rounds):
        out = 1 / len(gone) / (heat @ into)
        into = 1 / keep / (heat.T @ out)
    plan = out[:, None] * heat * into
    tokens = []
    for at, patch in enumerate(kept):
        moved = (x[patch] + plan[:, at] @ x[gone]) / (1 + plan[:, at].sum())
        group = [x[patch]] + [x[i] for i in gone if (unit[kept] @ unit[i]).argmax() == at]
        tokens.append(0.9 * moved + 0.1 * np.mean(group, axis=0))
    return kept, np.stack(tokens)


def both(method: Method) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    x, grid, nothing = torch.tensor(X).float(), (ROWS, COLUMNS), torch.empty(0)
    query, key = torch.tensor(QUERY).float(), torch.tensor(KEY).float()
    seen = {layer: Attention(query[at], key[at], 0.5) for at, layer in enumerate((FIRST, THEN))}
    static = method.select(Taps(seen, nothing, x, grid, PREFIX, DEPTH))
    maps = [torch.tensor(MAPS[int(layer == THEN)]).float() for layer in range(DEPTH)]
    return static, method.official(Eager(maps, nothing, x, grid, PREFIX))


@pytest.mark.parametrize(
    ("keep", "rounds"), always([(1, 20), (8, 1), (18, 20), (30, 100), (PATCHES, 20)], (8, 1), (18, 20))
)
def test_both_forms_equal_the_formula_on_36_inputs(keep: int, rounds: int, judged: Callable[..., Verdict]) -> None:
    method = Method(keep, rounds=rounds)
    assert method.layers(DEPTH) == (FIRST, THEN)
    static, official = both(method)
    assert not judged(method, X, official, static).reasons
    for chosen in (static, official):
        assert chosen.merged is not None
        for image in range(36):
            kept, tokens = formula(X[image], FIRSTS[image], THENS[image], keep, rounds)
            assert chosen.indices[image].tolist() == kept
            np.testing.assert_allclose(chosen.merged[image].numpy(), tokens, rtol=1e-3, atol=1e-5)


def test_windows_cover_the_grid_once_and_anchors_stand_in_each() -> None:
    for grid in ((27, 27), (24, 24), (5, 8), (2, 20), (1, 1)):
        every = [patch for one in windows(*grid) for patch in one]
        assert sorted(every) == list(range(grid[0] * grid[1]))
    assert [len(one) for one in windows(27, 27)] == 9 * [81]
    marked = both(Method(30))[0].scores > 1
    assert all(int(marked[0, one].sum()) == 1 for one in windows(ROWS, COLUMNS))


def test_twenty_rounds_are_as_good_as_a_hundred() -> None:
    few, many = (both(Method(16, rounds=rounds))[0].merged for rounds in (20, 100))
    torch.testing.assert_close(few, many, rtol=2e-2, atol=2e-3)


def test_options_beyond_what_there_is_are_refused() -> None:
    with pytest.raises(MethodError, match="option rounds of aot must be 1 or more, got 0"):
        Method(9, rounds=0)
    with pytest.raises(MethodError, match=r"option object_layer of aot must be in 1\.\.9, got 10"):
        Method(9, object_layer=10).layers(DEPTH)
