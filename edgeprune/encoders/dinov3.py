"""DINOv3: [CLS], registers, then patches; rotary positions on the patches, plain or gated MLP (DINOv3ViTModel).

Its tokens are the patches of last_hidden_state, which is behind the final norm. Any image size goes; that of the image
processor is taken, or the one that is asked for. Queries and keys are recorded behind the rotation, as the attention
sees them. The rotation takes special tokens and patches apart and joins them again, which the selection does not move
across: the last layer computes the queries of all tokens, (S - K - q)*C*C multiply-adds more than the formula.

Source  facebookresearch/dinov3 dinov3/models/vision_transformer.py (x_norm_patchtokens), transformers DINOv3ViTModel
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._load import pretrained, settings, tower_around, without_projector
from edgeprune.encoders._positions import whole_patches
from edgeprune.encoders._processor import VIT, Processor
from edgeprune.encoders._settings import input_size
from edgeprune.errors import ModelError

MODEL_TYPES = ("dinov3_vit",)
OPTIONS = ("size",)
HAS = {"": ("[CLS]",)}
PROCESSORS = {
    "DINOv3ViT": Processor(
        VIT | {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)},
        models=("dinov3_vit",),
        ignores=("do_pad",),
    )
}
"""Its class resizes behind the rescale, in floats; here pixels are rounded to the nearest of 256 levels."""


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = settings(DINOv3ViTConfig, checkpoint.config)
    if config.hidden_size % config.num_attention_heads:  # which its classes find out in the first pass
        raise ModelError(
            f"{checkpoint.id}: num_attention_heads of config.json must divide hidden_size {config.hidden_size}, got "
            f"{config.num_attention_heads}; is the file damaged?"
        )
    module = cast(Any, pretrained(DINOv3ViTModel, config, checkpoint.tensors(""), checkpoint.id))
    layers = module.model.layer
    tower = tower_around(
        module,
        [part.attention for part in layers],
        layers[0].mlp,
        module.embeddings.patch_embeddings,
        whole_patches(size, config.patch_size) if size else input_size(checkpoint, config.image_size),
        prefix=1 + config.num_register_tokens,
        blocks=layers,
    )
    return without_projector("dinov3", replace(tower, rotary=True), layer)
