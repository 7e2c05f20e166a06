"""The first layers of a YOLOS detector, frozen: what the scorer of kind `trunk` reads.

hidden = layers 1..L of the detector, with the position that it adds behind layer L where it has one, at the patches
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.encoders._building import building
from edgeprune.encoders._load import pretrained, settings
from edgeprune.encoders._settings import input_size
from edgeprune.errors import ModelError, RequestError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Detector", "Trunk", "default_detector", "read_detector"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Detector:
    """What a training needs to know of a detector before its weights are read."""

    checkpoint: Checkpoint
    patch_size: int
    size: tuple[int, int]
    """(height, width) in pixels that its image processor hands over, or its positions are for"""
    layers: int
    width: int
    heads: int
    mlp_width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Trunk(nn.Module):
    """pixel_values [B, 3, H, W] -> hidden states [B, N, C] of the N patches, in raster order; nothing of it trains.

    Raises RequestError for layers that the detector does not have, ModelError when its weights cannot be read.
    """

    def __init__(self, detector: Detector, layers: int) -> None:
        super().__init__()
        from transformers import YolosConfig, YolosModel

        checkpoint = detector.checkpoint
        if not 1 <= layers < detector.layers:
            raise RequestError(
                f"--layers must be in 1..{detector.layers - 1} for a head on {checkpoint.id}, which has "
                f"{detector.layers} layers, got {layers}"
            )
        config, tensors = settings(YolosConfig, checkpoint.config), checkpoint.tensors("vit.")
        self._layers = layers
        self.vit = pretrained(YolosModel, config, tensors, checkpoint.id, add_pooling_layer=False)
        self.vit.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        vit: Any = self.vit
        hidden = vit.embeddings(pixel_values)
        between = vit.encoder.interpolation  # None, or -> [layers - 1, 1, 1 + N + D, C], added behind all but the last
        positions = between(pixel_values.shape[-2:]) if between is not None else None
        for at, layer in enumerate(vit.encoder.layer[: self._layers]):
            hidden = layer(hidden)
            if positions is not None:
                hidden = hidden + positions[at]
        patches: Tensor = hidden[:, 1 : -vit.config.num_detection_tokens]
        return patches


def default_detector() -> Path:
    """The folder of the detector of drawn scenes that comes along."""
    return Path(str(files("edgeprune"))) / "models" / "scenes"


def read_detector(model: str) -> Detector:
    """model: folder or Hugging Face id of a YolosForObjectDetection. Raises ModelError when it is none."""
    from transformers import YolosConfig

    checkpoint = open_checkpoint(model)
    if (kind := checkpoint.config.get("model_type")) != "yolos":
        raise ModelError(f"--model must be a YOLOS detector for --kind trunk, {checkpoint.id} is {kind}")
    with building(checkpoint.id):
        config = settings(YolosConfig, checkpoint.config)
    processor = checkpoint.processor
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    normalised = (processor.get("image_mean") or IMAGENET_MEAN, processor.get("image_std") or IMAGENET_STD)
    mean, std = normalised if processor.get("do_normalize", True) else plain
    height, width = (
        side // config.patch_size * config.patch_size for side in input_size(checkpoint, config.image_size)
    )
    return Detector(
        checkpoint,
        patch_size=config.patch_size,
        size=(height, width),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )
