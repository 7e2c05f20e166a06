"""Video-LLaVA: one tower for images, one for the frames of videos, and one two-layer projector for both
(VideoLlavaForConditionalGeneration).

    tokens = projector(hidden_states[vision_feature_layer]), patches of each image or frame

transformers gives the language model [CLS] of every frame, too; here the tokens are patches, which can be pruned.
Frames take the steps of the image processor. Only the tensors of the chosen tower are read.

Source  PKU-YuanGroup/Video-LLaVA llava/model/llava_arch.py, transformers VideoLlavaModel.get_image_features and
        get_video_features
"""

from __future__ import annotations

from dataclasses import replace

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import with_projector
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("video_llava",)
OPTIONS = ("video", "size")
HAS = {"": ("[CLS]", "two-layer projector", "variable sequence length")}
PROCESSORS = {
    "VideoLlava": Processor(
        CLIP,
        models=("video_llava",),
        reads=("return_legacy_image_output",),
        ignores=("do_pad", "default_to_square", "longest_edge", "max_height", "max_width"),
        fills=("size", "crop_size", "image_mean", "image_std"),
    )
}
FRAMES = "frames: one after the other; [CLS] of each is left out"


def load(
    checkpoint: Checkpoint, layer: int | None, video: bool = False, size: tuple[int, int] | None = None
) -> Encoder:
    from transformers import VideoLlavaConfig
    from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector

    config = VideoLlavaConfig(**checkpoint.config)
    projector, tower = VideoLlavaMultiModalProjector, "video_tower" if video else "image_tower"
    encoder = with_projector("video_llava", checkpoint, config, projector, layer, tower, size)
    return replace(encoder, framed=True, layout=FRAMES) if video else encoder
