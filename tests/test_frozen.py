"""FlowCut's counts, frozen on images: the official rule by hand, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import recording
from edgeprune.errors import MethodError, RequestError
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, with_inside
from edgeprune.frozen import _cut, flowcut_steps
from edgeprune.pruners import fastervlm
from edgeprune.schedule import Step
from edgeprune.trace import PrunedEncoder

KEEP = 12
PIXELS = torch.randn(5, 3, 48, 48, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def encoder(clip_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """36 patches, 8 layers, whose attention is peaked, so that the rule takes some rows at every step."""
    folder = clip_folder(tmp_path_factory.mktemp("clip"), num_hidden_layers=8)
    found = encoders.load(open_checkpoint(str(folder)), 8)
    for name, value in found.tower.module.named_parameters():
        if name.endswith("q_proj.weight"):
            value.data.mul_(4)
    return found


def test_the_rule_is_that_of_the_source() -> None:
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    entropy = 0.5 * math.log(2) + 0.25 * math.log(4) + 0.25 * math.log(8)
    wanted = (4 - 1) / math.sqrt(2) * (1 - (entropy / math.log(4)) ** 2)
    assert wanted == pytest.approx(0.4972, abs=1e-3)
    assert _cut(shares, 1, 2) == round(wanted) == 0
    assert _cut(shares, 1, 1) == 1  # .703


def test_the_first_count_is_the_median_over_images_of_the_whole_encoder(encoder: Encoder) -> None:
    with torch.inference_mode(), recording(encoder.tower.module, encoder.tower.attention, written_out=True) as seen:
        encoder.tower.module(PIXELS)
    rows = seen.maps[encoder.tower.attention[1]].numpy()[:, :, 0, 1:].mean(axis=1)
    goes = []
    for row in rows:
        shares = row / row.sum()
        entropy = -sum(one * math.log(one) for one in shares)
        goes.append(round((36 - KEEP) / math.sqrt(7 - 2) * (1 - (entropy / math.log(36)) ** 2)))
    assert np.median(goes) > 0
    assert flowcut_steps(encoder, PIXELS, KEEP)[0] == Step(2, 36 - int(np.median(goes)))


def test_steps_stand_behind_every_second_layer_and_end_with_the_budget(encoder: Encoder) -> None:
    steps = flowcut_steps(encoder, PIXELS, KEEP)
    assert [step.layer for step in steps] == [2, 4, 6]
    assert steps[-1] == Step(6, KEEP)
    assert [step.keep for step in steps] == sorted({step.keep for step in steps}, reverse=True)


def test_an_encoder_takes_them(encoder: Encoder) -> None:
    method = build_method(fastervlm.Method, "fastervlm", encoder, KEEP)
    reducer = build_reducer(encoder, "flowcut", method, "fastervlm")
    within = with_inside(encoder, "flowcut", reducer, flowcut_steps(encoder, PIXELS, KEEP), method)
    with torch.inference_mode():
        assert PrunedEncoder(within, method).eval()(PIXELS)[0].shape[1] == KEEP


@pytest.mark.parametrize(("images", "keep"), [(0, 12), (5, 0), (5, 36)])
def test_what_has_no_counts_is_refused(encoder: Encoder, images: int, keep: int) -> None:
    with pytest.raises(RequestError, match=rf"for 1\.\.35 tokens; got {images} images, 8 layers and {keep} tokens"):
        flowcut_steps(encoder, PIXELS[:images], keep)


def test_an_encoder_without_cls_is_refused(encoder: Encoder) -> None:
    without = replace(encoder, tower=replace(encoder.tower, has_cls=False))
    with pytest.raises(MethodError, match=r"has no \[CLS\] token"):
        flowcut_steps(without, PIXELS, KEEP)
