"""The pruned encoder as one module of fixed shapes: what is exported.

    pixel_values -> tower -> features --------------------> projector -> take(rows) -> tokens
                      `-> taps -> method -> indices, scores                  |
                                      `--------------------------------------'

A method that drops tokens inside the encoder chooses there, and the rest of the tower runs on what it kept:

    pixel_values -> tower[:depth] -> taps -> method -> take(rows) -> tower[depth:] -> projector -> tokens

A detector has logits and pred_boxes instead of tokens, a classifier logits: their projector is their head, on the rows
that it reads.
It is written the plain way, projecting everything and selecting last; `edgeprune.export.hoist` moves the selection up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.bundle import KINDS
from edgeprune.dropping import dropping, kept
from edgeprune.encoders import Encoder, Head
from edgeprune.encoders._attention import recording
from edgeprune.pruners import Method, Selection, depth_of
from edgeprune.pruners._select import lower_take, take
from edgeprune.taps import Attention, Taps

__all__ = ["PrunedEncoder", "outputs"]


def outputs(encoder: Encoder, method: Method) -> tuple[str, ...]:
    """The names of what a pruned encoder returns, in order."""
    chosen = ("indices", "scores", *method.traits.emits)
    if encoder.head is not None:
        return (*KINDS[encoder.head.kind], *chosen)
    return ("tokens", *chosen, *(["positions"] if encoder.positions is not None else []), *encoder.extras)


class PrunedEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32; what the
    method emits besides (picks [B, K], origin [B, N], order [B, L], int32); and, of an encoder that has them, positions
    [3, K] int32 and its extras, [B, K, D] each.

    A method that makes one pool of all tiles returns one image of B * N candidates: [1, K, D], [1, K], [1, B * N].
    A detector returns logits [B, T, classes + 1] and pred_boxes [B, T, 4] in place of tokens, a classifier logits
    [B, classes].
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
        if (depth := depth_of(self._method, self._encoder.layer, self._encoder.headed)) is not None:
            return self._inside(self.pixels(pixel_values), depth)
        encoder, prefix = self._encoder, self._encoder.tower.prefix
        layers = {layer: encoder.tower.attention[layer] for layer in self._method.layers(encoder.layer)}
        with recording(self.encoder, layers.values()) as seen:
            out = self.encoder(self.pixels(pixel_values), output_hidden_states=True)
        hidden = encoder.hidden(out)
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
        found = [tokens, chosen.indices.to(torch.int32), chosen.scores, *chosen.emitted(self._method.traits.emits)]
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
        hidden = encoder.hidden(out, lambda hidden: kept(tower, hidden, chosen[0].indices))
        end = hidden.shape[1] - tower.suffix
        emitted = chosen[0].emitted(self._method.traits.emits)
        rest = chosen[0].indices.to(torch.int32), chosen[0].scores, *emitted
        if encoder.head is not None:
            return (*self.projector(self._read(hidden, encoder.head)), *rest)
        return (self.projector(hidden[:, tower.prefix : end]), *rest)

    def _read(self, hidden: Tensor, head: Head) -> Tensor:
        """What a head reads of the last layer: [B, S, C] -> [B, R, C]"""
        tokens, tower = hidden.shape[1], self._encoder.tower
        rows = [at % tokens for at in head.rows]
        rows += range(tower.prefix, tokens - tower.suffix) if head.mean else []
        # Taken, so that it moves up through the last layer; a slice alone would not.
        read = hidden if len(rows) == tokens else take(hidden, torch.tensor(rows).expand(hidden.shape[0], -1))
        if not head.mean:
            return read
        special = len(head.rows)
        return torch.cat((read[:, :special], read[:, special:].mean(dim=1, keepdim=True)), dim=1)

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
        self.scorer = method.scorer

    def forward(
        self, attention: dict[int, Attention], features: Tensor, projected: Tensor, pixels: Tensor | None = None
    ) -> Selection:
        taps = Taps(attention, features, projected, *self._shape, self._projector[0], self._suffix, pixels)
        return self._method.select(taps)
