"""Priors of images become a batch; what does not fit the grid, or is no number, does not reach a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.runtime.priors import as_prior, as_xyz

GRID = (2, 3)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6), (1, 2, 3)])
def test_one_prior_is_a_batch_of_one(shape: tuple[int, ...]) -> None:
    batch = as_prior(np.arange(6, dtype=np.float64).reshape(shape), GRID)
    assert batch.dtype == np.float32
    assert batch.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_several_are_stacked() -> None:
    assert as_prior([np.ones(6), np.zeros(6)], GRID).tolist() == [[1] * 6, [0] * 6]


def test_a_mask_of_truths_is_a_prior() -> None:
    assert as_prior(np.array([True, False] * 3), GRID).tolist() == [[1, 0] * 3]


def test_points_are_stacked_likewise() -> None:
    points = np.arange(18, dtype=np.float32)
    assert as_xyz(points.reshape(6, 3), GRID).shape == (1, 6, 3)
    assert as_xyz([points.reshape(2, 3, 3)] * 2, GRID)[1, 5].tolist() == [15, 16, 17]


WRONG: list[tuple[Any, str]] = [
    (np.ones(7), r"must be \[6\] or \[2, 3\], or a batch of these, for a grid of 2x3; got \[7\]"),
    (np.ones((3, 2)), r"got \[3, 2\]"),
    (np.ones((0, 6)), r"got \[0, 6\]"),
    (np.float32(1), r"got \[\]"),
    ([np.ones(6), np.ones(7)], "every prior of a batch must have the same shape"),
    (np.array([1, np.nan, 1, np.inf, 1, 1]), "finite, 2 of 6 are NaN or infinite"),
    (np.full(6, 1e300), "finite, 6 of 6"),
    (np.array([1, -0.5, 1, 1, 1, 1]), "must not be negative, .* the least is -0.5"),
    (np.array(["1"] * 6), "must be numbers"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_prior_that_does_not_fit_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        as_prior(wrong, GRID)


def test_points_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"xyz must be \[6, 3\] or \[2, 3, 3\]"):
        as_xyz(np.ones((6, 2)), GRID)
    with pytest.raises(RequestError, match="xyz must be finite"):
        as_xyz(np.full((6, 3), np.nan), GRID)
    assert as_xyz(np.full((6, 3), -1.0), GRID).min() == -1
