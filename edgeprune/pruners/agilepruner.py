"""agilepruner: Keep the patches that [CLS] attends to, each further from those before it, the richer the image is.

    a      = mean over heads of A[cls, j]               A: attention of the layer that produces the features
    C      = cos(h_i, h_j)                               h: in front of the projector
    rank   = N^2 / sum of C^2                            participation ratio: how many directions the patches share
    t-th   = the highest a of those with 1 - C >= tau_s to the s-th pick, for every pick s before it
             tau_s = min(most, .01 s rank / average)     average: of rank over images
    then   = where there is none left, the highest a of all that are

    score[j] = a_j + 4 of a patch that was picked while there was room, + 2 of one that fills the budget up

`average` is taken of images at export (drawn scenes, or --calibrate DIR) and kept in the manifest; 0 takes every image
for an average one. Kept sets nest; the scores say which patches had room, and do not.

The paper has the entropy of singular values for the rank, and publishes neither the average nor `most`; this is ours in
its spirit, on numbers of our own.

Source  ours, after a description of the paper by third parties; no code is public (cvsp-lab/AgilePruner@3df95a3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

STEP = 0.01
"""by how much each pick wants more room than the one before, on an average image"""
BEHIND = 1.0
"""what sets patches without room back: no attention is above"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    average: float = 0.0
    """of the participation ratio; 0: taken of images at export"""
    most: float = 0.95
    """the room that a pick wants at most, in 1 - cosine: above 0, at most 2"""
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="255 M",
        early=False,
        calibrates=(("average", "rank"),),
        deviations=(
            "a participation ratio in place of the entropy of singular values, which are not in ONNX",
            "the number of tokens is fixed: where none has room, the highest attention fills up",
            "the average is taken of images of one's own, and the most is a third party's guess; neither is published",
        ),
    )

    def __post_init__(self) -> None:
        if not self.average >= 0:
            raise MethodError(f"option average of agilepruner must be 0 or more, got {self.average:g}")
        if not 0 < self.most <= 2:
            raise MethodError(f"option most of agilepruner must be above 0 and at most 2, got {self.most:g}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "spaced", "average": self.average, "most": self.most, "step": STEP}

    def select(self, taps: Taps) -> Selection:
        attended = taps.cls_attention().mean(dim=1)
        alike = cosine(taps.features)
        reach = torch.full_like(attended[:, :1], STEP)
        if self.average:
            patches = alike.shape[-1]
            reach = reach * patches**2 / (alike * alike).sum(dim=(1, 2)).unsqueeze(-1) / self.average
        chosen = greedy(
            alike,
            attended.clone(),
            (attended * 0 - 1,),
            gain=lambda state: torch.where(state[0] > 0, attended - BEHIND, attended),
            update=lambda state, pick: (
                torch.maximum(state[0], pick.row - 1 + (reach * (pick.step + 1)).clamp(max=self.most)),
            ),
            keep=self.keep,
        )
        gained = chosen.scores
        tier = 2 * (gained > -torch.inf).float() + 2 * (gained > -BEHIND / 2).float()
        return Selection(chosen.indices, attended + tier, picks=chosen.picks)

    def official(self, eager: Eager) -> Selection:
        h = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = torch.bmm(h, h.mT)
        rank = similarity.shape[1] ** 2 / similarity.square().sum(dim=2).sum(dim=1)
        attention = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        images, scores = [], attention.clone()
        for image, (row, near) in enumerate(zip(attention, similarity, strict=True)):
            share = float(rank[image]) / self.average if self.average else 1.0
            left = row.argsort(descending=True).tolist()
            kept: list[int] = []
            room = torch.ones(len(row), dtype=torch.bool)
            for at in left:  # in the order of attention, as long as there is room
                if len(kept) == self.keep:
                    break
                if room[at]:
                    kept.append(at)
                    room &= 1 - near[at] >= min(self.most, STEP * len(kept) * share)
            filled = [at for at in left if at not in kept][: self.keep - len(kept)]
            scores[image, kept] += 4
            scores[image, filled] += 2
            images.append(torch.tensor(kept + filled))
        picks = torch.stack(images)
        quantities = {"similarity": similarity, "rank": rank[:, None]}
        return Selection(picks.sort(dim=1).values, scores, picks=picks, quantities=quantities)
