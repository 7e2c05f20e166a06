"""The pruned encoder as one module of fixed shapes: what is exported.

    pixel_values -> tower -> features --------------------> projector -> take(rows) -> tokens
                      `-> taps -> method -> indices, scores                  |
                                      `--------------------------------------'

A step inside the encoder (`edgeprune.schedule`) shortens the sequence on the way; the method chooses of what is left:

    pixel_values -> tower[:layer] -> reducer -> take(rows) or W rows -> tower[layer:] -> ... as above

A method that drops tokens inside the encoder is such a step itself, and what it keeps is what leaves.

A detector has logits and pred_boxes instead of tokens, a classifier logits: their projector is their head, on the rows
that it reads.
It is written the plain way, projecting everything and selecting last; `edgeprune.export.hoist` moves the selection up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.bundle import KINDS
from edgeprune.encoders import Encoder, Head
from edgeprune.encoders._attention import Recorded, recording
from edgeprune.ports import PRIOR
from edgeprune.pruners import Method, Selection, depth_of, one_pool
from edgeprune.pruners._greedy import barring
from edgeprune.pruners._select import lower_take, place_in, ranked_top, take
from edgeprune.schedule import NEXT, STATE, Reduction, Step
from edgeprune.shortening import Rows, shortening, trail_of
from edgeprune.taps import Attention, Taps

__all__ = ["PrunedEncoder", "Reducing", "beside", "first_frame", "outputs", "run_steps"]


def outputs(encoder: Encoder, method: Method) -> tuple[str, ...]:
    """The names of what a pruned encoder returns, in order."""
    chosen = ("indices", "scores", *method.traits.emits)
    if encoder.head is not None:
        return (*KINDS[encoder.head.kind], *chosen, *_of_steps(encoder))
    places = ["positions"] if encoder.positions is not None else []
    return ("tokens", *chosen, *places, *encoder.extras, *_of_steps(encoder))


def _of_steps(encoder: Encoder) -> tuple[str, ...]:
    if (inside := encoder.inside) is None:
        return ()
    each = tuple(f"{name}.{step.layer}" for step in inside.steps for name in ("trail", "scores"))
    state = (f"{NEXT}{name}" for name in _state(encoder))
    return (*each, "origin", *state) if inside.origin else (*each, *state)


def _state(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    """What its steps keep from frame to frame, `<layer>.<name>` -> shape of one image."""
    tower = encoder.tower
    return {} if encoder.inside is None else encoder.inside.state(encoder.patches, tower.width // tower.heads)


def first_frame(encoder: Encoder, images: int) -> dict[str, Tensor]:
    """What its steps are given in front of a first frame, by the names of the graph's inputs: all 0."""
    return {f"{STATE}{name}": torch.zeros(images, *shape) for name, shape in _state(encoder).items()}


def beside(encoder: Encoder, method: Method, images: int) -> dict[str, Tensor]:
    """What the graph takes behind the pixels, by name and in order, as it is where nothing is given: what the method
    and a prior ask for, and what steps keep from frame to frame."""
    return {**encoder.blank(encoder.ports(method.ports), images), **first_frame(encoder, images)}


def run_steps(
    encoder: Encoder,
    reducer: Reducing | None,
    pixels: Tensor,
    layers: Collection[int] = (),
    state: Mapping[str, Tensor] | None = None,
) -> tuple[Any, Rows, dict[int, Attention]]:
    """Run the tower, shortened at the encoder's steps -> what it returns, what became of the patches, and the attention
    of layers by number.

    reducer: the encoder's, where it has steps; layers: those whose attention is wanted besides
    state: what the frame before left, as `first_frame` has it; None: there is none
    """
    given = state or {name: one.to(pixels.device) for name, one in first_frame(encoder, pixels.shape[0]).items()}
    tower, inside = encoder.tower, encoder.inside
    steps, bias = ((), False) if inside is None else (inside.steps, inside.reducer.bias)
    modules = {at: tower.attention[at] for at in sorted({*layers, *(() if inside is None else inside.layers)})}
    with recording(tower.module, modules.values()) as seen:

        def reduce(step: Step, patches: Tensor, rows: Rows) -> Reduction:
            assert reducer is not None
            reduction: Reduction = reducer(step, _attention(seen, modules), patches, rows, given)
            return reduction

        with shortening(tower, steps, reduce, seen, bias, encoder.unit) as rows:
            out = tower.module(pixels, output_hidden_states=True)
    return out, rows, _attention(seen, modules)


class PrunedEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> tokens [B, K, D], indices [B, K] int32 ascending, scores [B, N] float32; what the
    method emits besides (picks [B, K], origin [B, N], order [B, L], int32); and, of an encoder that has them, positions
    [3, K] int32 and its extras, [B, K, D] each.

    Of each step inside the encoder, with n rows and h hidden ones in front of it: trail.<layer> [B, n + h] int32, the
    row behind it that each one is part of, -1 for none; scores.<layer> [B, n] float32, what the rows were ranked by.
    Patches that no row goes under have the score -inf.

    A method that makes one pool of all tiles returns one image of B * N candidates: [1, K, D], [1, K], [1, B * N].
    A detector returns logits [B, T, classes + 1] and pred_boxes [B, T, 4] in place of tokens, a classifier logits
    [B, classes].
    pixels: what happens to the input first; RawPixels for a graph that takes images as they are

    `beside` has the names of what is given behind the pixels, in order, each [B, ...] float32: what the method or a
    prior asks for, and, where a step keeps something from frame to frame, what the frame before left. Without them it
    is as where nothing is given, and a first frame. What is kept for the next one is handed out last.
    """

    def __init__(self, encoder: Encoder, method: Method, pixels: nn.Module | None = None) -> None:
        super().__init__()
        self.pixels = pixels or nn.Identity()
        self.encoder = encoder.tower.module
        self.projector = encoder.projector
        self.extras = nn.ModuleList(projector for _, projector in encoder.extras.values())
        self.aligner, self.keyer = encoder.aligner, encoder.keyer
        self.selection = _Selector(encoder, method)
        self.selection.reduction = None if encoder.inside is None else Reducing(encoder)
        self._encoder, self._method, self._beside = encoder, method, tuple(beside(encoder, method, 1))
        self._pools = one_pool(type(method), method.options(), encoder)

    def forward(self, pixel_values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        pixels = self.pixels(pixel_values)
        blank = {} if others or not self._beside else beside(self._encoder, self._method, len(pixels))
        given = dict(zip(self._beside, others, strict=True)) if others else blank
        if (depth := depth_of(self._method, self._encoder)) is not None:
            return self._inside(pixels, depth, given)
        encoder, inside = self._encoder, self._encoder.inside
        read = self._method.layers(encoder.layer)
        if self._method.traits.reads_branch:
            read = (*read, *encoder.sources)
        state = {name: one for name, one in given.items() if name.startswith(STATE)} or None
        out, rows, attention = run_steps(encoder, self.selection.reduction, pixels, read, state)
        hidden = encoder.hidden(out, rows.fit)
        patches = rows.patches(hidden)
        features = encoder.arrange(patches) if inside is None else rows.rows(hidden)
        projected = features if encoder.head is not None else encoder.project(features)
        if encoder.pooling is not None:
            features = encoder.pooling.to(features.dtype) @ features
        if self._pools:
            features, projected = (part.flatten(0, 1).unsqueeze(0) for part in (features, projected))
            given = encoder.pooled(encoder.ports(self._method.ports), given)
        branch = None
        if self._method.traits.reads_branch:
            added = torch.cat([_output(attention[layer]) for layer in encoder.sources], dim=-1)
            branch = encoder.arrange(rows.patches(added))
            branch = branch if encoder.pooling is None else encoder.pooling.to(branch.dtype) @ branch
        chosen: Selection = self.selection(attention, features, projected, rows=rows, given=given, branch=branch)
        if encoder.head is not None:
            read = self.projector(self._read(hidden, encoder.head, rows.size))
            return (*read, *_handed(encoder, self._method, chosen, rows), *_handed_of_steps(encoder, chosen, rows))
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
        handed = [tokens, *_handed(self._encoder, self._method, chosen, rows)]
        if encoder.positions is not None:
            places = chosen.indices[0] if rows.names is None else rows.names[0].gather(0, chosen.indices[0])
            handed.append(lower_take(encoder.positions.T.contiguous(), places, 0).T.contiguous())
        for (layer, _), projector in zip(encoder.extras.values(), self.extras, strict=True):
            earlier = rows.patches(rows.fit(out.hidden_states[layer]))
            handed.append(projector(self._grouped(earlier, chosen.indices)))
        return (*handed, *_handed_of_steps(encoder, chosen, rows))

    def _inside(self, pixels: Tensor, depth: int, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The method chooses behind `depth` layers, and those behind run on the kept tokens."""
        encoder, tower, method = self._encoder, self._encoder.tower, self._method
        layers = {layer: tower.attention[layer] for layer in method.layers(encoder.layer)}
        selected: list[Selection] = []
        with recording(self.encoder, layers.values()) as seen:

            def reduce(step: Step, patches: Tensor, rows: Rows) -> Reduction:
                selected.append(self.selection(_attention(seen, layers), patches, patches, pixels, given=given))
                return Reduction(selected[0].indices, selected[0].scores)

            with shortening(tower, (Step(depth, method.keep),), reduce, seen) as rows:
                out = self.encoder(pixels, output_hidden_states=True)
        (chosen,) = selected
        hidden = encoder.hidden(out, rows.fit)
        emitted = chosen.emitted(method.traits.emits)
        rest = chosen.indices.to(torch.int32), chosen.scores, *emitted
        end = hidden.shape[1] - tower.suffix
        if encoder.head is not None:
            return (*self.projector(self._read(hidden, encoder.head)), *rest)
        return (self.projector(hidden[:, tower.prefix : end]), *rest)

    def _read(self, hidden: Tensor, head: Head, size: Tensor | None = None) -> Tensor:
        """What a head reads of the last layer: [B, S, C] -> [B, R, C]

        size: [B, n + h], how many patches each row stands for, in their mean; None for one each
        """
        tokens, tower = hidden.shape[1], self._encoder.tower
        rows = [at % tokens for at in head.rows]
        rows += range(tower.prefix, tokens - tower.suffix) if head.mean else []
        # Taken, so that it moves up through the last layer; a slice alone would not.
        read = hidden if len(rows) == tokens else take(hidden, torch.tensor(rows).expand(hidden.shape[0], -1))
        if not head.mean:
            return read
        special, patches = read[:, : len(head.rows)], read[:, len(head.rows) :]
        if size is None:
            mean = patches.mean(dim=1, keepdim=True)
        else:
            mean = (size / size.sum(dim=1, keepdim=True)).to(read.dtype).unsqueeze(1) @ patches
        return torch.cat((special, mean), dim=1)

    def _grouped(self, patches: Tensor, indices: Tensor) -> Tensor:
        """`arrange` for the kept tokens alone: [B, P, C], [B, K] -> [B, K, g * C]; their patches are taken one by one,
        so that the selection can move up through the layers."""
        if (groups := self._encoder.groups) is None:
            return take(patches, indices)
        if self._encoder.inside is not None:  # in the tower's order of what is left
            groups = torch.arange(groups.shape[1] * self._encoder.candidates).reshape(-1, groups.shape[1])
        rows = lower_take(groups, indices, 0)
        return take(patches, rows.flatten(1)).reshape(*rows.shape[:2], -1)


