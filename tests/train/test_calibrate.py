"""A correction is least squares, with a ridge that pulls to no change, judged on images that it was not fitted to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.errors import RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.quality.sweep.items import Item, drawn
from edgeprune.targets import load
from edgeprune.train.calibrate import LEAST, _pairs, _Sums, calibrate


def shortened(**fields: object) -> Request:
    return Request("fastervlm", "cpu", keep=32, inside="drop", schedule="2:70,4:40", **fields)  # type: ignore[arg-type]


def test_without_a_ridge_it_is_the_least_squares_of_numpy() -> None:
    seeded = torch.Generator().manual_seed(0)
    given, wanted = (torch.randn(200, 5, generator=seeded, dtype=torch.float64) for _ in range(2))
    sums = _Sums()
    for part in range(0, 200, 40):
        sums.add(given[part : part + 40], wanted[part : part + 40])
    change, bias = sums.solved(0.0)
    ones = np.concatenate((given.numpy(), np.ones((200, 1))), axis=1)
    solution = np.linalg.lstsq(ones, (wanted - given).numpy(), rcond=None)[0]
    np.testing.assert_allclose(change.numpy(), solution[:5].T, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), solution[5], atol=1e-9)
    left = (given + given @ change.T + bias - wanted).norm() / wanted.norm()
    assert sums.left(change, bias) == pytest.approx(float(left), rel=1e-9)


def test_a_strong_ridge_leaves_the_shift_of_the_means() -> None:
    seeded = torch.Generator().manual_seed(0)
    given = torch.randn(50, 3, generator=seeded, dtype=torch.float64)
    sums = _Sums()
    sums.add(given, 2 * given + 1)
    change, bias = sums.solved(1e12)
    assert change.abs().max() < 1e-9
    torch.testing.assert_close(bias, (given + 1).mean(dim=0), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_it_leaves_less_on_images_that_were_held_out() -> None:
    found = calibrate(shortened(), drawn(15, seed=5))
    before, behind = found.made["residual"]
    assert found.made["held_out"] == 3
    assert behind < 0.7 * before
    shift = calibrate(shortened(), drawn(15, seed=5), "shift")
    torch.testing.assert_close(shift.weight, torch.eye(len(shift.bias)), rtol=0, atol=0)
    assert behind < shift.made["residual"][1] < before


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(RequestError, match=f"needs {LEAST} images or more, got 3"):
        calibrate(shortened(), [Item("a", (0, 0))] * 3)
    with pytest.raises(RequestError, match="add --inside"):
        calibrate(Request("fastervlm", "cpu", keep=32), drawn(LEAST, seed=5))


@pytest.mark.parametrize("method", ["fastervlm", "divprune"])
def test_rows_are_those_of_the_patches_that_are_kept_also_where_the_steps_left_more(method: str) -> None:
    request = Request(method, "cpu", keep=32, inside="drop", schedule="4:40")
    found = opened(request, load("cpu"))
    (rows, wanted), *_ = _pairs(found, drawn(1, seed=5), lambda *_: None)
    assert rows.shape == wanted.shape == (32, found.encoder.tower.width)
    one = torch.nn.functional.normalize(rows, dim=-1) @ torch.nn.functional.normalize(wanted, dim=-1).T
    right = one.argmax(dim=-1) == torch.arange(32)  # one layer on fewer rows: each is still most like itself
    assert right.float().mean() > 0.9
