"""A bundle that detects: images in, boxes and labels out. No torch.

detector = load("out")
for scores, labels, boxes in detector("photo.jpg"): ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.detections import THRESHOLD, Detections, decode
from edgeprune.runtime.images.preprocess import as_rgb
from edgeprune.runtime.runner import Given, Images, Runner

__all__ = ["Detector"]


class Detector(Runner):
    """The detector of a bundle whose graph gives logits and boxes."""

    OUTPUTS = ("logits", "pred_boxes")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.manifest.labels

    def __call__(self, images: Images, threshold: float = THRESHOLD, **inputs: Given) -> list[Detections]:
        """Detect in B images: for each of them what it shows, with a score above the threshold.

        images: as `outputs` takes them. Boxes are in pixels of each image as it is read, upright and before it is
                resized; of pixel_values, in pixels of these

        Raises ImageError when an image cannot be read, or does not fit.
        """
        given = self._read(images)
        tensors = self.outputs(given, **inputs)
        logits, boxes = tensors["logits"], tensors["pred_boxes"]
        if isinstance(given, list):
            sizes = [(image.shape[0], image.shape[1]) for image in given]
        else:
            height, width = given.shape[1:3] if given.dtype == np.uint8 else self.preprocessing.size
            sizes = [(height, width)] * len(logits)
        return decode(logits, boxes, sizes, threshold)

    def _read(self, images: Images) -> NDArray[Any] | list[Any]:
        """An array that is not one image as it is, and images as arrays, so that each file is read once."""
        if isinstance(images, np.ndarray):
            return [images] if images.dtype == np.uint8 and images.ndim == 3 else images
        every = images if isinstance(images, (list, tuple)) else [images]
        return [np.asarray(as_rgb(image, self.preprocessing.convert_rgb)) for image in every]
