"""Keys of a language model are transformers' own, read without the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders._keys import keys_of
from edgeprune.errors import ModelError

VISION = {"model_type": "clip_vision_model", "image_size": 48, "patch_size": 8, "hidden_size": 32}
SMALL = {"intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}


@pytest.fixture(scope="module")
def make(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**text: Any) -> Path:
        config = {"vision_config": {**VISION, **SMALL}, "text_config": {**TEXT, **text}, "image_token_index": 3}
        return model_folder(tmp_path_factory.mktemp("keys"), "LlavaForConditionalGeneration", **config)

    return make


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_they_are_those_of_the_first_layer(make: Callable[..., Path], kind: str) -> None:
    from transformers import LlavaForConditionalGeneration

    folder = make(model_type=kind, num_attention_heads=6, num_key_value_heads=2)
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)  # in evaluation mode
    keyer, layer = keys_of(open_checkpoint(str(folder))), model.model.language_model.layers[0]
    assert (keyer.heads, keyer.head, keyer.k_proj.bias is not None) == (6, 8, kind == "qwen2")
    x = torch.randn(1, 5, 48)
    with torch.inference_mode():
        keys = layer.self_attn.k_proj(layer.input_layernorm(x))
        torch.testing.assert_close(keyer(x), keys)
        repeated = keys.reshape(1, 5, 2, 8)[:, :, [0, 0, 0, 1, 1, 1]].flatten(2)
        torch.testing.assert_close(keyer.to_every_head(keyer(x)), repeated)
    assert isinstance(keyer, nn.Module)
    assert not any(one.requires_grad for one in keyer.parameters())


def test_a_first_layer_that_begins_otherwise_is_refused(make: Callable[..., Path]) -> None:
    folder = make(model_type="qwen3", num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(ModelError, match=r"are read of llama, .*; \S+ has a qwen3: choose another --method"):
        keys_of(open_checkpoint(str(folder)))
