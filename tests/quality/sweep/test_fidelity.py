"""What is left of the unpruned tokens, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.quality.sweep.fidelity import fidelity

RNG = np.random.default_rng(0)
FULL = RNG.normal(size=(2, 12, 5)).astype(np.float32)
ATTENDED = RNG.random((2, 12)).astype(np.float32)
ROWS = np.array([[0, 3, 7, 11], [1, 2, 4, 5]], np.int32)
KEPT = np.take_along_axis(FULL, ROWS[:, :, None].astype(int), 1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_each_column_is_its_formula() -> None:
    kept = KEPT + RNG.normal(size=KEPT.shape) * 0.3
    found = fidelity(kept, ROWS, FULL, ATTENDED)
    for at in range(2):
        own = [int(row) for row in ROWS[at]]
        best = [max(cosine(token, one) for one in kept[at]) for token in FULL[at]]
        same = [cosine(token, FULL[at, row]) for token, row in zip(kept[at], own, strict=True)]
        first = sorted(range(12), key=lambda cell: -ATTENDED[at, cell])[:4]
        assert found["nearest"][at] == pytest.approx(np.mean(best), abs=2e-6)
        assert found["cosine"][at] == pytest.approx(np.mean(same), abs=2e-6)
        assert found["overlap"][at] == len(set(own) & set(first)) / 4
        assert found["coverage"][at] == pytest.approx(ATTENDED[at, own].sum() / ATTENDED[at].sum(), abs=2e-6)


def test_all_tokens_are_all_of_it_and_kept_ones_are_themselves() -> None:
    every = np.tile(np.arange(12), (2, 1))
    assert {value for values in fidelity(FULL, every, FULL, ATTENDED).values() for value in values} == {1.0}
    assert fidelity(KEPT, ROWS, FULL)["cosine"] == [1.0, 1.0]


def test_without_cls_its_columns_are_left_out() -> None:
    assert list(fidelity(KEPT, ROWS, FULL)) == ["nearest", "cosine"]


def test_a_token_of_zeros_is_like_nothing() -> None:
    assert fidelity(KEPT * 0, ROWS, FULL)["nearest"] == [0.0, 0.0]
