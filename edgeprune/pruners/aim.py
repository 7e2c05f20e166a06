"""AIM: merge every other token into the one most like it, halving their number in each round. Its first half.

    a, b    = the tokens at even and at odd places                               x: behind the projector
    nearest = argmax over b of cos(x_a, x_b), for each of a
    the r of a with the highest cosine join their b, which becomes the mean of itself and all that join it (`_rounds`)

A later round compares tokens that are merged already: there a near tie turns everything behind it.

Paper   https://arxiv.org/abs/2412.03248
Source  LaVi-Lab/AIM@edc24e9 llava/model/token_merge.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._rounds import in_rounds, officially_in_rounds, rounds
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at LaVi-Lab/AIM@edc24e9"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="902.4 M",
        early=False,
        emits=("origin", "order"),
        deviations=(
            "any K, by a last round that merges fewer; the official code has two rounds of one half",
            "tokens stay in raster order of the patch that others joined; the official code puts those that joined "
            "nothing first, by similarity",
            "cosines are float32 in every precision; the official code has them in the model's dtype",
            "the second half, inside the language model, is left out",
        ),
    )

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "match", "form": "rounds", "merged": rounds(patches, self.keep)}

    def select(self, taps: Taps) -> Selection:
        chosen = in_rounds(taps.projected.float(), self.keep)
        return chosen if chosen.merged is None else replace(chosen, merged=chosen.merged.to(taps.projected.dtype))

    def official(self, eager: Eager) -> Selection:
        return officially_in_rounds(eager.projected, self.keep)
