"""SigLIP's vision tower: no [CLS], learned positions, pre-norm layers (SiglipVisionModel, SiglipModel).

A bare SigLIP has no projector: its tokens are last_hidden_state, which is behind post_layernorm. As a tower of LLaVA it
gives hidden_states, which are in front of it. The attention-pooling head is neither read nor exported. The classifier
of --head (SiglipForImageClassification) reads the mean of the tokens, of those that are kept.
SigLIP 2 checkpoints of one fixed size are of this family too; NaFlex ones (model_type siglip2) are not.

Source  google-research/big_vision models/vit.py (posemb learn, pool_type map), transformers SiglipVisionModel
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.encoders._heads import with_classifier
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import SIGLIP, Processor

MODEL_TYPES = ("siglip", "siglip_vision_model")
OPTIONS = ("size", "head")
HAS = {"": ("variable sequence length",)}
PROCESSORS = {"Siglip": Processor(SIGLIP, models=("siglip", "siglip_vision_model", "paligemma"))}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None, head: bool = False) -> Encoder:
    config = checkpoint.config.get("vision_config", checkpoint.config)
    own = tower(checkpoint, config, "vision_model.", "siglip.vision_model.", "", size=size)
    if head:
        return with_classifier("siglip", checkpoint, own, (), mean=True)
    return without_projector("siglip", own, layer)


def tower(checkpoint: Checkpoint, config: dict[str, Any], *prefixes: str, size: tuple[int, int] | None = None) -> Tower:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    ours = settings(SiglipVisionConfig, config, vision_use_head=False)
    tensors = without(checkpoint, "head").tensors(*prefixes)
    module = cast(Any, pretrained(SiglipVisionModel, ours, tensors, checkpoint.id))
    if size:
        resample(module.embeddings, whole_patches(size, ours.patch_size), 0, checkpoint.id)
    layers = module.encoder.layers
    attention = [layer.self_attn for layer in layers]
    patches = module.embeddings.patch_embedding
    return tower_around(
        module,
        attention,
        layers[0].mlp,
        patches,
        size or ours.image_size,
        prefix=0,
        has_cls=False,
        embeddings=module.embeddings,
        blocks=layers,
    )
