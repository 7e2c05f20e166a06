"""ViT: [CLS] first, learned positions, pre-norm layers (ViTModel, ViTForImageClassification).

Its tokens are the patches of last_hidden_state, which is behind the final layernorm. The pooler is neither read nor
exported; the classifier is with --head, which reads [CLS].

Source  google-research/vision_transformer vit_jax/models_vit.py, transformers ViTModel
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._heads import with_classifier
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import VIT, Processor

MODEL_TYPES = ("vit",)
OPTIONS = ("size", "head")
HAS = {"": ("[CLS]", "variable sequence length")}
PROCESSORS = {"ViT": Processor(VIT, models=("vit",))}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None, head: bool = False) -> Encoder:
    from transformers import ViTConfig, ViTModel

    config = settings(ViTConfig, checkpoint.config)
    tensors = without(checkpoint, "pooler", "mask_token").tensors("vit.", "")
    module = cast(Any, pretrained(ViTModel, config, tensors, checkpoint.id, add_pooling_layer=False))
    layers, embeddings = module.layers, module.embeddings
    if size:
        resample(embeddings, whole_patches(size, config.patch_size), 1, checkpoint.id)
    tower = tower_around(
        module,
        [part.attention for part in layers],
        layers[0].mlp,
        embeddings.patch_embeddings.projection,
        size or config.image_size,
        prefix=1,
        embeddings=embeddings,
        blocks=layers,
    )
    return with_classifier("vit", checkpoint, tower, (0,)) if head else without_projector("vit", tower, layer)
