"""CLIP's vision tower: [CLS] first, learned positions, pre-norm layers (CLIPVisionModel, CLIPModel).

A bare CLIP has no projector: its tokens are the hidden states of the last layer, as last_hidden_state gives them
(without post_layernorm, which CLIP applies to [CLS] only).
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower, feature_depth, pretrained

MODEL_TYPES = ("clip", "clip_vision_model")


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    config = checkpoint.config.get("vision_config", checkpoint.config)
    found = tower(checkpoint, config, "vision_model.", "clip.vision_model.", "")
    return Encoder("clip", found, feature_depth(-1 if layer is None else layer, len(found.attention)), nn.Identity())


def tower(checkpoint: Checkpoint, config: dict[str, Any], *prefixes: str) -> Tower:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    settings = CLIPVisionConfig(**{name: value for name, value in config.items() if name != "model_type"})
    module = cast(Any, pretrained(CLIPVisionModel, settings, checkpoint.tensors(*prefixes), checkpoint.id))
    image_size, patch_size = cast(int, settings.image_size), cast(int, settings.patch_size)
    side = image_size // patch_size
    return Tower(
        module=module,
        attention=[layer.self_attn for layer in module.encoder.layers],
        patch_embedding=module.embeddings.patch_embedding,
        image_size=(image_size, image_size),
        grid=(side, side),
        prefix=1,
        has_cls=True,
        width=settings.hidden_size,
        mlp_width=settings.intermediate_size,
    )
