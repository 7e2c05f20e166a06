"""LFM2-VL: SigLIP 2's NaFlex tower at one grid, 2x2 patches are one token by pixel unshuffle
(Lfm2VlForConditionalGeneration).

    token[r, c] = projector(patches [2r, 2c], [2r, 2c + 1], [2r + 1, 2c], [2r + 1, 2c + 1] side by side)

The features are last_hidden_state. The grid counts patches: 32x32 is a tile of 512x512 pixels and 256 tokens. An image
is a tile, or a smaller thumbnail of its own shape, which is a grid and a graph of its own; tiles of one size are the
images of a batch (`--tiles` says how many), each with its own budget, as their tags in the prompt ask for.

Source  transformers Lfm2VlModel.get_image_features
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger
from edgeprune.encoders._load import PROJECTOR, behind_norm, part_of, settings, spelled, without
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.encoders.siglip2 import tower_at

MODEL_TYPES = ("lfm2_vl",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Lfm2Vl": Processor(
        SIGLIP | {"size": {"height": 512, "width": 512}, "resample": 2, "do_convert_rgb": False},
        models=("lfm2_vl",),
        any_size=True,
        reads=(
            *("downsample_factor", "do_image_splitting", "min_tiles", "max_tiles", "use_thumbnail", "tile_size"),
            *("min_image_tokens", "max_image_tokens", "encoder_patch_size", "max_pixels_tolerance"),
            "return_row_col_info",
        ),
        ignores=("do_center_crop", "do_pad"),
    )
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers import Lfm2VlConfig, Siglip2VisionConfig
    from transformers.models.lfm2_vl.modeling_lfm2_vl import Lfm2VlMultiModalProjector

    config = cast(Any, Lfm2VlConfig(**checkpoint.config))
    vision = settings(Siglip2VisionConfig, config.vision_config.to_dict(), vision_use_head=False)
    tensors = without(checkpoint, "head").tensors(*spelled("vision_tower"))
    merge = config.downsample_factor
    tower = tower_at(vision, tensors, checkpoint.id, grid, merge)
    own = cast(Any, part_of(Lfm2VlMultiModalProjector, config, checkpoint.tensors(*PROJECTOR), checkpoint.id))
    mlp = nn.Sequential(own.linear_1, own.act, own.linear_2)
    rows, columns = tower.grid
    groups = torch.arange(rows * columns).reshape(-1, merge * merge)
    return behind_norm("lfm2_vl", tower, Merger(own.layer_norm or nn.Identity(), mlp), layer, groups)
