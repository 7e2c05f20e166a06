"""FasterVLM against the official formula, written here in numpy on attention maps that transformers itself returns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import attending
from edgeprune.errors import MethodError
from edgeprune.export.processor import read_processor
from edgeprune.fit import build_method
from edgeprune.probes import scenes
from edgeprune.pruners import Eager
from edgeprune.pruners.fastervlm import Method
from edgeprune.taps import Attention, Taps
from edgeprune.trace import PrunedEncoder


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return encoders.load(open_checkpoint())


def formula(attention: NDArray[np.float64], keep: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """encode_images of Theia-4869/FasterVLM@f5d5f12: attention [B, H, S, S] -> indices, scores."""
    cls_attention = attention[:, :, 0, 1:].mean(axis=1)
    order = np.argsort(-cls_attention, axis=1, kind="stable")[:, :keep]
    mask = np.zeros(cls_attention.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)  # the official boolean mask is what makes the order raster order
    return np.stack([np.flatnonzero(row) for row in mask]), cls_attention


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


RANDOM = np.random.default_rng(0).normal(size=(2, 4, 26, 8))
QUERIES = {
    "random": RANDOM,
    "one dominant patch": np.where(np.arange(26)[:, None] == 7, 40 * RANDOM[:, :, :1], RANDOM),
    "two clusters": np.where(np.arange(26)[:, None] % 2 == 0, RANDOM[:, :, 2:3], RANDOM[:, :, 3:4]) + 1e-3 * RANDOM,
    "huge norms": 30 * RANDOM,
}


@pytest.mark.parametrize("case", QUERIES)
@pytest.mark.parametrize("keep", [1, 3, 12, 24, 25])
def test_indices_and_scores_equal_the_official_formula(case: str, keep: int) -> None:
    key = QUERIES[case]
    query = np.random.default_rng(1).normal(size=key.shape)
    indices, scores = formula(softmax(query @ key.swapaxes(-1, -2) * 8**-0.5), keep)
    taps = Taps(
        {0: Attention(torch.tensor(query), torch.tensor(key), 8**-0.5)},
        torch.empty(2, 25, 8),
        torch.empty(0),
        (5, 5),
        prefix=1,
        depth=1,
    )
    chosen = Method(keep).select(taps)
    np.testing.assert_allclose(chosen.scores.numpy(), scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(chosen.indices.numpy(), indices)


def test_when_all_patches_tie_exactly_keep_of_them_are_chosen_once_each() -> None:
    flat = torch.zeros(1, 2, 26, 8)
    chosen = Method(9).select(
        Taps({0: Attention(flat, flat, 1.0)}, torch.empty(1, 25, 8), torch.empty(0), (5, 5), 1, 1)
    )
    assert len(set(chosen.indices[0].tolist())) == 9


def test_the_reference_form_equals_the_official_formula() -> None:
    attention = softmax(np.random.default_rng(2).normal(size=(2, 4, 26, 26)))
    indices, scores = formula(attention, 6)
    chosen = Method(6).official(Eager([torch.tensor(attention)], torch.empty(0), torch.empty(0), (5, 5), 1))
    np.testing.assert_array_equal(chosen.indices.numpy(), indices)
    np.testing.assert_allclose(chosen.scores.numpy(), scores)


@pytest.mark.parametrize("scene", scenes()[:3], ids=lambda path: path.stem)
def test_on_the_trained_model_it_keeps_what_transformers_own_attention_says(tiny: Encoder, scene: object) -> None:
    config = open_checkpoint().processor
    pixels = torch.from_numpy(read_processor(config, (96, 96))(Image.open(str(scene))))[None]
    with torch.inference_mode(), attending(tiny.tower.module, "eager"):
        seen = tiny.tower.module(pixels, output_attentions=True).attentions
    indices, scores = formula(
        seen[-2].double().numpy(), 64
    )  # vision_feature_layer -2: attentions[-2], as the official code
    with torch.inference_mode():
        got = PrunedEncoder(tiny, build_method(Method, "fastervlm", tiny, 64))(pixels)
    np.testing.assert_array_equal(got[1].numpy(), indices)
    np.testing.assert_allclose(got[2].numpy(), scores, rtol=1e-4)


def test_an_encoder_without_cls_is_refused_with_a_way_out(tiny: Encoder) -> None:
    blind = replace(tiny, tower=replace(tiny.tower, has_cls=False), family="siglip")
    with pytest.raises(MethodError, match=r"fastervlm reads the \[CLS\] row .* siglip has no \[CLS\] token\. Use"):
        build_method(Method, "fastervlm", blind, 8)
