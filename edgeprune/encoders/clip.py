"""CLIP's vision tower: [CLS] first, learned positions, pre-norm layers (CLIPVisionModel, CLIPModel).

A bare CLIP has no projector: its tokens are the hidden states of the last layer, as last_hidden_state gives them
(without post_layernorm, which CLIP applies to [CLS] only). The classifier of --head (CLIPForImageClassification) reads
their mean, of those that are kept.
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._heads import with_classifier
from edgeprune.encoders._load import pretrained, settings, tower_around, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import CLIP, Processor

MODEL_TYPES = ("clip", "clip_vision_model")
OPTIONS = ("size", "head")
HAS = {"": ("[CLS]", "variable sequence length")}
PROCESSORS = {
    "CLIP": Processor(
        CLIP,
        models=("clip", "clip_vision_model", "aimv2", "aimv2_vision_model", "radio", "vipllava"),
        reads=("use_square_size",),
    )
}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None, head: bool = False) -> Encoder:
    config = checkpoint.config.get("vision_config", checkpoint.config)
    own = tower(checkpoint, config, "vision_model.", "clip.vision_model.", "", size=size)
    if head:
        return with_classifier("clip", checkpoint, own, (), mean=True)
    return without_projector("clip", own, layer)


def tower(checkpoint: Checkpoint, config: dict[str, Any], *prefixes: str, size: tuple[int, int] | None = None) -> Tower:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    ours = settings(CLIPVisionConfig, config)
    module = cast(Any, pretrained(CLIPVisionModel, ours, checkpoint.tensors(*prefixes), checkpoint.id))
    if size:
        resample(module.embeddings, whole_patches(size, ours.patch_size), 1, checkpoint.id)
    layers = module.encoder.layers
    attention = [layer.self_attn for layer in layers]
    patches = module.embeddings.patch_embedding
    return tower_around(
        module,
        attention,
        layers[0].mlp,
        patches,
        size or ours.image_size,
        prefix=1,
        embeddings=module.embeddings,
        blocks=layers,
    )
