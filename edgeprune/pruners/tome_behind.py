"""tome_behind: Merge every other patch into the one with the keys most like its own, behind the last layer.

    k       = keys of the last layer in front of the features, mean over heads
    c[a]    = max over b of cos(k_a, k_b)                  a: patches at even places, b: at odd ones
    the r patches a of the highest c join their b, round by round, as many as leave K (`_rounds`); keys, too, become
    means by size
    token   = projector(mean of the features of all patches that went into it)

    score[j] = 2 t + (1 - c_j) / 2        t: rounds that patch j came through; c: its highest cosine in the first one

`--method tome` is the paper's own use of it, inside the encoder. This one leaves every layer as it is, works wherever
a method does, and its projector sees K tokens. Its name is a method's of its own: a method is a file, and a spelling as
`--option place=behind` would have to look into options to know which file is meant.

Paper   https://arxiv.org/abs/2210.09461 (section 3)
Source  the paper's formula; its place behind the encoder is ours
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._rounds import in_rounds, means_of, officially_in_rounds, rounds
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "paper"
    traits: ClassVar[Traits] = Traits(
        reads=("keys", "features"),
        multiply_adds="115.3 M",
        early=False,
        emits=("origin", "order"),
        deviations=(
            "tokens merge behind the last layer alone, in rounds of up to a half; the paper merges some in each layer",
            "keys of merged tokens are the means of their members'; the paper's next layer makes new ones",
            "tokens stay in raster order of the patch that others joined; in the paper those that joined none lead",
            "cosines are float32 in every precision",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "rounds", "merged": rounds(patches, self.keep), "by_size": True}

    def select(self, taps: Taps) -> Selection:
        chosen = in_rounds(taps.keys(), self.keep, by_size=True)
        if chosen.merged is None:
            return chosen
        assert chosen.origin is not None
        return replace(chosen, merge=means_of(chosen.origin, self.keep).to(taps.features.dtype), merged=None)

    def official(self, eager: Eager) -> Selection:
        chosen = officially_in_rounds(eager.keys[:, :, eager.prefix :].mean(dim=1), self.keep, by_size=True)
        assert chosen.origin is not None
        joins = torch.nn.functional.one_hot(chosen.origin, self.keep).to(eager.features.dtype)
        return replace(chosen, merge=(joins / joins.sum(dim=1, keepdim=True)).mT, merged=None)
