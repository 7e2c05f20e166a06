"""Codecsight: keep the patches that moved since the last I-frame, and others evenly; the encoder sees no more.

    score[j] = p_j / max p + d_j / 16      where p_j > 0      p: the prior; d: an order of the grid's patches, in (0, 1]
    score[j] = (d_j - 1) / 16              elsewhere          the K highest are kept

No layer runs on the others. `edgeprune.runtime.priors.moving` makes the prior of a video's motion vectors: the longest
since the last I-frame, of a patch, or of a group of patches that becomes one token. Those that moved come first; what
they leave of the budget goes to the others by their place, so that no part of the image is left out; of equals the
place decides. CodecSight encodes an I-frame whole and of later ones what moved, so many as there are; here the count is
static, and an I-frame is for a graph of its own (`none`). Its cache of keys and values is not here.

Source  ours, after a summary of https://arxiv.org/abs/2604.06036
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.ports import PRIOR, Port, prior_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._dither import PLASTIC, dither
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

SPREAD = 1 / 16
"""what a place counts beside the largest motion"""
TINY = 1e-12
"""what a prior of nothing is taken for"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(inside=True)

    @property
    def ports(self) -> tuple[Port, ...]:
        return (prior_port("how far it moved since the last I-frame; 0: kept by its place alone"),)

    def steps(self, depth: int) -> tuple[int, ...]:
        return (0,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk"}

    def select(self, taps: Taps) -> Selection:
        prior = taps.given[PRIOR]
        moved = prior / prior.amax(dim=-1, keepdim=True).clamp_min(TINY)
        scores = torch.where(prior > 0, moved, -SPREAD) + SPREAD * dither(*taps.grid)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        prior, (rows, columns) = eager.given[PRIOR], eager.grid
        every = range(rows * columns)
        turn = sorted(every, key=lambda at: math.modf(at // columns / PLASTIC**2 + at % columns / PLASTIC)[0])
        late = torch.tensor([turn.index(at) + 1 for at in every]) / (16 * rows * columns)
        largest = prior.max(dim=1, keepdim=True).values.clamp(min=1e-12)
        score = (prior > 0).float() * (prior / largest + 1 / 16) + late - 1 / 16
        chosen = score.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, score, picks=chosen)
