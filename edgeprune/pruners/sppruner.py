"""Sppruner: keep what is salient and asked for, its surroundings, and of the others what is most of both.

    a[j]     = mean over heads of A[cls, j]              A: attention of the layer that produces the features
    s[j]     = a[j] exp((min c - c[j]) / .1)      c[j] = cos(v_j, t)      v: features in CLIP's joint space; t: the text
    focus    = the K / 5 patches, rounded down, with the highest s; and the four that touch each of them
    score[j] = s[j], plus 2 of the focus; the K highest are kept

Without a text s is a. Patches that are least like it count most, as in `cdpruner`. Of SPpruner an abstract alone is
known: a focus by saliency and relevance, then a scan of its neighbourhood; how both are measured and joined is ours.
Stretched from 0 to 1, relevance would be noise where patches are nearly alike; an exponential is as exact as a cosine.

Source  ours, after the abstract of https://arxiv.org/abs/2605.20950
        Theia-4869/CDPruner@9541616, of the text; Danielement321/HiPrune@6e83a12, of the surroundings
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.ports import ALIGNED, TEXT, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._anchors import surrounded, surrounded_as_published
from edgeprune.pruners._greedy import unit
from edgeprune.taps import Taps

WARM = 0.1
"""what a cosine has to rise by for a patch to count 1 / e"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(
        whole_grid=True,
        reads=("[CLS] attention", "features"),
        multiply_adds="1 M",
        query_rows=1,
        early=False,
        asks=True,
    )

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(ALIGNED),)

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "stages", "anchors": self.keep // 5}

    def select(self, taps: Taps) -> Selection:
        attended, v, text = taps.cls_attention().mean(dim=1), taps.aligned().float(), taps.given[TEXT]
        likeness = (unit(v) @ unit(text).unsqueeze(-1)).squeeze(-1)
        wanted = ((likeness.amin(dim=-1, keepdim=True) - likeness) / WARM).exp()
        scores = attended * wanted
        return surrounded(scores, scores, self.keep // 5, self.keep, taps.grid, "grid")

    def official(self, eager: Eager) -> Selection:
        saliency = eager.attentions[-1][:, :, 0, eager.prefix :].sum(dim=1) / eager.attentions[-1].shape[1]
        likeness = torch.nn.functional.cosine_similarity(eager.aligned, eager.given[TEXT][:, None], dim=2, eps=1e-24)
        least = likeness.min(dim=1, keepdim=True).values
        focus = saliency / torch.exp((likeness - least) * 10)
        return surrounded_as_published(focus, focus, self.keep // 5, self.keep, eager.grid, "grid")
