"""A checkpoint of the code of LLaVA's authors as one of transformers: names, config, image processor.

    model.vision_tower.vision_tower.*   ->  vision_tower.*
    model.mm_projector.0, .2            ->  multi_modal_projector.linear_1, .linear_2
    mm_vision_select_layer, _feature    ->  vision_feature_layer, vision_feature_select_strategy
    image_aspect_ratio pad, anyres      ->  do_pad of LlavaImageProcessor; llava_next with its image_grid_pinpoints

It names its tower, a CLIP, and has its weights where they were trained along; what the tower is stands in the config of
that CLIP, and the weights, too, where they were not.

Source  haotian-liu/LLaVA llava/model/builder.py, multimodal_encoder/clip_encoder.py, multimodal_projector/builder.py
"""

from __future__ import annotations

from typing import Any

from edgeprune.checkpoint import Files, find, read_config, read_processor
from edgeprune.checkpoint.foreign import Foreign, Stored, stored
from edgeprune.errors import ModelError

__all__ = ["opened"]

NAMES = {
    "model.vision_tower.vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.vision_tower.": "vision_tower.",
    "model.mm_projector.0.": "multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "multi_modal_projector.linear_2.",
    "model.mm_projector.": "multi_modal_projector.",  # a third layer, which then nobody reads
}
FEATURES = {"patch": "default", "cls_patch": "full"}
ABLE = {
    "mm_projector_type": ("linear", ("mlp2x_gelu",)),
    "image_aspect_ratio": ("square", ("square", "pad", "anyres")),
    "mm_vision_select_feature": ("patch", (*FEATURES,)),
}
"""setting -> its default, and what transformers has of it"""
TEXT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip
"""what is kept of the language model's config"""


def opened(files: Files, config: dict[str, Any], vision_tower: str | None) -> tuple[Foreign, tuple[str, ...]]:
    """The checkpoint behind the face of one of transformers, and what the user should know of it.

    Raises ModelError when it is no CLIP with a two-layer projector, or its tower is not to be had.
    """
    for name, (default, able) in ABLE.items():
        if (given := config.get(name, default)) not in able:
            raise ModelError(f"{files.id}: {name} must be {' or '.join(able)} for transformers' LLaVA, got {given}")
    tower = _tower(files.id, vision_tower or config.get("mm_vision_tower"))
    clip, processor, tiled = read_config(tower), read_processor(tower), config.get("image_aspect_ratio") == "anyres"
    if clip.get("model_type") not in ("clip", "clip_vision_model"):
        raise ModelError(f"{files.id}: its vision tower must be a CLIP, {tower.id} is a {clip.get('model_type')}")
    pinpoints = {"image_grid_pinpoints": config.get("image_grid_pinpoints")} if tiled else {}
    if tiled:
        processor |= {"image_processor_type": "LlavaNextImageProcessor", **pinpoints}
    elif config.get("image_aspect_ratio") == "pad":
        processor |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    made = {
        "architectures": [f"Llava{'Next' * tiled}ForConditionalGeneration"],
        "model_type": "llava_next" if tiled else "llava",
        "vision_config": clip.get("vision_config", clip) | {"model_type": "clip_vision_model"},
        "text_config": {"model_type": "llama"} | {name: config[name] for name in TEXT if name in config},
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": FEATURES[config.get("mm_vision_select_feature", "patch")],
        **pinpoints,
    }
    places = _renamed(stored(files), NAMES)
    notes: tuple[str, ...] = ()
    if not any(name.startswith("vision_tower.") for name in places):
        names = stored(tower)
        half = {"vision_model.": "vision_tower."} if any(name.startswith("vision_model.") for name in names) else None
        places |= _renamed(names, half or {"": "vision_tower."})
        notes = (f"{files.id} has no vision tower of its own: the weights are those of {tower.id}",)
    return Foreign(files, made, processor, {name: one.file for name, one in places.items()}, places), notes


def _tower(id: str, tower: Any) -> Files:
    try:
        return find(str(tower))
    except ModelError as error:
        raise ModelError(
            f"{id} says of its vision tower no more than its name, and {str(error).rpartition('; ')[0] or error}; "
            f"give that CLIP with --vision-tower"
        ) from None


def _renamed(places: dict[str, Stored], prefixes: dict[str, str]) -> dict[str, Stored]:
    """Those below the prefixes, each by the first that it has."""
    renamed = {}
    for name, place in places.items():
        if (prefix := next((one for one in prefixes if name.startswith(one)), None)) is not None:
            renamed[prefixes[prefix] + name.removeprefix(prefix)] = place
    return renamed