class _Selector(nn.Module):
    """The method as a module, so that its nodes carry its name in the graph; and the reducer in front of it."""

    reduction: Reducing | None

    def __init__(self, encoder: Encoder, method: Method) -> None:
        super().__init__()
        self._method, self._projector = method, [encoder.projector]  # in a list: its weights belong to the projector
        self._shape = encoder.grid, encoder.tower.prefix, encoder.layer
        self._areas = encoder.areas if encoder.inside is None else _areas(encoder.candidates, encoder.unit)
        self._suffix, self._weighting = encoder.tower.suffix, encoder.weighting
        self._beside, self._prior = [encoder.aligner, encoder.keyer], encoder.prior
        self.scorer = method.scorer

    def forward(
        self,
        attention: dict[int, Attention],
        features: Tensor,
        projected: Tensor,
        pixels: Tensor | None = None,
        rows: Rows | None = None,
        given: Mapping[str, Tensor] = MappingProxyType({}),
        branch: Tensor | None = None,
    ) -> Selection:
        suffix = self._suffix + (0 if rows is None else rows.hidden * rows.unit)
        place = *self._shape, self._areas, self._projector[0], suffix, pixels
        taps = Taps(attention, features, projected, *place, *_of(rows), weighting=self._weighting)
        aligner, keyer = self._beside
        taps = dataclasses.replace(taps, given=given, aligner=aligner, keyer=keyer, branch=branch)
        if self._prior is not None and self._method.traits.masks:
            with barring(given[PRIOR] <= 0):
                return self._method.select(taps)
        chosen = self._method.select(taps)
        if self._prior is None:
            return chosen
        scores = self._prior.ranked(chosen.scores, given[PRIOR])
        indices, picks = ranked_top(scores, self._method.keep)
        return dataclasses.replace(chosen, indices=indices, scores=scores, picks=picks)


