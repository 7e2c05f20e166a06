"""LLaVA-OneVision: a SigLIP tower, the features of its last layer, and a two-layer projector, on tiles or frames
(LlavaOnevisionForConditionalGeneration).

    tiles   tokens = projector(features)                               as LLaVA-NeXT's
    --video tokens = pooling @ projector(features), of each frame      pooling [N, P]: bilinear, to half the sides

The tokens are those of get_image_features in front of its packing, of get_video_features in front of the image_newline
at its end. Frames take the steps of the image processor; a token of theirs is made of several patches, so that none can
be dropped inside the encoder.

Source  LLaVA-VL/LLaVA-NeXT llava/model/llava_arch.py (encode_images, get_2dPool), whose conventions transformers
        LlavaOnevisionModel keeps
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, llava_next
from edgeprune.encoders._load import with_projector
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("llava_onevision",)
OPTIONS = ("video",)
HAS = {"": ("two-layer projector", "variable sequence length")}
PROCESSORS = {
    "LlavaOnevision": Processor(
        CLIP
        | {
            "size": {"height": 384, "width": 384},
            "do_center_crop": False,
            "image_grid_pinpoints": [(384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)],
        },
        models=("llava_onevision",),
        reads=("image_grid_pinpoints",),
        ignores=("do_pad",),  # pads the list of tiles
    )
}
TILES = f"{llava_next.LAYOUT}; many tiles are not shrunk to fewer tokens"
FRAMES = "frames: one after the other; no image_newline"


def load(checkpoint: Checkpoint, layer: int | None, video: bool = False) -> Encoder:
    from transformers import LlavaOnevisionConfig
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

    config = LlavaOnevisionConfig(**checkpoint.config)
    encoder = with_projector("llava_onevision", checkpoint, config, LlavaOnevisionMultiModalProjector, layer)
    if video:
        return replace(encoder, pooling=_halved(encoder.tower.grid), framed=True, layout=FRAMES)
    return replace(encoder, tiled=True, layout=TILES)


def _halved(grid: tuple[int, int]) -> Tensor:
    """[N, P] float32: what each patch has in each token; read off by pooling one patch at a time."""
    rows, columns = grid
    basis = torch.eye(rows * columns).reshape(-1, 1, rows, columns)
    pooled = nn.functional.interpolate(basis, size=(-(-rows // 2), -(-columns // 2)), mode="bilinear")
    return pooled.flatten(1).T.contiguous()
