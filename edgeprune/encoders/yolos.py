"""YOLOS: a ViT that detects (YolosForObjectDetection). [CLS], patches, then detection tokens, which the heads read.

    logits, pred_boxes = heads(layernorm(h)[:, -T:])        T detection tokens; boxes as centre and size in 0..1

One size of image is exported (`--size`, default the image processor's): both tables of positions, the one in front of
the layers and the one between them, are resampled to it once, by the model's own code, which does so in every run.
Any other image is resized to that size, without padding, and its boxes are in parts of the image either way.
Dropping patches needs no way back: boxes come from the detection tokens alone. It does where features are read as a
map (DETR, Deformable DETR, RT-DETR and their kin), so these are refused.

Source  hustvl/YOLOS models/backbone.py, transformers YolosForObjectDetection
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder, Head, Tower
from edgeprune.encoders._building import building
from edgeprune.encoders._load import pretrained, settings, tower_around
from edgeprune.encoders._positions import whole_patches
from edgeprune.encoders._processor import SIGLIP, Processor
from edgeprune.encoders._settings import input_size
from edgeprune.errors import RequestError

MODEL_TYPES = ("yolos",)
OPTIONS = ("size",)
HAS = {"": ("[CLS]", "variable sequence length", "detection tokens")}
PROCESSORS = {
    "Yolos": Processor(
        SIGLIP
        | {
            "size": {"shortest_edge": 800, "longest_edge": 1333},
            "resample": 2,
            "image_mean": (0.485, 0.456, 0.406),
            "image_std": (0.229, 0.224, 0.225),
        },
        any_size=True,
        models=("yolos",),
        reads=("format", "do_convert_annotations", "max_size", "pad_and_return_pixel_mask"),
        ignores=("do_center_crop", "do_pad"),  # pads images to the largest of a batch
    )
}
REFUSED = {
    "its encoder is a small part beside the ResNet in front of it, whose features are a map": (
        "detr", "table-transformer", "conditional_detr", "dab-detr",
    ),
    "it samples features at places, and its decoder reads the whole map, so that no token of it can be left out": (
        "deformable_detr", "deta", "lw_detr", "rf_detr", "grounding-dino", "mm-grounding-dino",
    ),
    "it joins maps of several scales, and its decoder reads them whole, so that no token can be left out": (
        "rt_detr", "rt_detr_v2", "d_fine",
    ),
    "each of its boxes is made of one patch, so that dropping patches drops boxes": ("owlvit", "owlv2"),
}  # fmt: skip
"""why none of a detector's tokens can be dropped -> the model_types of such"""


class Heads(nn.Module):
    """[B, T, C] -> logits [B, T, classes + 1], pred_boxes [B, T, 4] (centre x, y, width, height in 0..1)"""

    def __init__(self, classes: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.class_labels_classifier, self.bbox_predictor = classes, boxes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.class_labels_classifier(x), self.bbox_predictor(x).sigmoid()


class _Baked(nn.Module):
    """In place of a module that resamples positions: what it gave for the one size."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.detach(), requires_grad=False)

    def forward(self, *_: Any) -> Tensor:
        return self.table


def load(checkpoint: Checkpoint, layer: int | None, size: tuple[int, int] | None = None) -> Encoder:
    if layer is not None:
        raise RequestError(f"yolos detects with its last layer: --layer must be left out, got {layer}")
    whole, size = detector(checkpoint, size)
    embeddings, encoder = whole.vit.embeddings, whole.vit.encoder
    with torch.no_grad():
        embeddings.interpolation = _Baked(embeddings.interpolation(embeddings.position_embeddings, size))
        if encoder.interpolation is not None:
            encoder.interpolation = _Baked(encoder.interpolation(size))
    embeddings.position_embeddings = None  # their table has them now, and weights are counted
    heads = Heads(whole.class_labels_classifier, whole.bbox_predictor).eval()
    tower = tower_of(whole, size)
    head = Head("detections", tuple(range(-tower.suffix, 0)), labels(whole))
    return Encoder("yolos", tower, len(encoder.layer), heads, normed=True, head=head)


def detector(checkpoint: Checkpoint, size: tuple[int, int] | None = None) -> tuple[Any, tuple[int, int]]:
    """YolosForObjectDetection as it is stored, and the size of its images: the one given, or the image processor's.

    Raises ModelError as `pretrained`, RequestError when the size is no multiple of the patch.
    """
    from transformers import YolosConfig, YolosForObjectDetection

    with building(checkpoint.id):
        config = settings(YolosConfig, checkpoint.config)
    patch = config.patch_size
    own = (side // patch * patch for side in input_size(checkpoint, config.image_size))
    height, width = whole_patches(size, patch) if size else own
    return pretrained(YolosForObjectDetection, config, checkpoint.tensors(""), checkpoint.id), (height, width)


def tower_of(whole: Any, size: tuple[int, int]) -> Tower:
    """The tower of a YolosForObjectDetection."""
    module, layers = whole.vit, whole.vit.encoder.layer
    projection = module.embeddings.patch_embeddings.projection
    mlp = nn.ModuleList([layers[0].intermediate.dense, layers[0].output.dense])
    tower = tower_around(module, [part.attention.attention for part in layers], mlp, projection, size, prefix=1)
    return replace(
        tower,
        suffix=whole.config.num_detection_tokens,
        embeddings=module.embeddings,
        blocks=list(layers),
        between=module.encoder.interpolation,
    )


def labels(whole: Any) -> tuple[str, ...]:
    """Its classes, in the order of its logits."""
    return tuple(str(whole.config.id2label[at]) for at in range(whole.config.num_labels))
