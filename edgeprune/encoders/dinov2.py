"""DINOv2: [CLS], optional registers, then patches; layer scale, plain or SwiGLU MLP
(Dinov2Model, Dinov2WithRegistersModel).

Its tokens are the patches of last_hidden_state, which is behind the final layernorm. The classifier of --head reads
[CLS] and, beside it, the mean of the patches: of those that are kept. The positions are trained at one
size (518 pixels) and resampled to the image's: here once, with the family's own code, to the size that the image
processor gives (224 on the hub) or that is asked for, square or not, so that the graph holds them as a constant.

Source  facebookresearch/dinov2 models/vision_transformer.py (interpolate_pos_encoding, x_norm_patchtokens),
        transformers Dinov2Model, Dinov2WithRegistersModel
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._heads import with_classifier
from edgeprune.encoders._load import pretrained, settings, tower_around, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import CLIP, Processor
from edgeprune.encoders._settings import input_size

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
OPTIONS = ("size", "head")
HAS = {"": ("[CLS]", "variable sequence length")}
PROCESSORS = {"Bit": Processor(CLIP, models=("dinov2", "dinov2_with_registers"))}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None, head: bool = False) -> Encoder:
    import transformers

    stem = "Dinov2WithRegisters" if checkpoint.config["model_type"] == "dinov2_with_registers" else "Dinov2"
    config = settings(getattr(transformers, f"{stem}Config"), checkpoint.config)
    size = whole_patches(size, config.patch_size) if size else input_size(checkpoint, config.image_size)
    tensors = checkpoint.tensors("dinov2.", "dinov2_with_registers.", "")
    module = cast(Any, pretrained(getattr(transformers, f"{stem}Model"), config, tensors, checkpoint.id))
    layers, embeddings = module.encoder.layer, module.embeddings
    resample(embeddings, size, 1, checkpoint.id)
    tower = tower_around(
        module,
        [part.attention for part in layers],
        layers[0].mlp,
        embeddings.patch_embeddings.projection,
        size,
        prefix=1 + getattr(config, "num_register_tokens", 0),
        embeddings=embeddings,
        blocks=layers,
    )
    if head:
        return with_classifier("dinov2", checkpoint, tower, (0,), mean=True)
    return without_projector("dinov2", tower, layer)
