"""GLM-4.1V, 4.6V and GLM-OCR: Qwen2-VL's kind of tower with gated MLPs and learned positions, 2x2 patches to one token
by a convolution; at one grid (Glm4vForConditionalGeneration, Glm46VForConditionalGeneration,
GlmOcrForConditionalGeneration).

    x = norm(conv(pixel_values)) + positions                      resampled once, bicubic, by the family's own code
    token = merger(conv2x2(norm(patches of the token)))           the convolution as a product over them side by side

GLM-OCR has neither that norm nor learned positions, and norms queries and keys. Grid and positions are as in
`qwen2_vl`.

Source  zai-org/GLM-V, zai-org/GLM-OCR, transformers Glm4vVisionModel, GlmOcrVisionModel
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._grid import Merger, checked, merged, squares, visual
from edgeprune.encoders._load import settings
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("glm4v", "glm46v", "glm_ocr")
REFUSED = {
    "it has 106 billion weights, which no edge device takes; use a GLM-4.6V Flash": (
        "glm4v_moe", "glm4v_moe_vision",
    ),
}  # fmt: skip
NAMES = {"glm4v": "Glm4v", "glm_ocr": "GlmOcr"}
"""model_type -> how transformers' classes begin; GLM-4.6V has GLM-4.1V's tower"""
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
        models=("glm46v", "glm_ocr"),
        any_size=True,
        reads=("patch_size", "temporal_patch_size", "merge_size"),
        ignores=("do_center_crop", "do_pad"),
    ),
}


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    kind = "glm_ocr" if checkpoint.config["model_type"] == "glm_ocr" else "glm4v"
    stem = NAMES[kind]
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    config = settings(getattr(modeling, f"{stem}VisionConfig"), checkpoint.config["vision_config"])
    merge = config.spatial_merge_size
    grid = checked(checkpoint.id, grid, config.patch_size, merge)
    own = visual(checkpoint, getattr(modeling, f"{stem}VisionModel"), config)
    mlp = nn.Sequential(_product(own.downsample), own.merger)
    merger = Merger(own.post_layernorm, mlp, merge * merge)
    if kind == "glm_ocr":
        return merged("glm4v", modeling, own, grid, layer, merger)
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
