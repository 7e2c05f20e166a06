"""The pruned encoder as one module of fixed shapes: what is exported.

    pixel_values -> tower -> features --------------------> projector -> take(rows) -> tokens
                      `-> taps -> method -> indices, scores                  |
                                      `--------------------------------------'

A method that drops tokens inside the encoder chooses there, and the rest of the tower runs on what it kept:

    pixel_values -> tower[:depth] -> taps -> method -> take(rows) -> tower[depth:] -> projector -> tokens

A detector has logits and pred_boxes instead of tokens: its projector is its heads, on its detection tokens.
It is written the plain way, projecting everything and selecting last; `edgeprune.export.hoist` moves the selection up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.dropping import dropping
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import WINDOWS, recording
from edgeprune.errors import MethodError, RequestError, unknown_name
from edgeprune.pruners import Host, Method, Selection, depth_of
from edgeprune.pruners._scorer import Scorer
from edgeprune.pruners._select import lower_take, take
from edgeprune.taps import Attention, Taps

__all__ = ["PrunedEncoder", "RawPixels", "build_method", "fold_normalisation", "outputs"]


def build_method(
    method: type[Method],
    name: str,
    encoder: Encoder,
    keep: int | None,
    options: Mapping[str, str] | None = None,
    pooled: int = 1,
    scorer: Scorer | None = None,
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,) * 3, (1.0,) * 3),
) -> Method:
    """The method with its budget and options, checked against the encoder.

    options: name -> value as text, as the command line has them
    pooled: how many tiles are one pool of candidates
    scorer: the trained weights of a method that has such
    pixels: mean and spread that normalise the encoder's pixels, which a scorer has to be brought to

    Raises RequestError when keep is missing or outside 1..N, MethodError when an option is not the method's, or the
    encoder lacks what the method reads.
    """
    _check_place(method, name, encoder)
    if method.traits.needs_scorer != (scorer is not None):
        must = "needs trained weights: give --scorer, made by `edgeprune bavit train`"
        raise MethodError(f"{name} {must}" if scorer is None else f"{name} has no weights: leave --scorer out")
    patches = pooled * encoder.patches
    if keep is None and name == "none":
        keep = patches
    if keep is None:
        raise RequestError(f"--keep must say how many of the {patches} patches to keep (1..{patches}); it is missing")
    if not 1 <= keep <= patches:
        raise RequestError(f"keep must be in 1..{patches} for {patches} patches, got {keep}")
    if name == "none" and keep != patches:
        raise RequestError(f"method none keeps all {patches} patches, got keep {keep}; leave --keep out")
    if method.traits.needs_cls and not encoder.tower.has_cls:
        others = [one for one in pruners.names() if one != "none" and _offered(pruners.get(one), encoder)]
        raise MethodError(
            f"{name} reads the [CLS] row of the attention; {encoder.family} has no [CLS] token. Use {', '.join(others)}"
        )
    weighted = [part for part in encoder.projector.modules() if list(part.parameters(recurse=False))]
    if method.traits.needs_mlp and [isinstance(part, nn.Linear) for part in weighted] != [True, True]:
        has = ", ".join(type(part).__name__ for part in weighted) or "nothing"
        raise MethodError(
            f"{name} reads the weights of a two-layer projector; that of {encoder.family} has {has}. Use divprune"
        )
    if scorer is None:
        built: Method = method(keep, **_typed(method, name, options or {}))  # type: ignore[call-arg]  # a Protocol has none
    elif options:
        raise MethodError(f"{name} has no options, got {', '.join(options)}; they are the scorer's")
    else:
        tower, (mean, std) = encoder.tower, pixels
        host = Host(encoder.grid, tower.patch_embedding.kernel_size[0], tower.width, encoder.layer, mean, std)
        built = method.fitted(keep, scorer, host)  # type: ignore[attr-defined]
    if hasattr(built, "prepared"):  # with what it computes of the weights once, and not in the graph
        built = built.prepared(encoder.projector)
    windowed = [at for at, module in enumerate(encoder.tower.attention) if len(getattr(module, WINDOWS, [1])) > 1]
    for layer in built.layers(encoder.layer):
        if layer in windowed:
            whole = [at + 1 for at in range(encoder.layer) if at not in windowed]
            raise MethodError(
                f"{name} must read a layer that attends to the whole image, layer {layer + 1} attends in windows; "
                f"whole are {', '.join(map(str, whole))}, counted from 1"
            )
    return built


def _check_place(method: type[Method], name: str, encoder: Encoder) -> None:
    """Raises MethodError when the encoder cannot go on with the tokens that the method keeps."""
    inside = hasattr(method, "inside")
    if encoder.detects and not inside and not method.traits.blind:
        able = [one for one in pruners.names() if pruners.get(one).traits.blind or hasattr(pruners.get(one), "inside")]
        raise MethodError(
            f"{name} drops tokens behind the encoder, and {encoder.family} detects inside it; use {', '.join(able)}"
        )
    if inside and not _any_length(encoder):
        raise MethodError(
            f"{name} drops tokens inside the encoder, whose layers must take any number of patches, each of them a "
            f"token; those of {encoder.family} do not. Use divprune"
        )


def _any_length(encoder: Encoder) -> bool:
    """Whether its layers take any number of patches, each of which is a token."""
    return encoder.tower.embeddings is not None and encoder.groups is None and encoder.pooling is None


def _offered(method: type[Method], encoder: Encoder) -> bool:
    """Whether a method is a way out where there is no [CLS]."""
    return not method.traits.needs_cls and (not hasattr(method, "inside") or _any_length(encoder))


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


def outputs(encoder: Encoder) -> tuple[str, ...]:
    """The names of what a pruned encoder returns, in order."""
    if encoder.detects:
        return ("logits", "pred_boxes", "indices", "scores")
    return ("tokens", "indices", "scores", *(["positions"] if encoder.positions is not None else []), *encoder.extras)


class PrunedEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32; and, of an
    encoder that has them, positions [3, K] int32 and its extras, [B, K, D] each.

    A method that makes one pool of all tiles returns one image of B * N candidates: [1, K, D], [1, K], [1, B * N].
    A detector returns logits [B, T, classes + 1] and pred_boxes [B, T, 4] in place of tokens.
    pixels: what happens to the input first; RawPixels for a graph that takes images as they are
    """

    def __init__(self, encoder: Encoder, method: Method, pixels: nn.Module | None = None) -> None:
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.encoder = encoder.tower.module
        self.projector = encoder.projector
        self.extras = nn.ModuleList(projector for _, projector in encoder.extras.values())
        self.selection = _Selector(encoder, method)
        self._encoder, self._method = encoder, method

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        if (depth := depth_of(self._method, self._encoder.detects)) is not None:
            return self._inside(self.pixels(pixel_values), depth)
        encoder, prefix = self._encoder, self._encoder.tower.prefix
        layers = {layer: encoder.tower.attention[layer] for layer in self._method.layers(encoder.layer)}
        with recording(self.encoder, layers.values()) as seen:
            out = self.encoder(self.pixels(pixel_values), output_hidden_states=True)
        hidden = out.last_hidden_state if encoder.normed else out.hidden_states[encoder.layer]
        patches = hidden[:, prefix:]
        features = encoder.arrange(patches)
        projected = encoder.project(features)
        if encoder.pooling is not None:
            features = encoder.pooling.to(features.dtype) @ features
        if self._method.traits.pools_tiles and encoder.tiled:
            features, projected = (rows.flatten(0, 1).unsqueeze(0) for rows in (features, projected))
        attention = {layer: seen.attention[module] for layer, module in layers.items()}
        chosen: Selection = self.selection(attention, features, projected)
        if chosen.merged is not None:
            tokens = chosen.merged
        elif chosen.merge is not None:
            averaged = encoder.pooling is not None
            tokens = chosen.merge @ projected if averaged else self.projector(chosen.merge @ features)
        elif self._method.keep == features.shape[1]:
            tokens = projected  # ascending, distinct and all of them: nothing to take
        elif self._method.traits.projects_all or encoder.groups is None:
            tokens = take(projected, chosen.indices)
        else:
            tokens = self.projector(self._grouped(patches, chosen.indices))
        found = [tokens, chosen.indices.to(torch.int32), chosen.scores]
        if encoder.positions is not None:
            found.append(lower_take(encoder.positions.T.contiguous(), chosen.indices[0], 0).T.contiguous())
        for (layer, _), projector in zip(encoder.extras.values(), self.extras, strict=True):
            found.append(projector(self._grouped(out.hidden_states[layer][:, prefix:], chosen.indices)))
        return tuple(found)

    def _inside(self, pixels: Tensor, depth: int) -> tuple[Tensor, ...]:
        """The method chooses behind `depth` layers, and those behind run on the kept tokens."""
        encoder, tower = self._encoder, self._encoder.tower
        layers = {layer: tower.attention[layer] for layer in self._method.layers(encoder.layer)}
        chosen: list[Selection] = []
        with recording(self.encoder, layers.values()) as seen:

            def choose(patches: Tensor) -> Tensor:
                attention = {layer: seen.attention[module] for layer, module in layers.items()}
                chosen.append(self.selection(attention, patches, patches, pixels))
                return chosen[0].indices

            with dropping(tower, depth, choose):
                out = self.encoder(pixels, output_hidden_states=True)
        hidden = out.last_hidden_state if encoder.normed else out.hidden_states[encoder.layer]
        end = hidden.shape[1] - tower.suffix
        rest = chosen[0].indices.to(torch.int32), chosen[0].scores
        if encoder.detects:  # taken, so that it moves up through the last layer; a slice alone would not
            detecting = torch.arange(end, hidden.shape[1]).expand(hidden.shape[0], -1)
            return (*self.projector(take(hidden, detecting)), *rest)
        return (self.projector(hidden[:, tower.prefix : end]), *rest)

    def _grouped(self, patches: Tensor, indices: Tensor) -> Tensor:
        """`arrange` for the kept tokens alone: [B, P, C], [B, K] -> [B, K, g * C]; their patches are taken one by one,
        so that the selection can move up through the layers."""
        if (groups := self._encoder.groups) is None:
            return take(patches, indices)
        rows = lower_take(groups, indices, 0)
        return take(patches, rows.flatten(1)).reshape(*rows.shape[:2], -1)


class _Selector(nn.Module):
    """The method as a module, so that its nodes carry its name in the graph."""

    def __init__(self, encoder: Encoder, method: Method) -> None:
        super().__init__()
        self._method, self._projector = method, [encoder.projector]  # in a list: its weights belong to the projector
        self._shape = encoder.grid, encoder.tower.prefix, encoder.layer, encoder.areas
        self._suffix = encoder.tower.suffix
        self.scorer = getattr(method, "scorer", None)

    def forward(
        self, attention: dict[int, Attention], features: Tensor, projected: Tensor, pixels: Tensor | None = None
    ) -> Selection:
        taps = Taps(attention, features, projected, *self._shape, self._projector[0], self._suffix, pixels)
        return self._method.select(taps)


class RawPixels(nn.Module):
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float, 0..255; for a patch embedding that holds the normalisation."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self._dtype).permute(0, 3, 1, 2)  # TensorRT moves no bytes, it casts them


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
