"""InternVL: [CLS] first, learned positions, scaled residuals; 2x2 patches are one token by pixel shuffle
(InternVLForConditionalGeneration).

    token[r, c] = projector(patches [2r, 2c], [2r, 2c + 1], [2r + 1, 2c], [2r + 1, 2c + 1] side by side)

The features are last_hidden_state for vision_feature_layer -1, as get_image_features reads it, else hidden_states.
Where the image processor says `crop_to_patches`, a run is of the tiles of one image, which share its budget; the tiles
are cut by runtime/images/tiles.py ("squeezed"). Where it does not, the images of a batch are images. transformers'
InternVLProcessor switches crop_to_patches on for images, whatever the file says, its image processor alone does not.

Source  OpenGVLab/InternVL (pixel_shuffle, ps_version v2), transformers InternVLModel.get_image_features
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._grid import squares
from edgeprune.encoders._load import pretrained, settings, tower_around, with_projector, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import CLIP, Processor
from edgeprune.encoders._settings import cuts_tiles
from edgeprune.errors import ModelError

MODEL_TYPES = ("internvl", "internvl_vision")
OPTIONS = ("size",)
HAS = {"": ("[CLS]",)}
PROCESSORS = {
    "GotOcr2": Processor(
        CLIP
        | {"size": {"height": 384, "width": 384}, "default_to_square": True, "do_center_crop": False}
        | {"crop_to_patches": False, "min_patches": 1, "max_patches": 12},
        models=("internvl", "internvl_vision", "aya_vision"),
        reads=("crop_to_patches", "min_patches", "max_patches"),
        ignores=("do_center_crop", "do_pad"),
    ),
}

LAYOUT = "tiles: one after the other, row by row, the whole image last; it is alone where there is one"


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    """Raises ModelError when the patches cannot be shuffled to tokens."""
    from transformers import InternVLConfig
    from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

    if "vision_config" not in checkpoint.config:
        own = tower(checkpoint, checkpoint.config, "", size=size)
        return _tiled(without_projector("internvl", own, layer), checkpoint)
    config = InternVLConfig(**checkpoint.config)
    if not isinstance(config.vision_feature_layer, int):
        raise ModelError(
            f"{checkpoint.id}: vision_feature_layer of an internvl must be one layer, got {config.vision_feature_layer}"
        )
    encoder = with_projector("internvl", checkpoint, config, InternVLMultiModalProjector, layer, size=size)
    side = round(1 / config.downsample_ratio)
    rows, columns = encoder.tower.grid
    if rows != columns or rows % side:
        raise ModelError(
            f"{checkpoint.id}: the grid of patches must be square and its side a multiple of {side}, got "
            f"{rows}x{columns}; check --size, or image_size and downsample_ratio of its config.json"
        )
    chosen = config.vision_feature_layer if layer is None else layer
    encoder = replace(encoder, groups=squares((rows, rows), side).reshape(-1, side * side), normed=chosen == -1)
    return _tiled(encoder, checkpoint)


def _tiled(encoder: Encoder, checkpoint: Checkpoint) -> Encoder:
    return replace(encoder, tiled=True, layout=LAYOUT) if cuts_tiles(checkpoint) else encoder


def tower(checkpoint: Checkpoint, config: dict[str, Any], *prefixes: str, size: tuple[int, int] | None = None) -> Tower:
    from transformers import InternVLVisionConfig, InternVLVisionModel

    ours = settings(InternVLVisionConfig, config)
    module = cast(Any, pretrained(InternVLVisionModel, ours, checkpoint.tensors(*prefixes), checkpoint.id))
    layers = module.encoder.layer
    if size:
        whole_patches(size, ours.patch_size[0])
        if module.embeddings.position_embeddings is not None:
            resample(module.embeddings, size, 1, checkpoint.id)
    attention, patches = [layer.attention for layer in layers], module.embeddings.patch_embeddings.projection
    return tower_around(module, attention, layers[0].mlp, patches, size or ours.image_size, prefix=1)
