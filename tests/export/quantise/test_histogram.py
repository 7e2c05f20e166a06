"""Histograms: what they keep of any number of runs is what numpy finds in all values at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune.export.quantise.histogram import HALF, Histogram

PERCENTILE = 99.99


def gathered(*runs: Tensor) -> Histogram:
    histogram = Histogram()
    for run in runs:
        histogram.add(run)
    return histogram


@pytest.fixture
def runs() -> list[Tensor]:
    """[2, 64, 16], each a hundred times as wide as the one before."""
    generator = torch.Generator().manual_seed(3)
    return [100.0**at * (torch.randn(2, 64, 16, generator=generator) + 1) for at in range(3)]


@pytest.mark.parametrize("percentile", [90.0, 99.0])
def test_half_of_what_is_beyond_the_percentile_lies_on_either_side_whatever_the_order(
    runs: list[Tensor], percentile: float
) -> None:
    values, share = torch.cat(runs).double(), (1 - percentile / 100) / 2
    for order in (runs, runs[::-1]):
        low, high = gathered(*order).range(percentile)
        bin_ = 2.0 ** np.ceil(np.log2(float(values.abs().max()))) / HALF
        assert (values < low).double().mean() <= share <= (values < low + bin_).double().mean()
        assert (values > high).double().mean() <= share <= (values > high - bin_).double().mean()


def test_one_value_in_a_million_is_beyond_the_range() -> None:
    values = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0))
    values[3, 3] = 1000
    low, high = gathered(values).range(PERCENTILE)
    assert low == 0
    assert 0.9 < high < 2


def test_the_range_of_few_values_is_all_of_them() -> None:
    assert gathered(torch.tensor([[-2.0, 1.0, 3.0]])).range(PERCENTILE) == (-2.0, 3.0)


def test_the_range_of_what_is_above_zero_begins_at_zero() -> None:
    assert gathered(torch.tensor([[5.0, 6.0]])).range(PERCENTILE) == (0.0, 6.0)


def test_zeros_have_no_range_and_do_not_hide_that_of_another_run() -> None:
    zeros = torch.zeros(1, 4)
    assert gathered(zeros).range(PERCENTILE) == (0.0, 0.0)
    assert gathered(zeros, torch.tensor([[0.0, 7.0, 0.0, 0.0]])).range(PERCENTILE)[1] == pytest.approx(7, rel=1e-3)


def test_the_largest_of_each_channel_is_that_of_all_runs(runs: list[Tensor]) -> None:
    assert torch.equal(gathered(*runs).largest, torch.cat(runs).abs().amax(dim=(0, 1)))


def test_memory_does_not_grow_with_the_images(runs: list[Tensor]) -> None:
    few, many = gathered(*runs), gathered(*runs * 7)
    sizes = [sum(one.numel() for one in vars(each).values() if isinstance(one, Tensor)) for each in (few, many)]
    assert sizes[0] == sizes[1] == 2 * HALF + 16
