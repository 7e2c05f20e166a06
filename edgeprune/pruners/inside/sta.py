"""STA: of a frame of a video go on the rows that say what is new and what matters, by the frame before.

    A     = softmax over i of cos(k_i, k'_j)            k: keys of the layer in front of the step, mean over heads; k',
                                                        u': of the frame before, at the same step
    u_i   = sum over j of A[i, j] u'_j                  how much of what was seen comes again
    m_i   = (|x_i|_1 - min) / (max - min)               x: the rows in front of the step
    score[i] = -n u_i (1 - m_i)
    u     <- u / sum of u over the rows that go on, 0 of the others, for the next frame

Of the first frame score[a] = 1 - max over b of cos(k_a, k_b) and score[b] = 4, a: rows at even places, b: at odd ones,
and u = 1 / n: the most similar of a go. Its state, of each step: `keys` [n, d] and `seen` [n], u; all 0 in front of the
first frame.

The paper takes all frames of a clip together, and prunes behind a sixth, a half and five sixths of the layers, as many
rows of each frame at each of the three places: give these as --schedule, or --encoder-cost.

Paper   https://arxiv.org/abs/2308.04549
Source  Mark12Ding/STA@faf10be model_vit.py (merge)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.pruners import inside
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import in_turns
from edgeprune.taps import Taps

STAYS = 4.0
"""score of the rows at odd places of a first frame, above every 1 - cosine"""
FLAT = 1e-2
"""the share of the longest row that the spread of lengths is taken for at least, so that equal ones give no noise"""


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    bias: bool = False
    written_from: ClassVar[str] = "official code at Mark12Ding/STA@faf10be"
    merges: ClassVar[bool] = False
    most: ClassVar[float] = 0.5
    depths: ClassVar[tuple[float, ...]] = (0.05, 0.4, 0.75)
    few: ClassVar[bool] = False
    deviations: ClassVar[tuple[str, ...]] = (
        "frames come one by one and lead on in one direction; the official code has the clip whole, takes every second "
        "stage backwards, and pairs of frames as one",
        "rows stay in raster order; the official code puts those of a low score first",
        f"the spread of lengths is taken as {FLAT:g} of the longest at least where it divides",
        "scores and state are float32 in every precision",
    )

    @property
    def early(self) -> bool:
        return False  # it reads what the layer in front of the step makes of all rows

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "topk"}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        each, even = width // heads, rows - rows // 2
        return (rows * rows + even * (rows // 2)) * each + rows * rows

    def state(self, step: Step, rows: int, width: int) -> Mapping[str, tuple[int, ...]]:
        return {"keys": (rows, width), "seen": (rows,)}

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        keys, before, seen = unit(taps.keys()), taps.state["keys"], taps.state["seen"]
        count = keys.shape[1]
        even, odd = keys[:, 0::2], keys[:, 1::2]
        apart = 1 - (even @ odd.transpose(1, 2)).amax(dim=-1)
        alone = in_turns(apart, torch.full_like(apart[:, : odd.shape[1]], STAYS))
        moved = (keys @ before.transpose(1, 2)).softmax(dim=1)
        again = (moved @ seen.unsqueeze(-1)).squeeze(-1)
        length = taps.features.float().abs().sum(dim=-1)
        low, high = length.amin(dim=-1, keepdim=True), length.amax(dim=-1, keepdim=True)
        matters = (length - low) / torch.maximum(high - low, FLAT * high).clamp_min(1e-12)
        first = seen.amax(dim=-1, keepdim=True) <= 0
        scores = torch.where(first, alone, -count * again * (1 - matters))
        rows = top_in_order(scores, step.keep)
        stays = (rows.unsqueeze(-1) == torch.arange(count)).any(dim=1)
        share = torch.where(first, torch.ones_like(again), stays * again)
        state = {"keys": keys, "seen": share / share.sum(dim=-1, keepdim=True)}
        return Reduction(rows, scores, state=state)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        metric = torch.nn.functional.normalize(eager.keys[:, :, eager.prefix :].mean(dim=1), dim=2)
        chosen, scores, shares = [], [], []
        for image, m in enumerate(metric):
            before, prior = eager.state["keys"][image], eager.state["seen"][image]
            if prior.any():
                caam = eager.features[image].norm(p=1, dim=1)
                spread = max(float(caam.max() - caam.min()), FLAT * float(caam.max()), 1e-12)
                s_agg = torch.mm(torch.mm(m, before.mT).softmax(dim=0), prior[:, None])[:, 0]
                score = -len(m) * s_agg * (1 - (caam - caam.min()) / spread)
            else:
                s_agg = torch.ones(len(m))
                score = torch.full((len(m),), STAYS)
                score[::2] = 1 - torch.mm(m[::2], m[1::2].mT).max(dim=1).values
            kept = score.topk(step.keep).indices.sort().values if rows is None else rows[image]
            gone = torch.ones(len(m)).index_fill(0, kept, 0.0)
            left = s_agg * (1 - gone) if prior.any() else s_agg
            chosen.append(kept)
            scores.append(score)
            shares.append(left / left.sum())
        state = {"keys": metric, "seen": torch.stack(shares)}
        return Reduction(torch.stack(chosen), torch.stack(scores), state=state)
