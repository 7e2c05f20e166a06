"""Mistral 3 (Small 3.1 and on, Ministral 3) and LightOnOCR: Pixtral's tower at one grid, 2x2 patches are one token
(Mistral3ForConditionalGeneration, LightOnOcrForConditionalGeneration).

    token[r, c] = projector(norm of each of the patches of square [r, c], side by side)

transformers unfolds a square channel by channel; the weights of the merging layer are brought into the order of patches
once. The grid counts patches before they are merged: 32x32 is 448x448 pixels and 256 tokens.
In Mistral 3's prompt every row of tokens ends in [IMG_BREAK], the last in [IMG_END]. Where tokens are dropped, rows
are ragged: all of them stay, with as many tokens as `indices` has in them, so that the length is fixed
(`edgeprune.integrations.transformers`). LightOnOCR's has no breaks.

Source  mistralai/mistral-inference vision_encoder.py (PatchMerger), transformers Mistral3Model.get_image_features,
        LightOnOcrModel.get_image_features
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, feature_depth
from edgeprune.encoders._grid import Merger
from edgeprune.encoders._load import PROJECTOR, part_of, spelled
from edgeprune.encoders.pixtral import tower_at
from edgeprune.errors import ModelError

MODEL_TYPES = ("mistral3", "lighton_ocr")
NAMES = {
    "mistral3": ("Mistral3", "vision_tower", PROJECTOR),
    "lighton_ocr": ("LightOnOcr", "vision_encoder", ("model.vision_projection.", "vision_projection.")),
}
"""model_type -> how transformers' classes begin, and what the model calls its tower and its projector"""
OPTIONS = ("grid",)
HAS = {"": ()}
LAYOUT = "rows of tokens: each ends in its [IMG_BREAK], the last in [IMG_END], whatever is kept of it"


def load(checkpoint: Checkpoint, layer: int | None, grid: tuple[int, int] | None = None) -> Encoder:
    """Raises RequestError when the grid is missing or no multiple of 2x2."""
    kind = str(checkpoint.config["model_type"])
    stem, tower_name, projector = NAMES[kind]
    modeling: Any = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    config = getattr(modeling, f"{stem}Config")(**checkpoint.config)
    features = getattr(config, "vision_feature_layer", -1)
    if not isinstance(features, int):
        raise ModelError(f"{checkpoint.id}: vision_feature_layer of a mistral3 must be one layer, got {features}")
    merge = config.spatial_merge_size
    tower = tower_at(checkpoint, config.vision_config.to_dict(), grid, merge, *spelled(tower_name))
    stored = checkpoint.tensors(*projector)
    own = cast(Any, part_of(getattr(modeling, f"{stem}MultiModalProjector"), config, stored, checkpoint.id))
    mlp = nn.Sequential(_by_patch(own.patch_merger.merging_layer, merge * merge), own.linear_1, own.act, own.linear_2)
    rows, columns = tower.grid
    return Encoder(
        "mistral3",
        tower,
        feature_depth(features if layer is None else layer, len(tower.blocks)),
        Merger(own.norm, mlp, merge * merge),
        groups=torch.arange(rows * columns).reshape(-1, merge * merge),
        layout=LAYOUT if kind == "mistral3" else "",
    )


def _by_patch(own: nn.Linear, patches: int) -> nn.Linear:
    """The product over (channel, patch) as one over (patch, channel)."""
    linear = nn.Linear(own.in_features, own.out_features, bias=False, device="meta")
    weight = own.weight.unflatten(1, (-1, patches)).transpose(1, 2).flatten(1)  # type: ignore[no-untyped-call]
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return linear
