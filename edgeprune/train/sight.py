"""The vision tower of the embedded model learns to see, with nothing behind it that reads.

    each patch, of LN(the feature layer)          which shape and which colour it shows, how far its object's centre is
    [CLS], of the feature layer and the last      which pairs of shape and colour are there, and how many of each shape

No loss touches the attention: that [CLS] attends to objects is what it learned to answer by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.quality.scenes import COLORS, SHAPES
from edgeprune.train.drawings import MOST_THINGS, Drawings, Sights, pixel_values
from edgeprune.train.schedule import drawn

__all__ = ["PatchHeads", "Sight"]

PATCHES_COUNT = 2.0
"""weight of the losses on patches, beside those on [CLS]"""
WAYS = 8


class PatchHeads(nn.Module):
    """Of the training alone: what is read off the hidden states [B, 1 + N, C] of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, len(SHAPES) + 1 + len(COLORS) + 1 + 1)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.scenes = nn.ModuleList(
            [nn.Linear(width, len(SHAPES) * len(COLORS) + (len(SHAPES) + 1) * (MOST_THINGS + 1)) for _ in self.norms]
        )

    def forward(self, feature_layer: Tensor, last: Tensor, sights: Sights) -> Tensor:
        """-> a number"""
        read = self.patches(self.norm(feature_layer[:, 1:])).float().flatten(0, 1)
        shapes, colors, distances = read.split([len(SHAPES) + 1, len(COLORS) + 1, 1], dim=-1)
        there = sights.shapes.flatten() < len(SHAPES)
        far = F.smooth_l1_loss(distances[there, 0], sights.distances.flatten()[there], beta=0.1)
        loss = F.cross_entropy(shapes, sights.shapes.flatten()) + F.cross_entropy(colors, sights.colors.flatten()) + far
        loss = PATCHES_COUNT * loss
        for norm, head, hidden in zip(self.norms, self.scenes, (feature_layer, last), strict=True):
            read = head(norm(hidden[:, 0])).float()
            pairs, counts = read[:, : sights.pairs.shape[1]], read[:, sights.pairs.shape[1] :]
            loss = loss + F.binary_cross_entropy_with_logits(pairs, sights.pairs)
            loss = loss + F.cross_entropy(counts.unflatten(1, (-1, MOST_THINGS + 1)).transpose(1, 2), sights.counts)
        return loss


@dataclass
class Sight:
    """A `Task`: batches of drawings, each laid down in one of eight ways."""

    model: Any
    """a ModuleDict of `tower`, a CLIPVisionModel, and `heads`"""
    drawings: Drawings
    processor: Any
    """its image processor"""
    layer: int
    """the feature layer, counted as `hidden_states` of transformers"""
    batch: int
    per_round: int
    seed: int
    bf16: bool

    def batches(self, epoch: int, first: int) -> Iterator[Sights]:
        order, _, rng = drawn(len(self.drawings), self.batch, self.seed, epoch)
        ways = rng.integers(WAYS, size=order.shape)
        for numbers, how in list(zip(order.tolist(), ways.tolist(), strict=True))[first : self.per_round]:
            yield self.drawings.sights(numbers, how)

    def loss(self, batch: Sights) -> tuple[Tensor, float]:
        pixels = pixel_values(batch.images, self.processor)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            hidden = self.model["tower"](pixels, output_hidden_states=True).hidden_states
            loss: Tensor = self.model["heads"](hidden[self.layer], hidden[-1], batch)
        return loss, loss.item()
