"""LLaVA-OneVision: a SigLIP tower, the features of its last layer, and a two-layer projector; one tile at a time.

The tokens are those of one tile, as the projector gives them. Cutting an image into tiles (AnyRes), unpadding, the 2x2
pooling of video frames and the image_newline token, with which transformers packs the tiles, stay with the caller.

Source  LLaVA-VL/LLaVA-NeXT llava/model/llava_arch.py (encode_images), whose conventions transformers
        LlavaOnevisionModel.get_image_features keeps
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, connected

MODEL_TYPES = ("llava_onevision",)


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    from transformers import LlavaOnevisionConfig
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

    config = LlavaOnevisionConfig(**checkpoint.config)
    return connected("llava_onevision", checkpoint, config, LlavaOnevisionMultiModalProjector(config), layer)
