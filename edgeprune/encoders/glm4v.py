"""GLM-4.1V and 4.6V: Qwen2-VL's kind of tower with gated MLPs and learned positions, 2x2 patches to one token by a
convolution; at one grid (Glm4vForConditionalGeneration, Glm46VForConditionalGeneration).

    x = norm(conv(pixel_values)) + positions                      resampled once, bicubic, by the family's own code
    token = merger(conv2x2(norm(patches of the token)))           the convolution as a product over them side by side

Grid and positions are as in `qwen2_vl`.

Source  zai-org/GLM-V, transformers Glm4vVisionModel
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger, checked, merged, squares, visual
from edgeprune.encoders._load import settings
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("glm4v", "glm46v")
OPTIONS = ("grid",)
HAS = {"": ()}
PROCESSORS = {
    "Glm4v": Processor(
        CLIP,
        models=("glm4v",),
        any_size=True,
        reads=("patch_size", "temporal_patch_size", "merge_size"),
        ignores=("do_center_crop", "do_pad"),
    ),
    "Glm46V": Processor(
        CLIP,
        models=("glm46v",),
        any_size=True,
        reads=("patch_size", "temporal_patch_size", "merge_size"),
        ignores=("do_center_crop", "do_pad"),
    ),
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    from transformers.models.glm4v import modeling_glm4v as modeling
    from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig

    config = settings(Glm4vVisionConfig, checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, modeling.Glm4vVisionModel, config)
    mlp = nn.Sequential(_product(own.downsample), own.merger)
    merger = Merger(own.post_layernorm, mlp, merge * merge)
    positions, norm = _positions(own, grid), own.post_conv_layernorm
    return merged("glm4v", modeling, own, grid, layer, merger, positions=positions, norm=norm)


def _positions(own: Any, grid: tuple[int, int]) -> Tensor:
    """[P, C], square by square: what its embeddings add to patches of zeros."""
    order = squares(grid, own.config.spatial_merge_size)
    zeros = torch.zeros(len(order), own.config.hidden_size)
    whole, rows, columns = torch.tensor([[1, *grid]]), order // grid[1], order % grid[1]
    positions: Tensor = own.embeddings(zeros, torch.tensor([len(order)]), whole, rows, columns)
    return positions


def _product(own: nn.Conv2d) -> nn.Linear:
    """A convolution of which each window is one token, as a product over its patches, (row, column, channel)."""
    weight = own.weight.permute(0, 2, 3, 1).flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    linear.bias = cast(nn.Parameter, own.bias)
    return linear
