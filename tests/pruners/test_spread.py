"""BAViT's option `spread`: what foreground leaves of the budget goes to background evenly over the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.encoders import Encoder
from edgeprune.fit import build_method
from edgeprune.pruners import bavit
from edgeprune.pruners._dither import dither as traced
from edgeprune.pruners._scorer import Scorer
from edgeprune.pruners.bavit import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.taps import Taps
from edgeprune.trace import PrunedEncoder

MakeScorer = Callable[..., Scorer]
Array = NDArray[np.float64]
PIXELS = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
GRIDS = [(1, 7), (10, 10), (12, 12), (24, 24), (32, 54), (50, 84)]
KINDS = ["front", "coarse", "trunk"]


def dither(rows: int, columns: int) -> Array:
    """[rows * columns], the head's formula, its root found here."""
    (g,) = (root.real for root in np.roots([1, 0, -1, -1]) if abs(root.imag) < 1e-12)
    row, column = np.divmod(np.arange(rows * columns), columns)
    phase = np.modf(row / g**2 + column / g)[0]
    place = np.empty(len(phase))
    place[np.argsort(phase)] = np.arange(1, len(phase) + 1)
    return place / len(phase)


def formula(z: Array, d: Array) -> Array:
    return np.maximum(z, 0) - d * np.clip(-z / 2, 0, 1)


def given(z: Array, grid: tuple[int, int], keep: int) -> tuple[Array, list[int]]:
    """Scores and kept patches where the classifier says z [N]."""

    class Said(torch.nn.Module):
        config = make_config(grid)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            z_ = torch.from_numpy(z).float()[None]
            return torch.stack((torch.zeros_like(z_), z_), dim=-1)

    nothing: Any = torch.zeros(1, len(z), 4)
    chosen = Method(keep, Said(), 1, spread=True).select(  # type: ignore[arg-type]
        Taps({}, nothing, nothing, grid, 0, 1, pixels=torch.zeros(1))
    )
    return chosen.scores[0].double().numpy(), chosen.indices[0].tolist()


def make_config(grid: tuple[int, int]) -> Any:
    from edgeprune.pruners._scorer import ScorerConfig

    return ScorerConfig("front", 1, 8, 1, 8, 8, grid, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_foreground_as_it_is_and_background_by_its_place(
    detector: Encoder, make_scorer: MakeScorer, kind: str
) -> None:
    scorer = make_scorer(kind)

    def built(spread: str) -> Method:
        found = build_method(bavit.Method, "bavit", detector, 20, {"spread": spread}, scorer=scorer)
        assert isinstance(found, Method)
        return found

    def said() -> torch.Tensor:
        with torch.inference_mode():
            scores: torch.Tensor = PrunedEncoder(detector, built("false")).eval()(PIXELS)[3]
            return scores

    middle, width = said().median(), said().std()
    for part in scorer.head.parameters():
        part.mul_(3 / width)
    scorer.head.bias[0] += 3 * middle / width  # half of the patches are foreground
    z, spread = said().double().numpy(), built("true")
    with torch.inference_mode():
        found = PrunedEncoder(detector, spread).eval()(PIXELS)
        reference = OfficialEncoder(detector, spread).eval()(PIXELS)
    d: NDArray[Any] = dither(6, 8)
    if kind == "coarse":
        d = np.kron(dither(3, 4).reshape(3, 4), np.ones((2, 2))).ravel()
    assert (z > 0).any()
    assert ((z < 0) & (z > -2)).any()
    assert (z < -2).any()
    for form in (found, reference):
        assert form[3].dtype == torch.float32
        np.testing.assert_allclose(form[3].numpy(), formula(z, d), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[2], reference[2])


@pytest.mark.parametrize("grid", GRIDS)
def test_no_two_patches_of_certain_background_tie(grid: tuple[int, int]) -> None:
    count = math.prod(grid)
    np.testing.assert_allclose(traced(*grid).double().numpy(), dither(*grid), rtol=1e-6)
    scores, _ = given(np.full(count, -9.0), grid, 1)
    np.testing.assert_allclose(np.sort(scores), -np.arange(count, 0, -1) / count, rtol=1e-6)


def test_foreground_comes_first_then_doubt_then_certain_background() -> None:
    z = np.full(100, -9.0)
    z[:20] = np.linspace(3, 0.1, 20)
    _, kept = given(z, (10, 10), 20)
    assert kept == [*range(20)]
    late = int(dither(10, 10).argmax())
    z[late] = -0.01
    assert late in given(z, (10, 10), 21)[1]
    z[late] = -1.99  # all but certain, and last of all by its place
    assert late not in given(z, (10, 10), 99)[1] + given(z, (10, 10), 60)[1]


@pytest.mark.parametrize("grid", [(24, 24), (32, 54), (50, 84)])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_background_is_kept_evenly_over_the_grid(grid: tuple[int, int], share: float) -> None:
    """In every window that should hold 16 there are 12 to 20; drawn at random, there are 4 to 30."""
    keep = round(share * math.prod(grid))

    def windows(kept: NDArray[np.int64]) -> Array:
        on = np.zeros(math.prod(grid))
        on[kept] = 1
        side = round(math.sqrt(16 / share))
        every = np.lib.stride_tricks.sliding_window_view(on.reshape(grid), (side, side))
        found: Array = every.sum(axis=(2, 3)) * 16 / (share * side**2)
        return found

    held = windows(np.array(given(np.full(math.prod(grid), -5.0), grid, keep)[1]))
    drawn = windows(np.random.default_rng(0).permutation(math.prod(grid))[:keep])
    assert held.min() >= 12
    assert held.max() <= 20
    assert np.ptp(drawn) > 1.5 * np.ptp(held)
