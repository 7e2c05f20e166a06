"""What a frozen encoder sees of images: batches of features and tokens, in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.quality.sweep.items import Item
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.priors.patches import Patches
from edgeprune.train.calibrate import features
from edgeprune.train.schedule import drawn

__all__ = ["Seen", "Sights"]

ENOUGH = 32
"""images that the mean and the spread of features are taken of"""


@dataclass(frozen=True)
class Seen:
    items: tuple[Item, ...]
    features: Tensor
    """[B, N, C] float32 in front of the projector; tokens: [B, N, D] behind it"""
    tokens: Tensor


class Sights:
    """Raises RequestError where the images are fewer than a batch, or an image becomes several tiles."""

    def __init__(self, encoder: Encoder, preprocessing: Preprocessing, items: Sequence[Item], device: str) -> None:
        if encoder.tiled or encoder.headed:
            raise RequestError(
                f"a scorer is trained on tokens of whole images, {encoder.family} gives "
                f"{encoder.kind if encoder.headed else 'those of tiles'}"
            )
        self.items, self._encoder, self._preprocessing, self._device = tuple(items), encoder, preprocessing, device
        for part in (encoder.tower.module, encoder.projector):
            part.to(device)

    def batches(self, batch: int, seed: int, epoch: int, first: int) -> Iterator[tuple[Seen, np.random.Generator]]:
        """From the step `first` of an epoch on; with each the lots of what else is drawn for it."""
        order, _, rng = drawn(len(self.items), batch, seed, epoch)
        lots = rng.integers(1 << 63, size=len(order))
        for numbers, lot in list(zip(order.tolist(), lots.tolist(), strict=True))[first:]:
            yield self.seen(numbers), np.random.default_rng(lot)

    @torch.no_grad()
    def seen(self, numbers: Sequence[int]) -> Seen:
        items = tuple(self.items[number] for number in numbers)
        pixels = torch.stack([torch.from_numpy(self._preprocessing(item.image())) for item in items])
        pixels = pixels.to(self._device)
        together = [pixels] if self._encoder.tower.batched else list(pixels[:, None])
        given = torch.cat([features(self._encoder, part) for part in together])
        tokens = self._encoder.project(given)
        if self._encoder.pooling is not None:
            given = self._encoder.pooling.to(given) @ given
        return Seen(items, given.float(), tokens.float())

    def patches(self, size: tuple[int, ...]) -> Patches:
        """Where the tokens lie on an image of this height and width."""
        return Patches.of((size[0], size[1]), self._encoder.grid, self._preprocessing)

    def spread(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the features, of the first images: [C] twice."""
        rows = self.seen(range(min(ENOUGH, len(self.items)))).features.flatten(0, 1)
        return rows.mean(dim=0).cpu(), rows.std(dim=0).clamp_min(1e-6).cpu()
