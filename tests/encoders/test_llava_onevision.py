"""LLaVA-OneVision: every tile's tokens are those that transformers projects before it packs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from edgeprune.encoders import Encoder
from edgeprune.pruners import none
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder

PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_unpruned_tokens_are_the_models_own_of_each_tile(made: Callable[[str], tuple[Path, Encoder]]) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    folder, encoder = made("llava onevision")
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder).model.eval()
    with torch.inference_mode():
        features = model.vision_tower(PIXELS, output_hidden_states=True).hidden_states[-1]
        expected = model.multi_modal_projector(features)
        packed = model.get_image_features(PIXELS[None], torch.tensor([[48, 48]])).pooler_output[0]
        torch.testing.assert_close(packed[:36], expected[0])  # the first tile is packed as it is
        for path in (PrunedEncoder, OfficialEncoder):
            tokens = path(encoder, none.Method(36))(PIXELS)[0]
            torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
