"""LLaVA-1.5: a vision tower, the features of `vision_feature_layer`, and a two-layer projector
(LlavaForConditionalGeneration with a CLIP, SigLIP or Pixtral tower).

With a CLIP tower the features are the patches without [CLS] (vision_feature_select_strategy "default"), with a SigLIP
or Pixtral tower, which has no [CLS], all tokens ("full"). Pixtral's is of image_size where --size says nothing, the
largest that it takes; its prompt has a break behind each row of tokens, as `mistral3`.

Source  haotian-liu/LLaVA, llava/model/multimodal_encoder/clip_encoder.py (feature_select) and
        transformers LlavaModel.get_image_features, whose conventions these are.
"""

from __future__ import annotations

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import with_projector
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("llava",)
OPTIONS = ("size",)
HAS = {
    "a CLIP tower": ("[CLS]", "two-layer projector", "variable sequence length"),
    "a SigLIP tower": ("two-layer projector", "variable sequence length"),
    "a Pixtral tower": ("two-layer projector",),
}
PROCESSORS = {"Llava": Processor(CLIP, models=("llava",), squares=True)}
REFUSED = {
    "of the original LLaVA code, not of transformers: convert it once with `edgeprune convert`": (
        "llava_llama", "llava_mistral", "llava_mixtral", "llava_mpt", "llava_qwen", "llava_gemma", "llava_phi",
    ),
}  # fmt: skip
"""why not -> the model_types of such"""


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = LlavaConfig(**checkpoint.config)
    return with_projector("llava", checkpoint, config, LlavaMultiModalProjector, layer, size=size)
