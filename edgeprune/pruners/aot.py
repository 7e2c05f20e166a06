"""AOT: anchors from every window of the grid and from the whole image, to which the rest is transported.

    first    = column mean of A^l, l: option `object_layer`         A: attention, mean over heads
    then     = column mean of A of the last layer but one, or of option `last_layer`
    anchors  = K // 2 // windows of the highest `first` of each window, and of the others the highest `then`
    windows  = 9, three by three; where the grid does not divide, the first ones are longer by one
    cost     = 1 - cos(x_i, x_j) + .5 |p_i - p_j|                   x: behind the projector; p: places in 0..1
    plan     = Sinkhorn on exp(-cost / .1): 1 / (N - K) of each dropped i, 1 / K to each anchor j
    token    = .9 (x_j + sum over i of plan_ij x_i) / (1 + 1 / K) + .1 (mean of x_j and of those that are nearest to it)
    score[j] = `then` + 2 of an anchor of a window

Since an anchor gets 1 / K in all, the transport turns a token by a K + 1th: nearly all of it is its own.
Its inter-frame half, whose counts hang on the data, is left out.

Source  TyroneLi/AOT@88455ee LLaVA-NeXT/llava/model/llava_arch.py, encode_images_siglip_OTA,
        window_cls_selection_siglip, token_merging_siglip_with_OTA, Sinkhorn_v1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._loop import State, repeat
from edgeprune.pruners._select import lower_take, ranked_top
from edgeprune.taps import Taps

SIDE = 3
"""windows along each side of the grid"""
NEAR = 0.5
"""of the distance on the grid beside that of a cosine"""
HEAT = 0.1
OWN = 0.9
"""of the transport beside the mean of what is nearest"""
DEPTH = 6 / 26
"""of the layer of `first`: the official code's, of 26 in front of the features"""
TINY = 1e-12
"""what a length of zero is taken for"""


def windows(rows: int, columns: int) -> list[list[int]]:
    """The patches of each window, in raster order.

    >>> windows(2, 4)
    [[0, 1], [2], [3], [4, 5], [6], [7]]
    """
    down, across = (_runs(length, min(SIDE, length)) for length in (rows, columns))
    return [[row * columns + column for row in high for column in wide] for high in down for wide in across]


