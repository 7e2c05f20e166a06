"""VipLLaVA: LLaVA-1.5 on the features of several layers side by side, behind a norm (VipLlavaForConditionalGeneration).

    tokens = projector(hidden_states[l] of each l in vision_feature_layer, without [CLS], side by side)

Older files call these layers vision_feature_layers.

Source  WisconsinAIVision/ViP-LLaVA llava/model/multimodal_encoder/clip_encoder.py, transformers
        VipLlavaModel.get_image_features
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune import catalog
from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import with_projector

MODEL_TYPES = ("vipllava",)
OPTIONS = ("size",)
HAS = {"": ("[CLS]", "variable sequence length")}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError for one layer of several."""
    from transformers import VipLlavaConfig
    from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

    config = cast(Any, VipLlavaConfig(**checkpoint.config))
    config.vision_feature_select_strategy = "default"  # it knows no other, and its config does not say it
    if layer is not None:
        own = config.vision_feature_layer
        named = {**checkpoint.config, "vision_feature_layer": own if isinstance(own, int) else list(own)}
        catalog.check_layer(layer, named, checkpoint.id)
    return with_projector("vipllava", checkpoint, config, VipLlavaMultiModalProjector, layer, size=size)
