"""What a detector finds in samples of its own size, decoded as the runtime does, in rows for `quality.precision`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.quality.data import Samples
from edgeprune.quality.precision import Boxes
from edgeprune.runtime.detections import decode

__all__ = ["MEAN", "STD", "boxes_of", "corners", "detect", "pixel_values"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of the pixels in 0..1, the defaults of YolosImageProcessor"""


def pixel_values(images: np.ndarray[Any, Any]) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float32, normalised with MEAN and STD."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def detect(model: Callable[[Tensor], Any], samples: Samples, batch: int = 100) -> list[Boxes]:
    """`model` takes pixel_values and returns what has `logits` [B, Q, classes + 1] and `pred_boxes` [B, Q, 4], as
    YolosForObjectDetection does. The images must have the size that it takes, and one size all."""
    boxes: list[Boxes] = []
    for start in range(0, len(samples), batch):
        part = [samples[i] for i in range(start, min(start + batch, len(samples)))]
        output = model(pixel_values(np.stack([sample.image for sample in part])))
        boxes += boxes_of(output, [sample.size for sample in part])
    return boxes


def boxes_of(output: Any, sizes: Sequence[tuple[int, int]]) -> list[Boxes]:
    """Every detection token of each image, however unsure; output: `logits` and `pred_boxes`, without a gradient

    sizes: (height, width) of each image in pixels
    """
    every = decode(output.logits.float().cpu().numpy(), output.pred_boxes.float().cpu().numpy(), sizes, threshold=-1.0)
    return [np.column_stack((one.boxes, one.scores, one.labels)).astype(np.float32) for one in every]


def corners(boxes: Tensor) -> Tensor:
    """[..., 4] centre x, y, width, height -> x0, y0, x1, y1, with a gradient"""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
