"""Random: keep the same patches of every image, drawn once. What a method must beat to have chosen anything.

    score[j] = 1 - place[j] / N        place: where j stands in a shuffle of the patches, by option seed

The shuffle is written into the graph. A smaller budget keeps a subset of a larger one.

Source  the usual baseline, as in table 5 of https://arxiv.org/abs/2508.00553
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.taps import Taps


def shuffled(patches: int, seed: int) -> list[int]:
    """The patches in a random order, the same in every release of Python (`random()` is, `shuffle()` need not be)."""
    drawn = random.Random(seed)
    numbers = [drawn.random() for _ in range(patches)]
    return sorted(range(patches), key=numbers.__getitem__)


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    seed: int = 0
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(ranks=True, nested=True)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "fixed"}

    def select(self, taps: Taps) -> Selection:
        batch, patches, _ = taps.features.shape
        order = shuffled(patches, self.seed)
        scores = [1 - order.index(patch) / patches for patch in range(patches)]
        # as_tensor: tensor() detaches its constant in place, and no selection moves above that
        return Selection(
            torch.as_tensor(sorted(order[: self.keep])).expand(batch, -1),
            torch.as_tensor(scores).expand(batch, -1),
            picks=torch.as_tensor(order[: self.keep]).expand(batch, -1),
        )

    def official(self, eager: Eager) -> Selection:
        batch, patches, _ = eager.features.shape
        score = torch.zeros(patches)
        score[torch.tensor(shuffled(patches, self.seed))] = torch.arange(patches, 0, -1) / patches
        picks = score.topk(self.keep).indices.repeat(batch, 1)
        return Selection(picks.sort(dim=1).values, score.repeat(batch, 1), picks=picks)
