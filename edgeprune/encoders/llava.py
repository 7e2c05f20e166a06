"""LLaVA-1.5: a vision tower, the features of `vision_feature_layer`, and a two-layer projector.

With a CLIP tower the features are the patches without [CLS] (vision_feature_select_strategy "default"), with a SigLIP
tower, which has no [CLS], all tokens ("full").

Source  haotian-liu/LLaVA, llava/model/multimodal_encoder/clip_encoder.py (feature_select) and
        transformers LlavaModel.get_image_features, whose conventions these are.
Has     [CLS], two-layer projector, layers of any length with a CLIP tower
Has     two-layer projector, layers of any length with a SigLIP tower
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, connected

MODEL_TYPES = ("llava",)


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = LlavaConfig(**checkpoint.config)
    return connected("llava", checkpoint, config, LlavaMultiModalProjector(config), layer)
