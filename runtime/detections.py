"""What a detector's outputs say: boxes and labels, by the conventions of the model's own image processor. numpy only.

    p = softmax(logits)                                       over the classes and "no object", which is the last
    score, label = max over the classes of p                  kept where score > threshold
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2) * (W, H, W, H)        the size of the image given, in pixels

No box is suppressed for overlapping another: a detector of this kind finds each object once.

Source  huggingface/transformers@v5.23 models/yolos/image_processing_pil_yolos.py, post_process_object_detection
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["THRESHOLD", "Detections", "decode"]

THRESHOLD = 0.5
"""of transformers"""


class Detections(NamedTuple):
    """What was found in one image, in the order of the detection tokens."""

    scores: NDArray[np.float32]
    """[M] float32, above the threshold"""
    labels: NDArray[np.int64]
    """[M] int64, classes; `Detector.labels` are their names"""
    boxes: NDArray[np.float32]
    """[M, 4] float32, left, top, right, bottom in pixels of the image given; they may reach beyond its edges"""


def decode(
    logits: NDArray[Any], pred_boxes: NDArray[Any], sizes: Sequence[tuple[int, int]], threshold: float = THRESHOLD
) -> list[Detections]:
    """What the outputs of a detector say of each image; computed in float32.

    logits: [B, T, classes + 1] float32 or float16; pred_boxes: [B, T, 4], centre x, y, width, height in 0..1
    sizes: (height, width) of each image in pixels

    >>> logits, boxes = np.array([[[0, 9, 0], [0, 0, 9]]]), np.array([[[0.5, 0.5, 0.5, 1], [0, 0, 0, 0]]])
    >>> (one,) = decode(logits, boxes, [(100, 200)])
    >>> one.labels, one.boxes
    (array([1]), array([[ 50.,   0., 150., 100.]], dtype=float32))
    """
    logits, pred_boxes = logits.astype(np.float32), pred_boxes.astype(np.float32)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = (powers / powers.sum(axis=-1, keepdims=True))[..., :-1]
    centre, half = pred_boxes[..., :2], np.float32(0.5) * pred_boxes[..., 2:]
    corners = np.concatenate((centre - half, centre + half), axis=-1)
    every = []
    for share, box, (height, width) in zip(shares, corners, sizes, strict=True):
        label, score = share.argmax(axis=-1), share.max(axis=-1)
        kept = score > threshold
        scale = np.array((width, height, width, height), np.float32)
        every.append(Detections(score[kept], label[kept], box[kept] * scale))
    return every
