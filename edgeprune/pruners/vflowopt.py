"""VFlowOpt: keep what the most attended patches attend to, and recycle the rest as one token for each cell.

    A         = attention of the layer that produces the features, mean over heads, among patches
    r[j]      = mean over i of A[i, j]
    context   = patches with r[j] > threshold x mean of r; where there is none, the one of the highest r
    map[j]    = mean over i of the context of A[i, j]
    kept      = K - R of the highest map; of what they leave in each of R cells of the grid the highest, too
    token     = x_j; in a cell the mean of all that is left there, weighed by the map         x: behind the projector
    score[j]  = map + 4 of a kept patch, + 2 of a cell's

R = cells x cells. Where a cell has nothing left, the next highest of the map is kept in its place; a K of R or less has
no cells. Its first stage alone: the others are inside the language model.

Source  sihany077/VFlowOpt@129eeef src/LLaVA-OneVision/llava/model/multimodal_encoder/siglip_encoder.py (the map),
        llava/model/language_model/llava_qwen_training_free.py (what is merged); its licence is non-commercial: the
        mathematics only. The fixed count is ours
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

TINY = 1e-20
"""what a weight of zero is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    threshold: float = 28.7
    """times the mean that a patch of the context receives, 0 or more; published for half of them"""
    cells: int = 2
    """along each side of the grid, 0 or more; 0: what is left is gone"""
    written_from: ClassVar[str] = "official code at sihany077/VFlowOpt@129eeef"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("attention map, query by query", "projected features"),
        multiply_adds="513.5 M",
        query_rows=None,
        early=False,
        emits=("picks", "origin", "order"),
        deviations=(
            "a fixed count, ours: K - R by the map, and one token for each of R cells; in the official code as many as "
            "cells of a searched size hold something, beside a count of its own",
            "where no patch receives as much as the threshold, the one that receives the most is the context; the "
            "official code has no map then",
            "the entropy of pixels is left out: its weight is 0 in the released configurations",
            "the later stages, inside the language model, are left out",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < float("inf"):
            raise MethodError(f"option threshold of vflowopt must be 0 or more, got {self.threshold}")
        if self.cells < 0:
            raise MethodError(f"option cells of vflowopt must be 0 or more, got {self.cells}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    @property
    def _recycled(self) -> int:
        return self.cells**2 if self.cells**2 < self.keep else 0

    def _cells(self, grid: tuple[int, int]) -> list[int]:
        """Of each patch the cell that it lies in."""
        rows, columns = grid
        return [
            row * self.cells // rows * self.cells + column * self.cells // columns
            for row in range(rows)
            for column in range(columns)
        ]

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "recycled", "recycled": self._recycled, "threshold": self.threshold}

    def select(self, taps: Taps) -> Selection:
        seen = taps.attention_map()
        received = seen.mean(dim=1)
        context = received > self.threshold * received.mean(dim=-1, keepdim=True)
        alone = (received == received.amax(dim=-1, keepdim=True)) & ~context.any(dim=-1, keepdim=True)
        context = context | (alone & (alone.int().cumsum(dim=-1) == 1))
        weight = context.float()
        attended = (weight.unsqueeze(1) @ seen).squeeze(1) / weight.sum(dim=-1, keepdim=True)
        patches, x = attended.shape[1], taps.projected
        number = torch.arange(patches, dtype=torch.float32)
        lead = attended.topk(self.keep - self._recycled, dim=-1).indices.unsqueeze(-1) == torch.arange(patches)
        scores, leads = attended, lead.any(dim=1)
        stands = torch.zeros_like(leads)
        cell = torch.tensor(self._cells(taps.grid) if self._recycled else [0] * patches)
        if self._recycled:
            inside = (cell == torch.arange(self._recycled).unsqueeze(-1)) & ~leads.unsqueeze(1)  # [B, R, N]
            value = torch.where(inside, attended.unsqueeze(1), -1.0)
            highest = inside & (value == value.amax(dim=-1, keepdim=True))
            first = torch.where(highest, number, float(patches)).amin(dim=-1, keepdim=True)
            stands = (highest & (number == first)).any(dim=1)
        scores = attended + 4 * leads + 2 * stands
        indices, picks = ranked_top(scores, self.keep)
        here = indices.unsqueeze(-1) == torch.arange(patches)  # [B, K, N]
        kept = here.any(dim=1)
        cells = (here & stands.unsqueeze(1)).float()
        same = (cell.unsqueeze(-1) == cell).float()
        joins = (cells @ same > 0) & ~kept.unsqueeze(1)
        share = (cells + joins.float()) * attended.clamp_min(TINY).unsqueeze(1)
        of_cell = cells.sum(dim=-1, keepdim=True) > 0
        merge = torch.where(of_cell, share / share.sum(dim=-1, keepdim=True).clamp_min(TINY), here.float())
        member = here | joins
        origin = torch.where(member.any(dim=1), member.float().argmax(dim=1), -1)
        merged = merge.to(x.dtype) @ x
        return Selection(indices, scores, merged=merged, picks=picks, origin=origin, order=context.to(torch.int64))

    def official(self, eager: Eager) -> Selection:
        inside = eager.attentions[-1].mean(dim=1)[:, eager.prefix :, eager.prefix :]
        count = eager.projected.shape[1]
        seen = inside[:, :, :count] if eager.areas is None else eager.areas @ inside[:, :, :count]
        seen = seen[:, :count]
        cell = torch.tensor(self._cells(eager.grid)) if self._recycled else torch.full((count,), -1)
        names, scores, tokens, origins, contexts, picks = [], [], [], [], [], []
        for image, rows in enumerate(seen):
            gets = rows.mean(dim=0)
            query = (gets > self.threshold * gets.mean()).nonzero().flatten()
            if not len(query):
                query = gets.argmax().reshape(1)
            attended = rows[query].mean(dim=0)
            order = attended.argsort(descending=True)
            score, x = attended.clone(), eager.projected[image]
            score[order[: self.keep - self._recycled]] += 4
            left = order[self.keep - self._recycled :]
            groups = {}
            for at in range(self._recycled):
                if len(group := left[cell[left] == at]):
                    groups[int(group[0])] = group
                    score[group[0]] += 2
            pick = score.argsort(descending=True)[: self.keep]
            kept = pick.sort().values.tolist()
            origin, rest = torch.full((count,), -1), []
            for place, patch in enumerate(kept):
                group = [patch]
                if patch in groups:
                    group += [one for one in groups[patch].tolist() if one not in kept]
                weight = attended[group].clamp(min=1e-20)
                rest.append((weight / weight.sum()) @ x[group])
                origin[group] = place
            names.append(torch.tensor(kept))
            scores.append(score)
            tokens.append(torch.stack(rest))
            origins.append(origin)
            contexts.append(torch.zeros(count, dtype=torch.int64).index_fill(0, query, 1))
            picks.append(pick)
        return Selection(
            torch.stack(names),
            torch.stack(scores),
            merged=torch.stack(tokens).to(eager.projected.dtype),
            picks=torch.stack(picks),
            origin=torch.stack(origins),
            order=torch.stack(contexts),
            quantities={"map": seen, "cell": cell.float().repeat(len(seen), 1)},
        )
