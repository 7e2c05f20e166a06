"""The pruned encoder as one module of fixed shapes: what is exported.

    pixel_values -> tower -> features --------------------> projector -> take(rows) -> tokens
                      `-> taps -> method -> indices, scores                  |
                                      `--------------------------------------'

It is written the plain way, projecting everything and selecting last; `edgeprune.export.hoist` moves the selection up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, RequestError, unknown_name
from edgeprune.pruners import Method, Selection
from edgeprune.selection import take
from edgeprune.taps import Attention, Taps, recording

__all__ = ["PrunedEncoder", "RawPixels", "build_method", "fold_normalisation"]


def build_method(
    method: type[Method], name: str, encoder: Encoder, keep: int | None, options: Mapping[str, str] | None = None
) -> Method:
    """The method with its budget and options, checked against the encoder.

    options: name -> value as text, as the command line has them

    Raises RequestError when keep is missing or outside 1..N, MethodError when an option is not the method's, or the
    encoder lacks what the method reads.
    """
    patches = encoder.patches
    if keep is None and name == "none":
        keep = patches
    if keep is None:
        raise RequestError(f"--keep must say how many of the {patches} patches to keep (1..{patches}); it is missing")
    if not 1 <= keep <= patches:
        raise RequestError(f"keep must be in 1..{patches} for {patches} patches, got {keep}")
    if name == "none" and keep != patches:
        raise RequestError(f"method none keeps all {patches} patches, got keep {keep}; leave --keep out")
    if method.traits.needs_cls and not encoder.tower.has_cls:
        others = [one for one in pruners.names() if one != "none" and not pruners.get(one).traits.needs_cls]
        raise MethodError(
            f"{name} reads the [CLS] row of the attention; {encoder.family} has no [CLS] token. Use {', '.join(others)}"
        )
    built: Method = method(keep, **_typed(method, name, options or {}))  # type: ignore[call-arg]  # a Protocol has none
    built.layers(encoder.layer)
    return built


def _typed(method: type[Method], name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Options in the types of the method's fields: the type of the field's default, int where that is None."""
    fields = {field.name: field for field in dataclasses.fields(method) if field.name != "keep"}  # type: ignore[arg-type]
    found = {}
    for option, text in options.items():
        if option not in fields:
            raise MethodError(unknown_name(f"option of {name}", option, fields))
        default: Any = fields[option].default
        kind = int if default is None else type(default)
        try:
            found[option] = kind(text)
        except ValueError:
            raise MethodError(f"option {option} of {name} must be {kind.__name__}, got {text!r}") from None
    return found


class PrunedEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32.

    pixels: what happens to the input first; RawPixels for a graph that takes images as they are
    """

    def __init__(self, encoder: Encoder, method: Method, pixels: nn.Module | None = None) -> None:
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.encoder = encoder.tower.module
        self.projector = encoder.projector
        self.selection = _Selector(encoder, method)
        self._attention = encoder.tower.attention
        self._layer, self._normed = encoder.layer, encoder.normed
        self._prefix = encoder.tower.prefix

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layers = {layer: self._attention[layer] for layer in self.selection.method.layers(self._layer)}
        with recording(self.encoder, layers.values()) as seen:
            out = self.encoder(self.pixels(pixel_values), output_hidden_states=True)
        hidden = out.last_hidden_state if self._normed else out.hidden_states[self._layer]
        features = hidden[:, self._prefix :]
        attention = {layer: found for layer, module in layers.items() if (found := seen[module]) is not None}
        projected = self.projector(features)
        chosen: Selection = self.selection(attention, features, projected)
        if chosen.merge is not None:
            tokens = self.projector(chosen.merge @ features)
        elif self.selection.method.keep == features.shape[1]:
            tokens = projected  # ascending, distinct and all of them: nothing to take
        else:
            tokens = take(projected, chosen.indices)
        return tokens, chosen.indices.to(torch.int32), chosen.scores


class _Selector(nn.Module):
    """The method as a module, so that its nodes carry its name in the graph."""

    def __init__(self, encoder: Encoder, method: Method) -> None:
        super().__init__()
        self.method = method
        self._shape = (encoder.tower.grid, encoder.tower.prefix, encoder.layer)

    def forward(self, attention: dict[int, Attention], features: Tensor, projected: Tensor) -> Selection:
        return self.method.select(Taps(attention, features, projected, *self._shape))


class RawPixels(nn.Module):
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float, 0..255; for a patch embedding that holds the normalisation."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).to(self._dtype)


def fold_normalisation(
    patch_embedding: nn.Conv2d, rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Make the convolution take raw 0..255 pixels, in place: conv((rescale * x - mean) / std) = conv'(x).

    Exact, because a patch embedding has no padding: w' = w * rescale / std, b' = b - sum(w * mean / std).
    """
    weight = patch_embedding.weight.detach()
    centre, spread = weight.new_tensor(mean).view(1, -1, 1, 1), weight.new_tensor(std).view(1, -1, 1, 1)
    shift = (weight * centre / spread).sum(dim=(1, 2, 3))
    bias = -shift if patch_embedding.bias is None else patch_embedding.bias.detach() - shift
    patch_embedding.weight = nn.Parameter(weight * rescale / spread, requires_grad=False)
    patch_embedding.bias = nn.Parameter(bias, requires_grad=False)
