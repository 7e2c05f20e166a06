"""What a tower gives its attention: recorded where transformers hands it to its attention interface.

So layers are those of transformers, each with PyTorch's fused attention (`output_attentions` would replace it).
Written out instead, as two products around a softmax, it gives the maps that the official codes read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgeprune.taps import Attention

__all__ = ["WINDOWS", "Recorded", "attending", "recording"]


@dataclass
class Recorded:
    """What the recorded modules gave their attention while the block ran, and its maps where they were written out."""

    attention: dict[nn.Module, Attention]
    maps: dict[nn.Module, Tensor]
    """[B, H, S, S]"""
    bias: Tensor | None = None
    """[B, 1, 1, S], added to the logits of every layer that runs while it is set"""


Settings: TypeAlias = "tuple[Recorded, frozenset[nn.Module], bool, Mapping[nn.Module, Tensor]]"
_seen: ContextVar[Settings] = ContextVar("edgeprune_taps")


@contextlib.contextmanager
def recording(
    tower: nn.Module,
    modules: Iterable[nn.Module],
    written_out: bool = False,
    visible: Mapping[nn.Module, Tensor] | None = None,
) -> Iterator[Recorded]:
    """Inside the block the tower attends as this project does, and what these modules give their attention is recorded.

    written_out: with two products around a softmax, whose maps are recorded too, instead of PyTorch's fused attention
    visible: [B, S] bool by module, the tokens that it attends to; only where written out
    """
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, _attend)
    seen, modules = Recorded({}, {}), frozenset(modules)
    token = _seen.set((seen, modules, written_out, visible or {}))

    def handed_on(module: nn.Module, _: Any, output: Any) -> None:
        if (before := seen.attention.get(module)) is not None:
            seen.attention[module] = replace(before, output=output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(handed_on) for module in modules]
    try:
        with attending(tower, IMPLEMENTATION):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
        _seen.reset(token)


IMPLEMENTATION = "edgeprune"

WINDOWS = "edgeprune_windows"
"""an attribute that families set on attention modules: how many consecutive tokens each window has, in order"""


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
    """query, key, value [B, H, S, d] -> [B, S, H, d]"""
    seen, modules, written_out, visible = _seen.get()
    given = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if given is None else given
    windows: list[int] = getattr(module, WINDOWS, [query.shape[2]])
    if module in modules:
        seen.attention[module] = Attention(query, key, scaling, value, seen.bias)
    if seen.bias is not None:
        attention_mask = seen.bias if attention_mask is None else attention_mask + seen.bias
    if written_out:
        weights = query @ key.transpose(-1, -2) * scaling
        if attention_mask is not None:
            weights = weights + attention_mask
        if len(windows) > 1:
            window = torch.tensor([at for at, size in enumerate(windows) for _ in range(size)])
            weights = weights.masked_fill(window[:, None] != window, -torch.inf)
        if module in visible:
            weights = weights.masked_fill(~visible[module][:, None, None], -torch.inf)
        weights = weights.softmax(dim=-1)
        if module in modules:
            seen.maps[module] = weights
        attended = weights @ value
    else:
        attended = _fused(query, key, value, windows, attn_mask=attention_mask, scale=scaling)
    return attended.transpose(1, 2).contiguous(), None


def _fused(query: Tensor, key: Tensor, value: Tensor, windows: list[int], **options: Any) -> Tensor:
    """PyTorch's fused attention, window by window; windows of one size are taken for as many images."""
    attention: Callable[..., Tensor] = nn.functional.scaled_dot_product_attention
    parts = (query, key, value)
    if len(windows) == 1:
        return attention(*parts, **options)
    if len(set(windows)) == 1:
        batch, heads, tokens, width = query.shape
        each = (len(windows), tokens // len(windows))
        folded = (part.reshape(batch, heads, *each, width).transpose(1, 2).flatten(0, 1) for part in parts)
        attended = attention(*folded, **options).reshape(batch, len(windows), heads, -1, width)
        return attended.transpose(1, 2).flatten(2, 3)
    split = zip(*(torch.split(part, windows, dim=2) for part in parts), strict=True)
    return torch.cat([attention(*window, **options) for window in split], dim=2)