def _runs(length: int, parts: int) -> list[range]:
    sizes = [length // parts + (part < length % parts) for part in range(parts)]
    return [range(sum(sizes[:part]), sum(sizes[: part + 1])) for part in range(parts)]


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    object_layer: int = 0
    """layer of `first`, from 1; 0: a quarter of the way up, the official 6th of 26"""
    last_layer: int = 0
    """layer of `then`, from 1; 0: the last but one in front of the features"""
    rounds: int = 20
    """of Sinkhorn, 1 or more"""
    written_from: ClassVar[str] = "official code at TyroneLi/AOT@88455ee"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("attention maps of two layers", "projected features"),
        multiply_adds="985 M",
        query_rows=None,
        early=False,
        official_in_onnx=False,
        emits=("picks", "origin"),
        deviations=(
            "Sinkhorn takes a fixed number of rounds; the official code stops where little changes, after 100 at most",
            "windows are the grid's three by three, of any grid; the official code's grids are 27 x 27 and 24 x 24",
            "means, cosines and the transport are float32 in every precision",
            "the half between frames, whose counts hang on the data, is left out",
        ),
    )

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise MethodError(f"option rounds of aot must be 1 or more, got {self.rounds}")

    def layers(self, depth: int) -> tuple[int, ...]:
        for option, layer in (("object_layer", self.object_layer), ("last_layer", self.last_layer)):
            if not 0 <= layer <= depth:
                raise MethodError(f"option {option} of aot must be in 1..{depth}, got {layer}")
        return tuple(sorted({self._first(depth), self._then(depth)}))

    def _first(self, depth: int) -> int:
        """From 0."""
        return (self.object_layer or max(round(DEPTH * depth), 1)) - 1

    def _then(self, depth: int) -> int:
        return self.last_layer - 1 if self.last_layer else max(depth - 2, 0)

    def _each(self, grid: tuple[int, int]) -> int:
        """Anchors of a window."""
        own = windows(*grid)
        return min(self.keep // 2 // len(own), *map(len, own))

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "windows", "whole": True}

    def select(self, taps: Taps) -> Selection:
        own, each = windows(*taps.grid), self._each(taps.grid)
        first, then = taps.column_mean(self._first(taps.depth)), taps.column_mean(self._then(taps.depth))
        number, size = torch.arange(then.shape[1]), max(map(len, own))
        anchors = torch.zeros_like(then, dtype=torch.bool)
        if each:
            # Windows as rows of equal length; a place that a shorter one has too many is never the highest.
            at = torch.tensor([one + one[-1:] * (size - len(one)) for one in own])
            there = torch.tensor([[place < len(one) for place in range(size)] for one in own])
            inside = torch.where(there, first.index_select(1, at.flatten()).reshape(-1, *at.shape), -1.0)
            highest = inside.topk(each, dim=-1).indices.unsqueeze(-1) == torch.arange(size)  # [B, W, each, size]
            named = at.unsqueeze(-1) == number  # [W, size, N]
            anchors = (highest.any(dim=2).unsqueeze(-1) & named).flatten(1, 2).any(dim=1)
        scores = then + 2 * anchors
        indices, picks = ranked_top(scores, self.keep)
        x, here = taps.projected.float(), indices.unsqueeze(-1) == number  # [B, K, N]
        kept = here.any(dim=1)
        if self.keep == x.shape[1]:
            return Selection(indices, scores, merged=taps.projected, picks=picks, origin=indices)
        rows = unit(x)
        similarity = lower_take(rows, indices, 1) @ rows.transpose(1, 2)
        near = similarity.argmax(dim=1)
        joins = ((near.unsqueeze(1) == torch.arange(self.keep).unsqueeze(-1)) & ~kept.unsqueeze(1)).float()
        away = torch.nn.functional.embedding(indices, _distances(*taps.grid))
        plan = self._transport((-(1 - similarity + NEAR * away) / HEAT).exp() * (~kept).unsqueeze(1), kept)
        moved = OWN / (1 + plan.sum(dim=-1, keepdim=True)) * (here + plan)
        merge = moved + (1 - OWN) / (1 + joins.sum(dim=-1, keepdim=True)) * (here + joins)
        origin = torch.where(kept, here.float().argmax(dim=1), near)
        merged = (merge @ x).to(taps.projected.dtype)
        return Selection(indices, scores, merged=merged, picks=picks, origin=origin)

    def _transport(self, heat: Tensor, kept: Tensor) -> Tensor:
        """heat: [B, K, N], 0 of kept patches -> the plan, [B, K, N]"""
        keep, patches = heat.shape[1:]

        def step(carry: State, _: Tensor | int) -> tuple[State, Tensor]:
            reached = (carry[1].unsqueeze(1) @ heat).squeeze(1)
            out = torch.where(kept, 0.0, 1 / (patches - keep) / torch.where(kept, 1.0, reached))
            into = 1 / keep / (heat @ out.unsqueeze(-1)).squeeze(-1)
            return (out, into), into[:, 0]

        (out, into), _ = repeat(step, (heat[:, 0] * 0, heat[:, :, 0] * 0 + 1), self.rounds)
        return into.unsqueeze(-1) * heat * out.unsqueeze(1)

    def official(self, eager: Eager) -> Selection:
        rows, columns = eager.grid
        depth, patches = len(eager.attentions), rows * columns
        first, then = (
            eager.attentions[layer].mean(dim=(1, 2))[:, eager.prefix : eager.prefix + patches]
            for layer in (self._first(depth), self._then(depth))
        )
        window = torch.tensor([[row * columns + column for column in range(columns)] for row in range(rows)])
        parts = [part for high in window.tensor_split(min(3, rows)) for part in high.tensor_split(min(3, columns), 1)]
        flat = [part.flatten() for part in parts]
        local = min(self.keep // 2 // len(flat), min(len(one) for one in flat))
        place = torch.stack([torch.tensor(divmod(one, columns)) for one in range(patches)]).double()
        place = place / torch.tensor([max(rows - 1, 1), max(columns - 1, 1)])
        x = eager.projected.double()
        chosen, merged, origins, marks = [], [], [], torch.zeros_like(then)
        for image, tokens in enumerate(x):
            anchors = [one[first[image, one].topk(local).indices] for one in flat] if local else []
            for one in anchors:
                marks[image, one] = 2
            rest = then[image].masked_fill(marks[image] > 0, -1).topk(self.keep - local * len(anchors)).indices
            kept = torch.cat([*anchors, rest]).sort().values
            gone = torch.tensor([one for one in range(patches) if one not in kept.tolist()], dtype=torch.int64)
            origin = torch.zeros(patches, dtype=torch.int64)
            origin[kept] = torch.arange(self.keep)
            mixed = tokens[kept]
            if len(gone):
                cosine = torch.nn.functional.cosine_similarity(tokens[gone, None], tokens[kept], dim=2)
                origin[gone] = cosine.argmax(dim=1)
                heat = torch.exp(-(1 - cosine + 0.5 * torch.cdist(place[gone], place[kept])) / 0.1)
                c = torch.ones(self.keep, dtype=x.dtype)
                for _ in range(self.rounds):
                    r = 1 / len(gone) / (heat @ c)
                    c = 1 / self.keep / (r @ heat)
                plan = r[:, None] * heat * c
                moved = (mixed + plan.mT @ tokens[gone]) / (1 + plan.sum(dim=0)[:, None])
                counts = torch.bincount(origin[gone], minlength=self.keep)[:, None]
                nearest = mixed.index_add(0, origin[gone], tokens[gone]) / (1 + counts)
                mixed = 0.1 * nearest + 0.9 * moved
            chosen.append(kept)
            merged.append(mixed)
            origins.append(origin)
        scores, of_window = then + marks, torch.zeros(patches)
        for at, one in enumerate(flat):
            of_window[one] = at
        unit = eager.projected / eager.projected.norm(dim=2, keepdim=True).clamp(min=1e-12)
        return Selection(
            torch.stack(chosen),
            scores,
            merged=torch.stack(merged).to(eager.projected.dtype),
            picks=scores.topk(self.keep, dim=1).indices,
            origin=torch.stack(origins),
            quantities={
                "first": first,
                "window": of_window.repeat(len(x), 1),
                "similarity": torch.bmm(unit, unit.mT),
            },
        )


def _distances(rows: int, columns: int) -> Tensor:
    """How far patches stand apart on a grid that is 1 high and wide: [N, N]"""
    down, across = torch.linspace(0, 1, rows), torch.linspace(0, 1, columns)
    places = torch.stack((down.repeat_interleave(columns), across.repeat(rows)), dim=-1)
    apart: Tensor = torch.linalg.vector_norm(places.unsqueeze(1) - places, dim=-1)
    return apart
