"""SmolVLM and Idefics 3: SigLIP's tower on tiles of one image; squares of patches are one token by pixel shuffle
(SmolVLMForConditionalGeneration, Idefics3ForConditionalGeneration).

    token[r, c] = projector(the scale_factor x scale_factor patches of its square, row by row, side by side)

The features are last_hidden_state. transformers picks a learned position for each patch by where it lies in what is no
padding; a tile is full, so that these are constants, read off its own code. Each tile has a tag of its own in the
prompt, and a budget of its own, whatever the method. The tower is traced with the patches of a token side by side, so
that steps inside drop or merge whole tokens. The connector has no bias.
Tiles are cut by runtime/images/tiles.py ("squeezed", of an image that was scaled to `longest` first); one tile is what
transformers makes with do_image_splitting off.

Source  huggingface/smollm vision (pixel shuffle), transformers SmolVLMModel.get_image_features,
        Idefics3Model.get_image_features
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower, siglip
from edgeprune.encoders._grid import in_squares
from edgeprune.encoders._load import behind_norm, part_of, settings, without_projector
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.errors import ModelError

MODEL_TYPES = ("smolvlm", "smolvlm_vision", "idefics3", "idefics3_vision")
HAS = {"": ()}
SPLIT = SIGLIP | {
    "size": {"longest_edge": 1456},
    "max_image_size": {"longest_edge": 364},
    "resample": 1,
    "do_image_splitting": True,
}
OWN = ("do_image_splitting", "max_image_size", "return_row_col_info")
NAMES = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}
"""model_type -> how transformers' classes begin"""
PROCESSORS = {
    name: Processor(
        SPLIT,
        models=(model_type, f"{model_type}_vision"),
        reads=OWN,
        ignores=("do_center_crop", "do_pad", "default_to_square"),
        splits=True,
    )
    for model_type, name in NAMES.items()
}
SHARED = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels"),
    *("image_size", "patch_size", "hidden_act", "layer_norm_eps"),
)
"""what the config has in common with SigLIP's, with other defaults"""
LAYOUT = (
    "tiles: one after the other, row by row, each behind its tag, the whole image last; it is alone where there is one"
)


def load(checkpoint: Checkpoint, layer: int | None) -> Encoder:
    """Raises ModelError when the patches cannot be shuffled to tokens."""
    kind = str(checkpoint.config["model_type"]).removesuffix("_vision")
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    if "vision_config" not in checkpoint.config:
        bare = _tower(checkpoint, checkpoint.config, modeling, kind, "")
        return replace(without_projector("smolvlm", bare, layer), tiled=True, tagged=True, layout=LAYOUT)
    whole = getattr(modeling, f"{NAMES[kind]}Config")(**checkpoint.config)
    tower = _tower(
        checkpoint, checkpoint.config["vision_config"], modeling, kind, "model.vision_model.", "vision_model."
    )
    side, (rows, columns) = whole.scale_factor, tower.grid
    if rows % side:
        raise ModelError(
            f"{checkpoint.id}: a token is {side}x{side} patches, which must divide the grid, got {rows}x{columns}; "
            "check image_size, patch_size and scale_factor of its config.json"
        )
    in_squares(tower.embeddings, tower.grid, side)
    groups = torch.arange(rows * columns).reshape(-1, side * side)
    stored = checkpoint.tensors("model.connector.modality_projection.", "connector.modality_projection.")
    projector = part_of(getattr(modeling, f"{NAMES[kind]}SimpleMLP"), whole, stored, checkpoint.id)
    encoder = behind_norm("smolvlm", tower, projector, layer, groups)
    return replace(encoder, tiled=True, tagged=True, layout=LAYOUT)


def _tower(checkpoint: Checkpoint, config: dict[str, Any], modeling: Any, kind: str, *prefixes: str) -> Tower:
    ours = settings(getattr(modeling, f"{NAMES[kind]}VisionConfig"), config)
    tower = siglip.tower(checkpoint, {name: getattr(ours, name) for name in SHARED}, *prefixes)
    places = _places(getattr(modeling, f"{NAMES[kind]}VisionEmbeddings"), ours)
    table: nn.Embedding = tower.embeddings.position_embedding  # type: ignore[union-attr, assignment]
    table.weight = nn.Parameter(table.weight[places], requires_grad=False)
    return tower


def _places(embeddings: Any, config: Any) -> Tensor:
    """[P] int64: which of the learned positions each patch of a full tile gets."""
    narrow = copy.copy(config)
    narrow.hidden_size = 1
    own = embeddings(narrow).requires_grad_(False)
    own.patch_embedding.weight.zero_()
    own.patch_embedding.bias.zero_()
    own.position_embedding.weight.copy_(torch.arange(own.num_positions)[:, None])
    full = torch.ones(1, own.num_patches_per_side, own.num_patches_per_side, dtype=torch.bool)
    pixels = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
    places: Tensor = own(pixels, full)[0, :, 0]
    return places.to(torch.int64)
