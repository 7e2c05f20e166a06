"""LLaVA-1.5: a vision tower, the features of `vision_feature_layer` without [CLS], and a two-layer projector.

Source  haotian-liu/LLaVA, llava/model/multimodal_encoder/clip_encoder.py (feature_select) and
        transformers LlavaModel.get_image_features, whose conventions these are.
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, family_of, feature_depth
from edgeprune.errors import ModelError

MODEL_TYPES = ("llava",)


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = LlavaConfig(**checkpoint.config)
    if config.vision_feature_select_strategy != "default":
        raise ModelError(
            f"{checkpoint.id}: vision_feature_select_strategy must be 'default' (patches without [CLS]), "
            f"got {config.vision_feature_select_strategy!r}"
        )
    chosen = config.vision_feature_layer if layer is None else layer
    if not isinstance(chosen, int):
        raise ModelError(
            f"{checkpoint.id}: vision_feature_layer must be one layer, got {chosen}; choose one with --layer"
        )

    vision = checkpoint.config["vision_config"]
    family = family_of(vision, f"the vision tower of {checkpoint.id}")
    prefixes = (
        "model.vision_tower.vision_model.",
        "vision_tower.vision_model.",
        "model.vision_tower.",
        "vision_tower.",
    )
    tower = family.tower(checkpoint, vision, *prefixes)

    projector = LlavaMultiModalProjector(config)
    try:
        projector.load_state_dict(checkpoint.tensors("model.multi_modal_projector.", "multi_modal_projector."))
    except RuntimeError as error:
        raise ModelError(
            f"{checkpoint.id}: the projector does not fit config.json: {' '.join(str(error).split())}"
        ) from None
    return Encoder(
        "llava", tower, feature_depth(chosen, len(tower.attention)), projector.float().eval().requires_grad_(False)
    )
