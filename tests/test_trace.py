"""The pruned encoder as a module: budgets, and images with the normalisation folded in."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export.precision import RawPixels, fold_normalisation
from edgeprune.export.processor import read_processor
from edgeprune.fit import build_method
from edgeprune.probes import scenes
from edgeprune.pruners import fastervlm, none
from edgeprune.trace import PrunedEncoder


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return encoders.load(open_checkpoint())


def test_a_budget_is_asked_for_where_the_method_drops_patches(tiny: Encoder) -> None:
    with pytest.raises(RequestError, match=r"--keep must say how many of the 144 patches to keep \(1\.\.144\)"):
        build_method(fastervlm.Method, "fastervlm", tiny, None)


def test_method_none_needs_no_budget_and_takes_no_other(tiny: Encoder) -> None:
    assert build_method(none.Method, "none", tiny, None).keep == 144
    with pytest.raises(RequestError, match="method none keeps all 144 patches, got keep 64"):
        build_method(none.Method, "none", tiny, 64)


def test_an_option_that_the_method_does_not_have_is_refused(tiny: Encoder) -> None:
    with pytest.raises(RequestError, match="no option of fastervlm 'alpha'; there are none"):
        build_method(fastervlm.Method, "fastervlm", tiny, 8, {"alpha": "0.2"})


def test_keeping_every_patch_equals_the_unpruned_encoder(tiny: Encoder) -> None:
    pixels = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        pruned = PrunedEncoder(tiny, fastervlm.Method(144))(pixels)
        unpruned = PrunedEncoder(tiny, none.Method(144))(pixels)
    assert torch.equal(pruned[0], unpruned[0])
    assert torch.equal(pruned[1], unpruned[1])


def test_raw_images_with_folded_normalisation_equal_normalised_pixels() -> None:
    checkpoint = open_checkpoint()
    tiny, preprocessing = encoders.load(checkpoint), read_processor(checkpoint.processor, (96, 96))
    folded = copy.deepcopy(tiny)
    fold_normalisation(folded.tower.patch_embedding, preprocessing.rescale, preprocessing.mean, preprocessing.std)
    images: list[Path] = scenes()[:2]
    floats = torch.from_numpy(np.stack([preprocessing(Image.open(path)) for path in images]))
    bytes_ = torch.from_numpy(np.stack([preprocessing.pixels(Image.open(path)) for path in images]))
    assert bytes_.dtype == torch.uint8
    with torch.inference_mode():
        expected = PrunedEncoder(tiny, fastervlm.Method(64))(floats)
        got = PrunedEncoder(folded, fastervlm.Method(64), RawPixels(torch.float32))(bytes_)
    assert torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-4, atol=1e-7)


def test_folding_keeps_a_bias_that_was_there() -> None:
    convolution = torch.nn.Conv2d(3, 4, 2, stride=2)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    raw = torch.randint(0, 256, (1, 3, 6, 6)).float()
    normalised = (raw / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = convolution(normalised)
        fold_normalisation(convolution, 1 / 255, mean, std)
        torch.testing.assert_close(convolution(raw), expected, rtol=1e-4, atol=1e-4)
