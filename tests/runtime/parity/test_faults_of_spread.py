"""Planted faults in BAViT's option `spread`: each is caught in float32 and float16, and without one parity passes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgeprune.fit import build_method
from edgeprune.probes import scenes
from edgeprune.pruners import Method, Selection, bavit
from edgeprune.pruners._dither import dither
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps
from tests.covering import always
from tests.device import KEEP, Device

PRECISIONS = ("float32", "float16")


class WithScorer(Device):
    """bavit on the embedded model, with a scorer that calls about a tenth of the patches foreground."""

    @functools.cache  # noqa: B019
    def method(self, name: str, keep: int = KEEP) -> Method:
        torch.manual_seed(2)
        sizes: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24, "grid": (12, 12)}
        scorer = Scorer(ScorerConfig("front", patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, **sizes)).eval()
        for parameter in scorer.requires_grad_(False).parameters():
            nn.init.normal_(parameter, std=0.4)
        scorer.head.bias.copy_(torch.tensor([2.0, 0.0]))
        return build_method(bavit.Method, name, self.encoder, keep, {"spread": "true"}, scorer=scorer)


@pytest.fixture(scope="module")
def device() -> Device:
    return WithScorer(Image.open(path).convert("RGB") for path in scenes()[:2])


def scored(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Taps], Selection]:
    """A fault that scores otherwise: by z [B, N] and the dither, rows and columns."""

    def select(own: Any, taps: Taps) -> Selection:
        z = replace(own, spread=False).select(taps).scores
        scores = score(z, dither(*taps.grid).reshape(taps.grid))
        indices, picks = ranked_top(scores, own.keep)
        return Selection(indices, scores, picks=picks)

    return select


def by(dither: Tensor, z: Tensor, slope: float = 0.5) -> Tensor:
    return z.relu() - dither.flatten() * (-z * slope).clamp(0, 1)


FAULTS = {
    "the_option_is_not_heard": lambda z, d: z,
    "rows_and_columns_swapped": lambda z, d: by(d.T, z),
    "off_by_a_row": lambda z, d: by(d.roll(1, 0), z),
    "off_by_a_column": lambda z, d: by(d.roll(1, 1), z),
    "backwards": lambda z, d: by(1 - d, z),
    "in_raster_order": lambda z, d: by(torch.arange(1, 145) / 144, z),
    "of_another_grid": lambda z, d: by(dither(6, 24), z),
    "in_whole_steps": lambda z, d: by((16 * d).ceil() / 16, z),
    "doubt_taken_for_certain": lambda z, d: torch.where(z > 0, z, -d.flatten()),
    "doubt_twice_as_wide": lambda z, d: by(d, z, 0.25),
    "doubt_without_an_end": lambda z, d: z.relu() - d.flatten() * (-z / 2).clamp(min=0),
    "background_above_foreground": lambda z, d: z.relu() + d.flatten() * (-z / 2).clamp(0, 1),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_a_fault_it_passes(device: Device, precision: str) -> None:
    verdict = device.judge("bavit", precision, device.healthy("bavit", precision))
    assert not verdict.reasons
    assert verdict.wrong == 0
    assert verdict.decided > 0.9 * verdict.decisions


@pytest.mark.parametrize("precision", always(PRECISIONS, "float16"))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_how_it_spreads_is_caught(device: Device, fault: str, precision: str) -> None:
    assert device.judge("bavit", precision, device.run("bavit", precision, scored(FAULTS[fault]))).reasons
