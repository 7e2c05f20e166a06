"""Steps inside the encoder as the reference takes them: by itself, with eager maps, or as a device took them.

x' = W x for every step, W as it is written down: rows of 0 and 1 for what is taken, shares by size for what becomes
one.
Nothing is shared with `edgeprune.shortening`, which the trace runs on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import Recorded
from edgeprune.pruners import Eager, Selection
from edgeprune.schedule import Reduction, Step

__all__ = ["Steps", "Taken"]

Taken: TypeAlias = "tuple[Tensor, Tensor]"
"""of a step with n rows and h hidden ones in front of it: [B, n + h] int64, the row behind it that each one is part of,
-1 for none; [B, n] float32, what the rows were ranked by"""


class Steps:
    """Inside the block the tower of the encoder goes on behind each step with what becomes of its rows.

    seen: the recorded, written-out attention of all layers
    forced: by layer, what is done at its step whatever the reducer would do
    before: `<layer>.<name>` -> [B, ...], what the frame before left; what is not there is 0
    """

    def __init__(
        self,
        encoder: Encoder,
        seen: Recorded,
        forced: Mapping[int, Taken] | None = None,
        before: Mapping[str, Tensor] | None = None,
    ) -> None:
        assert encoder.inside is not None
        self._encoder, self._inside, self._seen, self._forced = encoder, encoder.inside, seen, forced or {}
        self.names = torch.empty(0)
        """[B, n] int64"""
        self.taken: dict[int, Taken] = {}
        self.quantities: dict[str, Tensor] = {}
        self.kept: list[Tensor] = []
        """for the next frame, step by step"""
        self._before = dict(before or {})
        self._unit = encoder.unit
        self._size = torch.empty(0)
        self._hidden = 0
        self._mixes: list[Tensor] = []
        self._carried: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Steps:
        for step in self._inside.steps:
            block = self._encoder.tower.blocks[step.layer]
            self._handles.append(
                block.register_forward_pre_hook(lambda _, given, step=step: (self._short(step, given[0]), *given[1:]))
            )
        if self._encoder.tower.rotary:
            for block in self._encoder.tower.blocks:
                self._handles.append(block.register_forward_pre_hook(self._turn, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def rows(self, hidden: Tensor) -> Tensor:
        """[B, S, C] -> [B, n, unit * C], what a method may choose of."""
        tower = self._encoder.tower
        patches = hidden[:, tower.prefix : hidden.shape[1] - tower.suffix - self._hidden * self._unit]
        batch, count, width = patches.shape
        return patches.reshape(batch, count // self._unit, self._unit * width)

    def mean(self, hidden: Tensor) -> Tensor:
        """[B, S, C] -> [B, C], of all patches: each row as often as it stands for patches."""
        tower = self._encoder.tower
        rows = hidden[:, tower.prefix : hidden.shape[1] - tower.suffix]
        return torch.einsum("bn,bnc->bc", self._size, rows) / self._size.sum(dim=1)[:, None]

    def as_last(self, hidden: Tensor) -> Tensor:
        """Hidden states of an earlier layer, with the rows of the last one."""
        for mix in self._mixes:
            if hidden.shape[1] == mix.shape[2]:
                hidden = torch.bmm(mix, hidden)
        return hidden

    def eager(self, layer: int, features: Tensor, projected: Tensor, projector: nn.Module) -> Eager:
        """What an official form reads behind so many layers; of maps in front of the last step, rows that are gone."""
        tower = self._encoder.tower
        rows = features.shape[1]
        modules = tower.attention[:layer]
        seen = [self._seen.attention[module] for module in modules]
        return Eager(
            [self._columns(self._seen.maps[module], rows, 3) for module in modules],
            features,
            projected,
            self._encoder.grid,
            tower.prefix,
            self._columns(seen[-1].key, rows, 2),
            projector,
            values=[self._columns(one.value, rows, 2) for one in seen if one.value is not None],
            names=self.names,
            size=self._size[:, : features.shape[1]],
            hidden=self._hidden,
        )

    def named(self, chosen: Selection, emitted: Sequence[str]) -> list[Tensor]:
        """indices, scores and what else a method emits, in places of the grid."""
        scores = torch.full((len(self.names), self._encoder.patches), -torch.inf)
        named = [self.names.gather(1, one.to(torch.int64)) for one in (chosen.indices, *chosen.emitted(emitted))]
        first, *others = (one.to(torch.int32) for one in named)
        return [first, scores.scatter(1, self.names, chosen.scores), *others]

    def origin(self, kept: Tensor) -> Tensor:
        """[B, N] int32: which of the kept rows each patch went to, -1 for none; kept: [B, K] int64, ascending."""
        row = torch.arange(self._encoder.patches).repeat(len(kept), 1)
        for trail, _ in self.taken.values():
            row = torch.where(row < 0, row, trail.gather(1, row.clamp(min=0)))
        place = torch.full((len(kept), self.names.shape[1] + self._hidden), -1)
        place.scatter_(1, kept, torch.arange(kept.shape[1]).repeat(len(kept), 1))
        return torch.where(row < 0, row, place.gather(1, row.clamp(min=0))).to(torch.int32)

    def _short(self, step: Step, hidden: Tensor) -> Tensor:
        encoder, tower = self._encoder, self._encoder.tower
        if not self.taken:
            patches = torch.arange(encoder.patches)
            self.names, self._size = patches.repeat(len(hidden), 1), torch.ones(len(hidden), encoder.patches)
        features = self.rows(hidden)
        eager = self.eager(step.layer, features, features, nn.Identity())
        eager = dataclasses.replace(eager, state=self._state(step, len(hidden), features.shape[1]))
        forced = self._forced.get(step.layer)
        rows = None if forced is None else _went_on(*forced, step.keep)
        reduction = self._inside.reducer.official(step, eager, self._carried, rows)
        trail = _trail(reduction, self._size.shape[1]) if forced is None else forced[0]
        mix, size = _mix(reduction, trail, self._size)
        self.taken[step.layer] = trail, reduction.scores
        self.quantities |= {f"{step.layer}.{name}": value for name, value in reduction.quantities.items()}
        self.kept += reduction.state.values()
        self._carried = {name: value.gather(1, reduction.rows) for name, value in reduction.carried.items()}
        self.names = self.names.gather(1, reduction.rows)
        self._size, self._hidden = size, reduction.hidden
        ends = torch.ones(len(hidden), tower.prefix + tower.suffix)
        if self._inside.reducer.bias:
            every = size.repeat_interleave(self._unit, dim=1)
            weight = torch.cat((ends[:, : tower.prefix], every, ends[:, tower.prefix :]), dim=1)
            self._seen.bias = weight.log()[:, None, None]
        mix = torch.stack([torch.kron(one, torch.eye(self._unit)) for one in mix])
        front, back = tower.prefix, tower.prefix + mix.shape[1]
        whole = torch.zeros(len(mix), back + tower.suffix, hidden.shape[1])
        whole[:, :front, :front] = torch.eye(tower.prefix)
        whole[:, front:back, front : front + mix.shape[2]] = mix
        whole[:, back:, front + mix.shape[2] :] = torch.eye(tower.suffix)
        self._mixes.append(whole)
        return torch.bmm(whole, hidden)

    def _state(self, step: Step, images: int, rows: int) -> dict[str, Tensor]:
        tower = self._encoder.tower
        shapes = self._inside.reducer.state(step, rows, tower.width // tower.heads)
        zeros = {name: torch.zeros(images, *shape) for name, shape in shapes.items()}
        return {name: self._before.get(f"{step.layer}.{name}", zero) for name, zero in zeros.items()}

    def _columns(self, x: Tensor, rows: int, dim: int) -> Tensor:
        """Special tokens in front and rows, the mean of their patches each, along a dimension; the rest is left out."""
        last, prefix = x.movedim(dim, -1), self._encoder.tower.prefix
        patches = last[..., prefix : prefix + rows * self._unit].unflatten(-1, (rows, self._unit))  # type: ignore[no-untyped-call]
        return torch.cat((last[..., :prefix], patches.mean(dim=-1)), dim=-1).movedim(-1, dim)

    def _turn(self, _: Any, given: Any, named: dict[str, Any]) -> tuple[Any, Any]:
        """Rotary positions of the rows that there are; none for those that are attended to only."""
        if not self.taken:
            return given, named
        turned = []
        for table, still in zip(named["position_embeddings"], (1.0, 0.0), strict=True):
            units = table.unflatten(0, (-1, self._unit))
            images = [units[names].flatten(0, 1) for names in self.names]
            rest = torch.full((self._hidden * self._unit, table.shape[1]), still)
            turned.append(torch.stack([torch.cat((image, rest)) for image in images])[:, None])
        single = len(self.names) == 1
        return given, {**named, "position_embeddings": tuple(one[0, 0] if single else one for one in turned)}


def _went_on(trail: Tensor, scores: Tensor, keep: int) -> Tensor:
    """[B, keep] int64: of the rows that became one, the one of the highest score; the first of equal ones."""
    members = trail[:, None, : scores.shape[1]] == torch.arange(keep)[:, None]
    return torch.where(members, scores[:, None], -torch.inf).max(dim=2).indices


def _trail(reduction: Reduction, count: int) -> Tensor:
    if reduction.into is not None:
        return reduction.into
    gone = torch.full((len(reduction.rows), count), -1)
    return gone.scatter(1, reduction.rows, torch.arange(reduction.rows.shape[1]).repeat(len(gone), 1))


def _mix(reduction: Reduction, trail: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """[B, K + hidden, n + h], what each row is a sum of, and [B, K + hidden], how many patches it stands for."""
    places = reduction.rows.shape[1] + reduction.hidden
    shares = torch.stack([(trail == at) * size for at in range(places)], dim=1)
    total = shares.sum(dim=2)
    means = torch.where(total[:, :, None] > 0, shares / total[:, :, None], 0.0)  # 0 of a hidden row of nothing
    mix = means if reduction.weights is None else reduction.weights
    return mix, total if reduction.size is None else reduction.size
