"""DeiT: a ViT with two special tokens, [CLS] and the distillation token (DeiTModel and its classifiers).

Its tokens are the patches of last_hidden_state, which is behind the final layernorm. The pooler is neither read nor
exported. With --head the classifiers are: on [CLS], or the mean of it and the one on the distillation token
(DeiTForImageClassificationWithTeacher). Checkpoints trained without distillation are of model_type vit.

Source  facebookresearch/deit models.py (DistilledVisionTransformer), transformers DeiTModel
"""

from __future__ import annotations

from typing import Any, cast

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._heads import with_classifier
from edgeprune.encoders._load import pretrained, settings, tower_around, without, without_projector
from edgeprune.encoders._positions import resample, whole_patches
from edgeprune.encoders._processor import VIT, Processor

MODEL_TYPES = ("deit",)
OPTIONS = ("size", "head")
HAS = {"": ("[CLS]", "variable sequence length")}
TEACHER = ("cls_classifier", "distillation_classifier")
PROCESSORS = {
    "DeiT": Processor(
        VIT
        | {"size": {"height": 256, "width": 256}, "resample": 3}
        | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        models=("deit",),
    ),
}


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None, head: bool = False) -> Encoder:
    from transformers import DeiTConfig, DeiTModel

    config = settings(DeiTConfig, checkpoint.config)
    tensors = without(checkpoint, "pooler", "mask_token").tensors("deit.", "")
    module = cast(Any, pretrained(DeiTModel, config, tensors, checkpoint.id, add_pooling_layer=False))
    layers, embeddings = module.layers, module.embeddings
    if size:
        resample(embeddings, whole_patches(size, config.patch_size), 2, checkpoint.id)
    tower = tower_around(
        module,
        [part.attention for part in layers],
        layers[0].mlp,
        embeddings.patch_embeddings.projection,
        size or config.image_size,
        prefix=2,
        embeddings=embeddings,
        blocks=layers,
    )
    if not head:
        return without_projector("deit", tower, layer)
    if f"{TEACHER[1]}.weight" in checkpoint.shards:
        return with_classifier("deit", checkpoint, tower, (0, 1), names=TEACHER)
    return with_classifier("deit", checkpoint, tower, (0,))
