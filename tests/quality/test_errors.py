"""Means of values that come in groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.quality.errors import Mean, clustered, difference


def test_groups_of_one_give_the_usual_standard_error() -> None:
    values = np.random.default_rng(0).random(50)
    found = clustered(values.tolist(), range(50))
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_the_error_is_what_the_mean_varies_by_when_groups_are_drawn_anew() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        level = rng.normal(size=40).repeat(5)
        found.append(clustered((level + 0.5 * rng.normal(size=200)).tolist(), np.arange(40).repeat(5).tolist()))
    assert np.mean([one.error for one in found]) == pytest.approx(np.std([one.value for one in found]), rel=0.05)


def test_repeating_a_value_in_its_group_adds_nothing() -> None:
    once = clustered([1.0, 0.0, 1.0], ["a", "b", "c"])
    thrice = clustered([1.0, 0.0, 1.0] * 3, ["a", "b", "c"] * 3)
    assert thrice.error == pytest.approx(once.error)
    assert (thrice.count, thrice.groups) == (9, 3)


def test_what_is_the_same_on_both_sides_cancels() -> None:
    assert difference([1, 0, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]) == Mean(0.0, 0.0, 4, 2)
    assert difference([1, 1], [0, 1], [0, 1]).value == 0.5
    assert math.isnan(clustered([1.0, 0.0], [7, 7]).error)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RequestError, match="2 values and 1 groups"):
        clustered([1, 0], [0])
    with pytest.raises(RequestError, match="0 values"):
        clustered([], [])
    with pytest.raises(RequestError, match="1 and 2"):
        difference([1], [1, 0], [0])
