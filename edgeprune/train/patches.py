"""Samples as batches of tensors: images stretched to the model's size, and the label of every patch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgeprune.errors import EdgepruneError
from edgeprune.quality.data import Samples
from edgeprune.quality.labels import grid_of, patch_labels

__all__ = ["Patches", "loader_workers"]

CACHE_NBYTES = 1 << 30
"""A set that takes no more than this is prepared once; of a larger one, images are decoded whenever they come up."""

Pair = tuple[Tensor, Tensor]


class Patches(TorchDataset[Pair]):
    """[i] -> image uint8 [3, H, W] and labels bool [rows, columns], true for foreground.

    size: (height, width) in pixels; images of another size are stretched to it, bilinear as YOLOS's image processor
    show: called as show(done, total) while a small set is prepared
    """

    def __init__(
        self,
        samples: Samples,
        size: tuple[int, int],
        patch_size: int,
        threshold: float,
        show: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._samples, self._size, self._patch_size, self._threshold = samples, size, patch_size, threshold
        self._grid = grid_of(size, patch_size)
        self._cache: Pair | None = None
        if len(samples) * 3 * size[0] * size[1] <= CACHE_NBYTES:
            self._cache = self._prepared(show)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Pair:
        if self._cache is not None:
            return self._cache[0][index], self._cache[1][index]
        image, labels = self._prepare(index)
        return torch.from_numpy(image), torch.from_numpy(labels)

    def batches(self, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[Pair]:
        """Images uint8 [B, 3, H, W] and labels bool [B, rows, columns] of each list of numbers, in this order."""
        if self._cache is not None:
            for batch in batches:
                at = torch.as_tensor(batch)
                yield self._cache[0][at], self._cache[1][at]
            return
        try:
            yield from DataLoader(self, batch_sampler=[list(batch) for batch in batches], num_workers=workers)
        except EdgepruneError as error:
            *traceback, reason = str(error).strip().splitlines()  # a worker's error has its traceback for a message
            raise type(error)(reason.split(": ", 1)[-1] if traceback else reason) from None

    def _prepared(self, show: Callable[[int, int], None]) -> Pair:
        images = np.empty((len(self), 3, *self._size), np.uint8)
        labels = np.empty((len(self), *self._grid), np.bool_)
        for at in range(len(self)):
            images[at], labels[at] = self._prepare(at)
            show(at + 1, len(self))
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _prepare(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        sample = self._samples[index]
        image, (height, width) = sample.image, self._size
        if image.shape[:2] != self._size:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        labels = patch_labels(sample, self._size, self._patch_size, self._threshold)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), labels


def loader_workers(device: str) -> int:
    """Processes that decode images beside a GPU; on the CPU the training itself has the cores."""
    return 0 if device == "cpu" else min(8, os.cpu_count() or 1)
