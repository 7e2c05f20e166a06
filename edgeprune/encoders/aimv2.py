"""AIMv2's vision tower: no [CLS], learned positions, RMS norms and gated MLPs (Aimv2VisionModel, Aimv2Model).

Its tokens are last_hidden_state, which is behind the final norm. The attention-pooling head is neither read nor
exported. Checkpoints of native resolution, whose positions are computed for each image, are refused.

Source  apple/ml-aim aim-v2/python/aim/v2/torch/models.py, transformers Aimv2VisionModel
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.errors import ModelError

MODEL_TYPES = ("aimv2", "aimv2_vision_model")
HAS = {"": ("variable sequence length",)}


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    """Raises ModelError for a checkpoint of native resolution."""
    from transformers import Aimv2VisionConfig, Aimv2VisionModel

    given = checkpoint.config.get("vision_config", checkpoint.config)
    config = settings(Aimv2VisionConfig, given, use_head=False)
    if config.is_native:
        raise ModelError(f"{checkpoint.id}: aimv2 must have a fixed image size, got is_native; use a -224 or -336 one")
    tensors = without(checkpoint, "head").tensors("vision_model.", "")
    module = cast(Any, pretrained(Aimv2VisionModel, config, tensors, checkpoint.id))
    layers, embeddings = module.encoder.layers, module.embeddings
    tower = tower_around(
        module,
        [part.attention for part in layers],
        layers[0].ffn,
        embeddings.patch_embed,
        config.image_size,
        prefix=0,
        has_cls=False,
        embeddings=embeddings,
        blocks=layers,
    )
    return without_projector("aimv2", tower, layer)
