"""What moved, and of the rest what stands evenly: written here in numpy; and that no layer runs on the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.export.cost import by_layer
from edgeprune.ports import PRIOR
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.codecsight import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Taps
from edgeprune.trace import PrunedEncoder

Floats = NDArray[np.float64]
IMAGES, GRID, PATCHES = 36, (5, 8), 40
DRAWN = np.random.default_rng(13)
MOVED = np.where(DRAWN.uniform(size=(IMAGES, PATCHES)) < 0.4, DRAWN.integers(1, 80, (IMAGES, PATCHES)) / 4, 0.0)
"""motion vectors in quarters of a pixel; of most patches none"""
BUDGETS = (2, 9, 38)


def formula(prior: Floats, keep: int) -> list[int]:
    g = np.roots([1, 0, -1, -1]).real.max()
    places = [(row / g**2 + column / g) % 1 for row in range(GRID[0]) for column in range(GRID[1])]
    turn = (np.argsort(np.argsort(places)) + 1) / PATCHES
    score = np.where(prior > 0, prior / max(prior.max(), 1e-12), -1 / 16) + turn / 16
    return sorted(np.argsort(-score)[:keep].tolist())


def both(method: Method, prior: Floats) -> tuple[Selection, Selection]:
    rows, given = torch.zeros(IMAGES, PATCHES, 4), {PRIOR: torch.tensor(prior).float()}
    return (
        method.select(Taps({}, rows, rows, GRID, 1, 4, given=given)),
        method.official(Eager([], rows, rows, GRID, 1, given=given)),
    )


@pytest.mark.parametrize("prior", [MOVED, 0 * MOVED, 0 * MOVED + 1], ids=["some moved", "nothing moved", "all alike"])
@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(keep: int, prior: Floats, judged: Callable[..., Verdict]) -> None:
    static, official = both(Method(keep), prior)
    for chosen in (static, official):
        assert chosen.indices.tolist() == [formula(one, keep) for one in prior]
    assert not judged(Method(keep), np.zeros((IMAGES, PATCHES, 4)), official, static).reasons


def test_what_moved_comes_before_all_that_did_not() -> None:
    static, _ = both(Method(9), MOVED)
    for image, kept in enumerate(static.indices.tolist()):
        assert (MOVED[image, kept] > 0).sum() == min(9, (MOVED[image] > 0).sum())


def test_no_layer_runs_on_the_others() -> None:
    encoder, method = encoders.load(open_checkpoint(None)), Method(36)
    whole, few = by_layer(encoder, Method(144)), by_layer(encoder, method)
    assert all(3.5 * one < every for one, every in zip(few, whole, strict=True))
    pixels, prior = torch.randn(1, 3, 96, 96), torch.linspace(0, 1, 144)[None].contiguous()
    with torch.inference_mode():
        found, expected = (path(encoder, method).eval()(pixels, prior) for path in (PrunedEncoder, OfficialEncoder))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
