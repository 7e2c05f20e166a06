"""LFM2-VL: SigLIP 2's NaFlex tower at one grid, 2x2 patches are one token by pixel unshuffle
(Lfm2VlForConditionalGeneration).

    token[r, c] = projector(patches [2r, 2c], [2r, 2c + 1], [2r + 1, 2c], [2r + 1, 2c + 1] side by side)

The features are last_hidden_state. The grid counts patches: 32x32 is 512x512 pixels and 256 tokens. A large image is
cut into tiles of that size, row by row, each behind its tag in the prompt, and so with a budget of its own; behind them
comes the image whole, as a thumbnail of another size. So an image is two bundles: `--grid 32x32 --tiles T` cuts it as
its processor does one that needs T tiles (runtime/images/tiles.py, "without the whole image"), and the thumbnail, as
any small image, is that of its own grid, without `--tiles`. At another grid, or where the processor splits no images,
the images of a batch are images. Pixels are those of torchvision, the processor's only backend, bit for bit
(runtime/images/resize.py).

Source  transformers Lfm2VlModel.get_image_features, Lfm2VlImageProcessor.resize_and_split,
        Lfm2VlProcessor.replace_image_token
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger
from edgeprune.encoders._load import PROJECTOR, behind_norm, part_of, settings, spelled, without
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.encoders._settings import cuts_parts
from edgeprune.encoders.siglip2 import tower_at

MODEL_TYPES = ("lfm2_vl",)
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Lfm2Vl": Processor(
        SIGLIP
        | {"size": {"height": 512, "width": 512}, "resample": 2, "do_convert_rgb": False}
        | {"do_image_splitting": True, "min_tiles": 2, "max_tiles": 10, "tile_size": 512},
        models=("lfm2_vl",),
        any_size=True,
        reads=(
            *("downsample_factor", "do_image_splitting", "min_tiles", "max_tiles", "use_thumbnail", "tile_size"),
            *("min_image_tokens", "max_image_tokens", "encoder_patch_size", "max_pixels_tolerance"),
            "return_row_col_info",
        ),
        ignores=("do_center_crop", "do_pad"),
        parts=True,
        torchvision=True,
    )
}
LAYOUT = "tiles: one after the other, row by row, each behind its tag; the thumbnail behind them is another bundle's"


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
    encoder = behind_norm("lfm2_vl", tower, Merger(own.layer_norm or nn.Identity(), mlp), layer, groups)
    return replace(encoder, parts=LAYOUT) if cuts_parts(checkpoint, tower.image_size) else encoder
