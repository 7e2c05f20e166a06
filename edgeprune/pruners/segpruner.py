"""SeGPruner: keep the patches furthest from each other, in the world and by what they show.

    first    = argmax over j of the mean of column j of A         A: attention of the layer that produces the features
    d[i, j]  = b |xyz_i - xyz_j| / far + (1 - b) (1 - cos(h_i, h_j))
                                                   far: the distance of the patch furthest from the first, in the world
    next     = argmax over j of min over chosen s of d[s, j]      h: features in front of the projector; b: `balance`
    score[j] = the column mean of the first, then that distance

Where nothing is known of the world (`xyz` all alike) the distance there is 0. The official code takes the share r of
the budget by attention first, 0 as it comes, which is all that is here; each view is chosen from by itself. With
`--option views=joint`, which is ours, the tiles of an image are views that share a budget, and one pool of candidates.

Source  intcomp/SegPruner@acf0e4e patches/0001; it has no licence: the mathematics only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError, unknown_name
from edgeprune.ports import XYZ, Port, xyz_port
from edgeprune.pruners import Eager, Selection, Traits, greedily
from edgeprune.pruners._greedy import cosine, greedy
from edgeprune.taps import Taps

FAR = 1e4
"""above every distance"""
TINY = 1e-12


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    balance: float = 0.5
    views: str = "each"
    """each: a budget of its own; joint: one for all of them"""
    written_from: ClassVar[str] = "official code at intcomp/SegPruner@acf0e4e"
    traits: ClassVar[Traits] = Traits(
        reads=("attention map", "features"),
        multiply_adds="596 M",
        query_rows=None,
        early=False,
        nested=True,
        masks=True,
        deviations=(
            "a chosen patch cannot be chosen again, so that exactly K distinct ones remain; the official code relies "
            "on its distance to itself being 0",
            "where no place in the world is known their distance is 0; the official code divides by 0",
            "no share of the budget goes by attention first, which is the official code's default",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise MethodError(f"option balance of segpruner must be in 0..1, got {self.balance:g}; 0.5 is the paper's")
        if self.views not in ("each", "joint"):
            raise MethodError(unknown_name("views", self.views, ("each", "joint")))

    @classmethod
    def pooling(cls, options: Mapping[str, Any]) -> bool:
        return options.get("views") == "joint"

    @property
    def departs(self) -> tuple[str, ...]:
        return ("the views are one pool of candidates, which is ours",) if self.pools else ()

    @property
    def ports(self) -> tuple[Port, ...]:
        return (xyz_port(),)

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "greedy", "objective": "world", "balance": self.balance}

    def select(self, taps: Taps) -> Selection:
        attended, xyz = taps.column_mean(), taps.given[XYZ]
        if self.pools:
            attended = attended.flatten(0, 1).unsqueeze(0)
        away = (xyz.unsqueeze(2) - xyz.unsqueeze(1)).square().sum(dim=-1).sqrt()
        first = attended >= attended.amax(dim=-1, keepdim=True)
        far = torch.where(first.unsqueeze(-1), away, 0.0).amax(dim=(1, 2)).clamp_min(TINY)
        world = away / far[:, None, None]
        distance = self.balance * world + (1 - self.balance) * (1 - cosine(taps.features))
        return greedy(
            distance,
            attended,
            (attended * 0 + FAR,),
            gain=lambda state: state[0],
            update=lambda state, pick: (torch.minimum(state[0], pick.row),),
            keep=self.keep,
        )

    def official(self, eager: Eager) -> Selection:
        columns = eager.attentions[-1].mean(dim=(1, 2))[:, eager.prefix :]
        columns = columns.reshape(1, -1) if self.views == "joint" else columns
        h = torch.nn.functional.normalize(eager.features, dim=-1)
        similarity = torch.bmm(h, h.mT)
        xyz = eager.given[XYZ]
        away = (xyz[:, None, :, :] - xyz[:, :, None, :]).norm(dim=3)
        anchor = columns.argmax(dim=1)
        dmax = torch.take_along_dim(away, anchor[:, None, None], dim=1).amax(dim=2, keepdim=True).clamp(min=TINY)
        apart = torch.lerp(1 - similarity, away / dmax, self.balance)

        def gain(chosen: Tensor) -> Tensor:
            if chosen.shape[1] == 0:
                return columns
            return torch.take_along_dim(apart, chosen.unsqueeze(-1), dim=1).amin(dim=1)

        quantities = {"similarity": similarity, "attention": columns, "xyz": eager.given[XYZ]}
        return replace(greedily(gain, len(columns), self.keep), quantities=quantities)
