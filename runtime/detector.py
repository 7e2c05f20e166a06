"""What a detector's bundle finds: boxes and labels, by the conventions of the model's own image processor. No torch.

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

from edgeprune.bundle import Bundle
from edgeprune.runtime.images.preprocess import as_rgb
from edgeprune.runtime.loading import Encoder, Images

__all__ = ["Detections", "Detector", "detections"]

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


class Detector(Encoder):
    """The encoder of a bundle that detects, as `edgeprune.runtime.loading` returns it.

    labels: the names of the classes
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        """Raises as `load` does."""
        super().__init__(bundle, device, threads)
        self.labels = self.manifest.labels

    def __call__(self, images: Images, threshold: float = THRESHOLD) -> list[Detections]:  # type: ignore[override]
        """Detect in B images: for each of them what it shows, with a score above the threshold.

        images: as `Encoder` takes them. Boxes are in pixels of each image as it is read, upright and before it is
                resized; of pixel_values, in pixels of these

        Raises ImageError when an image cannot be read, or does not fit.
        """
        given = self._opened(images)
        found = self.outputs(given)
        logits, boxes = found["logits"], found["pred_boxes"]
        if isinstance(given, list):
            sizes = [(image.shape[0], image.shape[1]) for image in given]
        else:
            height, width = given.shape[1:3] if given.dtype == np.uint8 else self.preprocessing.size
            sizes = [(height, width)] * len(logits)
        return detections(logits, boxes, sizes, threshold)

    def _opened(self, images: Images) -> NDArray[Any] | list[Any]:
        """An array that is not one image as it is, and images as arrays, so that each file is read once."""
        if isinstance(images, np.ndarray):
            return [images] if images.dtype == np.uint8 and images.ndim == 3 else images
        every = images if isinstance(images, (list, tuple)) else [images]
        return [np.asarray(as_rgb(image, self.preprocessing.convert_rgb)) for image in every]


def detections(
    logits: NDArray[Any], pred_boxes: NDArray[Any], sizes: Sequence[tuple[int, int]], threshold: float = THRESHOLD
) -> list[Detections]:
    """What the outputs of a detector say of each image; computed in float32.

    logits: [B, T, classes + 1] float32 or float16; pred_boxes: [B, T, 4], centre x, y, width, height in 0..1
    sizes: (height, width) of each image in pixels

    >>> logits, boxes = np.array([[[0, 9, 0], [0, 0, 9]]]), np.array([[[0.5, 0.5, 0.5, 1], [0, 0, 0, 0]]])
    >>> (found,) = detections(logits, boxes, [(100, 200)])
    >>> found.labels, found.boxes
    (array([1]), array([[ 50.,   0., 150., 100.]], dtype=float32))
    """
    logits, pred_boxes = logits.astype(np.float32), pred_boxes.astype(np.float32)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = (powers / powers.sum(axis=-1, keepdims=True))[..., :-1]
    centre, half = pred_boxes[..., :2], np.float32(0.5) * pred_boxes[..., 2:]
    corners = np.concatenate((centre - half, centre + half), axis=-1)
    found = []
    for share, box, (height, width) in zip(shares, corners, sizes, strict=True):
        label, score = share.argmax(axis=-1), share.max(axis=-1)
        kept = score > threshold
        scale = np.array((width, height, width, height), np.float32)
        found.append(Detections(score[kept], label[kept], box[kept] * scale))
    return found