class Reducing(nn.Module):
    """The reducer as a module, for the same reason."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        assert encoder.inside is not None
        self._reducer, self._grid, self._tower = encoder.inside.reducer, encoder.grid, encoder.tower

    def forward(
        self,
        step: Step,
        attention: dict[int, Attention],
        patches: Tensor,
        rows: Rows,
        state: Mapping[str, Tensor],
    ) -> Reduction:
        suffix = self._tower.suffix + rows.hidden * rows.unit
        place = self._grid, self._tower.prefix, step.layer, _areas(patches.shape[1], rows.unit)
        before = f"{STATE}{step.layer}."
        own = {name.removeprefix(before): one for name, one in state.items() if name.startswith(before)}
        taps = Taps(attention, patches, patches, *place, nn.Identity(), suffix, None, *_of(rows), state=own)
        return self._reducer.select(step, taps, rows.carried)


def _areas(rows: int, unit: int) -> Tensor | None:
    """[n, n * unit] float32: the share of each patch in its row, where a row has several."""
    return None if unit == 1 else torch.eye(rows).repeat_interleave(unit, dim=1) / unit


def _attention(seen: Recorded, layers: dict[int, nn.Module]) -> dict[int, Attention]:
    """Of the layers that ran so far."""
    return {layer: seen.attention[module] for layer, module in layers.items() if module in seen.attention}


def _output(attention: Attention) -> Tensor:
    assert attention.output is not None
    return attention.output


def _of(rows: Rows | None) -> tuple[Tensor | None, Tensor | None]:
    """names and size of Taps"""
    if rows is None or rows.names is None:
        return None, None
    return rows.names, None if rows.size is None else rows.size[:, : rows.names.shape[1]]


def _handed(encoder: Encoder, method: Method, chosen: Selection, rows: Rows) -> list[Tensor]:
    """What the method says of its choice, in places of the grid: indices, scores, and what else it emits."""
    emitted = chosen.emitted(method.traits.emits)
    if rows.names is None:
        return [chosen.indices.to(torch.int32), chosen.scores, *emitted]
    here = rows.names.unsqueeze(1) == torch.arange(encoder.patches).unsqueeze(-1)  # [B, N, n]
    scores = torch.where(here, chosen.scores.unsqueeze(1), -torch.inf).amax(dim=-1)
    named = [rows.names.gather(1, one.to(torch.int64)).to(torch.int32) for one in (chosen.indices, *emitted)]
    return [named[0], scores, *named[1:]]


def _handed_of_steps(encoder: Encoder, chosen: Selection, rows: Rows) -> list[Tensor]:
    """trail.<layer> and scores.<layer> of each step, origin, if that is asked for, and what goes to the next frame."""
    handed: list[Tensor] = []
    for _, reduction in rows.taken:
        handed += [trail_of(reduction).to(torch.int32), reduction.scores]
    if encoder.inside is not None and encoder.inside.origin:
        assert rows.origin is not None
        handed.append(place_in(chosen.indices, rows.origin).to(torch.int32))
    left = {f"{step.layer}.{name}": one for step, made in rows.taken for name, one in made.state.items()}
    return [*handed, *(left[name] for name in _state(encoder))]
