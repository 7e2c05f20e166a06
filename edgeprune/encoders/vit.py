"""ViT: [CLS] first, learned positions, pre-norm layers (ViTModel, ViTForImageClassification).

Its tokens are the patches of last_hidden_state, which is behind the final layernorm. Pooler and classifier are neither
read nor exported.

Source  google-research/vision_transformer vit_jax/models_vit.py, transformers ViTModel
Has     [CLS]
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, bare, described, pretrained, settings, without

MODEL_TYPES = ("vit",)


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    from transformers import ViTConfig, ViTModel

    config = settings(ViTConfig, checkpoint.config)
    tensors = without(checkpoint, "pooler", "mask_token").tensors("vit.", "")
    module = cast(Any, pretrained(ViTModel, config, tensors, checkpoint.id, add_pooling_layer=False))
    attention, patches = [part.attention for part in module.layers], module.embeddings.patch_embeddings.projection
    return bare("vit", described(module, attention, module.layers[0].mlp, patches, config.image_size, prefix=1), layer)
