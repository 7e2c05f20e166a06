"""None: keep every patch. The unpruned encoder, with the same layers and projector; what every gain is measured from.

score[j] = 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "ours"
    traits: ClassVar[Traits] = Traits(early=False, keeps_all=True, emits=())

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "fixed"}

    def select(self, taps: Taps) -> Selection:
        scores = torch.ones_like(taps.features[..., 0], dtype=torch.float32)
        return Selection(torch.arange(self.keep).expand(scores.shape[0], -1), scores)

    def official(self, eager: Eager) -> Selection:
        batch, patches, _ = eager.features.shape
        return Selection(torch.arange(patches).repeat(batch, 1), torch.ones(batch, patches))
