"""What a method may read of an encoder while it runs: queries and keys of the layers it names, features, grid.

Queries and keys are recorded where transformers hands them to its attention interface, so no layer is re-implemented
and every layer keeps its fused attention (`output_attentions` would replace it). What a method needs of the attention
matrix is recomputed beside it: one row for [CLS].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["Attention", "Taps", "attending", "recording"]


@dataclass(frozen=True)
class Attention:
    """What one layer gave its attention: query, key [B, H, S, d], and the factor on their product."""

    query: Tensor
    key: Tensor
    scaling: float


@dataclass(frozen=True)
class Taps:
    """All that a method sees.

    attention: by layer, from 0; only the layers that the method named
    depth: layers in front of the features; depth - 1 is the one that produces them
    features: [B, N, C], the encoder's output without special tokens
    projected: [B, N, D], the same behind the projector; what no method reads is not computed for all N
    """

    attention: Mapping[int, Attention]
    features: Tensor
    projected: Tensor
    grid: tuple[int, int]
    prefix: int
    depth: int

    def cls_attention(self, layer: int | None = None) -> Tensor:
        """The [CLS] row of a layer's attention over the patches, by default of the last one: [B, H, N] float32.

        softmax over all tokens first, special tokens dropped after it and not renormalised, as the official codes do.
        """
        seen = self.attention[self.depth - 1 if layer is None else layer]
        query, key = seen.query[:, :, :1].float(), seen.key.float()
        row = (query @ key.transpose(-1, -2) * seen.scaling).softmax(dim=-1)
        return row[:, :, 0, self.prefix :]

    def column_mean(self, layer: int | None = None) -> Tensor:
        """Attention that each patch receives in a layer, by default the last one, as a mean over heads and all queries,
        special tokens among them: [B, N] float32. The whole map is recomputed, beside the layer's own attention.
        """
        seen = self.attention[self.depth - 1 if layer is None else layer]
        weights = (seen.query.float() @ seen.key.float().transpose(-1, -2) * seen.scaling).softmax(dim=-1)
        return weights.mean(dim=(1, 2))[:, self.prefix :]


_seen: ContextVar[dict[nn.Module, Attention | None]] = ContextVar("edgeprune_taps")


@contextlib.contextmanager
def recording(tower: nn.Module, modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Attention | None]]:
    """Inside the block the tower attends with PyTorch's fused attention, and what these modules give it is recorded."""
    from transformers import AttentionInterface

    AttentionInterface.register("edgeprune", _attend)
    seen: dict[nn.Module, Attention | None] = dict.fromkeys(modules)
    token = _seen.set(seen)
    try:
        with attending(tower, "edgeprune"):
            yield seen
    finally:
        _seen.reset(token)


@contextlib.contextmanager
def attending(tower: nn.Module, implementation: str) -> Iterator[None]:
    """Inside the block the tower uses this implementation of transformers' attention interface ("eager", "sdpa")."""
    config: Any = tower.config
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen = _seen.get()
    if module in seen:
        scaling = options.get("scaling")
        seen[module] = Attention(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
