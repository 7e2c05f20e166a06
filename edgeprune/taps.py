"""What a method may read of an encoder while it runs: queries and keys of the layers it names, features, grid.

What a method needs of the attention matrix is recomputed beside the layer's own: one row for [CLS], the whole of it for
column means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Attention", "Taps"]

LARGEST = 2**26
"""how many values of an attention map are computed at a time where only their sum is read, 256 MiB: maps of 16 heads up
to 2048 tokens, which is all but a few encoders, are one"""


@dataclass(frozen=True)
class Attention:
    """What one layer gave its attention: query, key [B, H, S, d], the factor on their product, the value [B, H, S, d],
    and what is added to the logits [B, 1, 1, S], where rows stand for several patches."""

    query: Tensor
    key: Tensor
    scaling: float
    value: Tensor | None = None
    bias: Tensor | None = None
    output: Tensor | None = None
    """[B, S, C], what the layer's attention adds to the rest, where it has run already"""

    def weights(self, rows: int | None = None) -> Tensor:
        """softmax over all tokens, of the first so many queries or of all: [B, H, rows, S] float32."""
        return self._softmax(self.query if rows is None else self.query[:, :, :rows])

    def received(self) -> Tensor:
        """The mean of the whole map over heads and queries, of which a part of the rows is there at a time: [B, S]."""
        batch, heads, count, _ = self.query.shape
        rows = max(1, LARGEST // (batch * heads * count))
        if rows >= count:
            return self.weights().mean(dim=(1, 2))
        parts = [self._softmax(part).sum(dim=(1, 2)) for part in torch.split(self.query, rows, dim=2)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole + part
        return whole / (heads * count)

    def _softmax(self, query: Tensor) -> Tensor:
        logits = query.float() @ self.key.float().transpose(-1, -2) * self.scaling
        return (logits if self.bias is None else logits + self.bias.float()).softmax(dim=-1)


@dataclass(frozen=True)
class Taps:
    """All that a method sees.

    attention: by layer, from 0; only the layers that the method named
    depth: layers in front of the features; depth - 1 is the one that produces them
    features: [B, N, C], the encoder's output without special tokens
    projected: [B, N, D], the same behind the projector; what no method reads is not computed for all N
    grid: rows and columns of the N tokens
    areas: [N, P] float32, the share that each of the tower's P patches has in each token; None where they are the same
    projector: the module from features to projected
    branch: [B, N, C] like the features, what the attention of the layer that produces them added; where it is read
    suffix: tokens behind the patches: special ones, and rows that are attended to only
    names: [B, n] int64, the place of the grid that each of the n tokens goes under; None where all N are there
    size: [B, n] float32, how many patches each of them stands for; None for one each
    pixels: [B, 3, H, W], where tokens are dropped inside the encoder
    state: name -> [B, ...] float32, what a step inside the encoder kept of the frame before
    weighting: by layer, [N] float32, what attention there is multiplied by, token by token; of others it stays as it is
    given: what the graph takes beside the pixels, by name, [B, ...] float32 (`edgeprune.ports`)
    aligner: the module from features to CLIP's joint space of images and texts
    keyer: the module from projected features to the keys of the language model's first layer, of width `head` each
    For a method that drops tokens inside the encoder, features are the patches at that place, and `projected` the same.
    """

    attention: Mapping[int, Attention]
    features: Tensor
    projected: Tensor
    grid: tuple[int, int]
    prefix: int
    depth: int
    areas: Tensor | None = None
    projector: nn.Module = field(default_factory=nn.Identity)
    suffix: int = 0
    pixels: Tensor | None = None
    names: Tensor | None = None
    size: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    weighting: Mapping[int, Tensor] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)
    aligner: nn.Module | None = None
    keyer: Any = None
    branch: Tensor | None = None

    def aligned(self) -> Tensor:
        """The features in CLIP's joint space of images and texts: [B, N, P]"""
        assert self.aligner is not None
        joint: Tensor = self.aligner(self.features)
        return joint

    def aligned_branch(self) -> Tensor:
        """The same of what the attention added to the features: [B, N, P]"""
        assert self.aligner is not None
        joint: Tensor = self.aligner(self.branch)
        return joint

    def language_keys(self) -> Tensor:
        """The keys of projected features in the first layer of the language model: [B, G, N, d] float32, G of its heads
        having keys of their own."""
        keys: Tensor = self.keyer(self.projected)
        return keys.float().reshape(*keys.shape[:2], -1, self.keyer.head).transpose(1, 2)

    def cls_attention(self, layer: int | None = None) -> Tensor:
        """The [CLS] row of a layer's attention over the patches, by default of the last one: [B, H, N] float32.

        softmax over all tokens first, special tokens dropped after it and not renormalised, as the official codes do.
        """
        layer = self.depth - 1 if layer is None else layer
        row = self.attention[layer].weights(1)
        return self._weighted(self._by_token(self._patches(row[:, :, 0])), layer)

    def column_mean(self, layer: int | None = None) -> Tensor:
        """Attention that each patch receives in a layer, by default the last one, as a mean over heads and all queries,
        special tokens among them: [B, N] float32. The whole map is recomputed, beside the layer's own attention.
        """
        layer = self.depth - 1 if layer is None else layer
        return self._weighted(self._by_token(self._patches(self.attention[layer].received())), layer)

    def attention_map(self, layer: int | None = None) -> Tensor:
        """What tokens attend to among themselves in a layer, by default the last one: [B, N, N] float32, a row for each
        that attends. Mean over heads; special tokens are dropped behind the softmax. The whole map is recomputed.
        """
        weights = self.attention[self.depth - 1 if layer is None else layer].weights().mean(dim=1)
        rows = self._by_token(self._patches(weights))[:, self.prefix : weights.shape[1] - self.suffix]
        return rows if self.areas is None else self.areas @ rows

    def keys(self, layer: int | None = None) -> Tensor:
        """The mean over heads of each token's keys in a layer, by default the last one: [B, N, d] float32."""
        seen = self.attention[self.depth - 1 if layer is None else layer]
        keys = seen.key.float().mean(dim=1)[:, self.prefix : seen.key.shape[2] - self.suffix]
        return keys if self.areas is None else self.areas @ keys

    def keys_of_heads(self, layer: int | None = None) -> Tensor:
        """Each token's keys in a layer, by default the last one, head by head: [B, H, N, d] float32."""
        seen = self.attention[self.depth - 1 if layer is None else layer]
        keys = seen.key.float()[:, :, self.prefix : seen.key.shape[2] - self.suffix]
        return keys if self.areas is None else self.areas @ keys

    def _weighted(self, attended: Tensor, layer: int) -> Tensor:
        """[..., N] -> the same, by the weight of each position."""
        weight = self.weighting.get(layer)
        return attended if weight is None else attended * weight

    def _patches(self, values: Tensor) -> Tensor:
        """[..., S] -> [..., P]"""
        return values[..., self.prefix : values.shape[-1] - self.suffix]

    def _by_token(self, values: Tensor) -> Tensor:
        """[..., P] of the patches -> [..., N] of the tokens."""
        return values if self.areas is None else values @ self.areas.transpose(0, 1)
