"""Samples as a detector trains on them: images stretched to its size, and what transformers calls labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgeprune.quality.data import Samples
from edgeprune.train.patches import CACHE_NBYTES

__all__ = ["Labels", "Objects", "mirrored"]

Labels = dict[str, Tensor]
"""of one image: class_labels [M] int64, boxes [M, 4] float32 (centre x, y, width, height in 0..1)"""

One = tuple[Tensor, Labels]
Batch = tuple[Tensor, list[Labels]]


class Objects(TorchDataset[One]):
    """[i] -> image uint8 [3, H, W] and its labels.

    size: (height, width) in pixels; images of another size are stretched to it, bilinear as YOLOS's image processor
    classes: the detector's number of each class of the samples
    show: called as show(done, total) while a set that is small enough to keep is prepared
    """

    def __init__(
        self,
        samples: Samples,
        size: tuple[int, int],
        classes: Sequence[int],
        show: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._samples, self._size, self._classes = samples, size, np.asarray(classes, np.int64)
        self._images: Tensor | None = None
        self._labels: list[Labels] = []
        if len(samples) * 3 * size[0] * size[1] <= CACHE_NBYTES:
            self._keep_all(show)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> One:
        if self._images is not None:
            return self._images[index], self._labels[index]
        image, labels = self._prepare(index)
        return torch.from_numpy(image), labels

    def batches(self, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[Batch]:
        """Images uint8 [B, 3, H, W] and the labels of each, of each list of numbers, in this order."""
        if self._images is not None:
            for batch in batches:
                yield self._images[torch.as_tensor(batch)], [self._labels[at] for at in batch]
            return
        yield from DataLoader(
            self, batch_sampler=[list(batch) for batch in batches], num_workers=workers, collate_fn=_stacked
        )

    def _keep_all(self, show: Callable[[int, int], None]) -> None:
        images = np.empty((len(self), 3, *self._size), np.uint8)
        for at in range(len(self)):
            images[at], labels = self._prepare(at)
            self._labels.append(labels)
            show(at + 1, len(self))
        self._images = torch.from_numpy(images)

    def _prepare(self, index: int) -> tuple[NDArray[np.uint8], Labels]:
        sample, (height, width) = self._samples[index], self._size
        image, (own_height, own_width) = sample.image, sample.size
        if sample.size != self._size:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1) / np.tile([own_width, own_height], 2)
        labels = {
            "class_labels": torch.from_numpy(self._classes[sample.labels]),
            "boxes": torch.from_numpy(boxes.astype(np.float32)),
        }
        return np.ascontiguousarray(image.transpose(2, 0, 1)), labels


def mirrored(images: Tensor, labels: Sequence[Labels], flips: Any) -> Batch:
    """A copy with the images [B, 3, H, W] where flips [B] is true turned left to right, and their boxes with them."""
    images, turned_labels = images.clone(), []
    at = torch.as_tensor(flips)
    images[at] = images[at].flip(-1)
    for one, flip in zip(labels, at.tolist(), strict=True):
        boxes = one["boxes"]
        turned = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], dim=1) if flip else boxes
        turned_labels.append({**one, "boxes": turned})
    return images, turned_labels


def _stacked(rows: Sequence[One]) -> Batch:
    return torch.stack([image for image, _ in rows]), [labels for _, labels in rows]
