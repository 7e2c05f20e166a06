"""pitome_behind: Merge patches of large groups of similar ones among themselves, behind the last layer.

    k       = keys of the last layer in front of the features, mean over heads
    E[i]    = mean over j of f(cos(k_i, k_j))        f(x) = x where x >= 0, else alpha (exp(x) - 1)
    the 2r patches of the highest E, by falling E: every first of two joins the most similar of the seconds, the r that
    are left; r = half of them, in the last round as many as leave K. Keys, too, become means by size
    token   = projector(mean of the features of all patches that went into it)

    score[j] = 2 t + (1 - E_j) / 2        t: rounds that patch j came through; E: its energy in the first one

The paper's margin .9 - .9 l / L is 0 behind the last layer. `--method pitome` is the paper's own use of it, inside the
encoder; why this one has a name of its own says `tome_behind`.

Paper   https://arxiv.org/abs/2405.16148 (section 3.2)
Source  the paper's formula; its place behind the encoder is ours
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import elu, normalize, one_hot

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners import Eager, Selection, Traits, rows_of
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._rounds import means_of, rounds
from edgeprune.pruners._select import lower_take, top_in_order
from edgeprune.pruners.inside._merges import TAKES, by_energy, energy_of, halves
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    alpha: float = 1.0
    """how much unlike patches push, above 0, at most 1"""
    written_from: ClassVar[str] = "paper"
    traits: ClassVar[Traits] = Traits(
        reads=("keys", "features"),
        multiply_adds="80.1 M",
        early=False,
        emits=("origin", "order", "worth"),
        deviations=(
            "tokens merge behind the last layer alone, in rounds of up to a half; the paper merges some in each layer",
            "keys of merged tokens are the means of their members'; the paper's next layer makes new ones",
            "tokens stay in raster order of the patch that others joined",
            "a patch counts among its own neighbours, which adds the same to every energy",
            "cosines are float32 in every precision",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise MethodError(f"option alpha of pitome_behind must be above 0 and at most 1, got {self.alpha:g}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    def rule(self, patches: int) -> dict[str, Any]:
        merged = rounds(patches, self.keep)
        return {"name": "match", "form": "energy", "merged": merged, "alpha": self.alpha, "margin": 0.0}

    def select(self, taps: Taps) -> Selection:
        keys = taps.keys()
        batch, patches, _ = keys.shape
        number = torch.arange(patches)
        names = origin = joined = number.expand(batch, -1)  # origin: the place of the row that each patch is of
        size = torch.ones_like(keys[:, :, :1])
        alike = _cosines(keys)
        energy = energy_of(alike, self.alpha)
        scores, worth = ((1 - energy) / 2).clamp(0, 1), []
        for turn, count in enumerate(rounds(patches, self.keep)):
            if turn:
                alike = _cosines(keys)
                energy = energy_of(alike, self.alpha)
            rows = torch.arange(alike.shape[1])
            first, second = halves(energy, count)
            joining, taking = (half.unsqueeze(-1) == rows for half in (first, second))  # [B, r, n]
            between = torch.where(taking.any(dim=1, keepdim=True), lower_take(alike, first, 1), -2.0)
            target = (joining * between.argmax(dim=-1, keepdim=True)).sum(dim=1)  # [B, n]
            gone = joining.any(dim=1)
            worth.append(by_energy(energy, taking))
            stays = top_in_order(1 - gone.float(), rows.shape[0] - count)
            into = (torch.where(gone, target, rows).unsqueeze(1) == stays.unsqueeze(-1)).float()  # [B, n', n]
            here = (names.unsqueeze(-1) == number) & gone.unsqueeze(-1)
            joined = torch.where(here.any(dim=1), (here * names.gather(1, target).unsqueeze(-1)).sum(dim=1), joined)
            origin = into.argmax(dim=1).gather(1, origin)
            keys, size = into @ (size * keys), into @ size
            keys = keys / size
            names = names.gather(1, stays)
            scores = scores + 2 * (names.unsqueeze(-1) == number).any(dim=1)
        merge = means_of(origin, self.keep).to(taps.features.dtype)
        said = torch.cat(worth, dim=1) if worth else -energy
        return Selection(names, scores, merge, origin=origin, order=joined, worth=said)

    def official(self, eager: Eager) -> Selection:
        x = eager.keys[:, :, eager.prefix :].mean(dim=1)
        products = torch.bmm(x, x.mT)
        batch, patches, _ = x.shape
        every = torch.arange(patches).repeat(batch, 1)
        place, alive, joined = every.clone(), every.clone(), every.clone()
        mass, tier, said, pull = torch.ones(batch, patches), torch.zeros(batch, patches), [], torch.zeros(0)
        while (n := x.shape[1]) >= self.keep:
            rows = normalize(x, dim=2)
            similarity = torch.bmm(rows, rows.mT)
            energy = elu(similarity, self.alpha).sum(dim=2) / n
            pull = energy if n == patches else pull
            if (r := min(n // 2, n - self.keep)) == 0:
                break
            falling = energy.argsort(dim=1, descending=True)
            a, b = falling[:, : 2 * r : 2], falling[:, 1 : 2 * r : 2]
            between = rows_of(similarity, a).gather(2, b[:, None].expand(-1, r, -1))
            target = b.gather(1, between.argmax(dim=2))
            said.append((-energy).scatter_add(1, b, torch.full(b.shape, TAKES)))
            joined = joined.scatter(1, alive.gather(1, a), alive.gather(1, target))
            goes = torch.arange(n).repeat(batch, 1).scatter(1, a, target)
            left = torch.zeros(batch, n, dtype=torch.int64).scatter(1, a, 1).argsort(dim=1, stable=True)[:, : n - r]
            new = torch.zeros(batch, n, dtype=torch.int64).scatter(1, left, torch.arange(n - r).repeat(batch, 1))
            share = one_hot(new.gather(1, goes), n - r).to(x.dtype) * mass[:, :, None]
            mass = share.sum(dim=1)
            x = torch.bmm(share.mT, x) / mass[:, :, None]
            place, alive = new.gather(1, goes).gather(1, place), alive.gather(1, left)
            tier = tier.scatter_add(1, alive, torch.full(alive.shape, 2.0))
        joins = one_hot(place, self.keep).to(eager.features.dtype)
        return Selection(
            alive,
            tier + (1 - pull).clamp(0, 2) / 2,
            (joins / joins.sum(dim=1, keepdim=True)).mT,
            origin=place,
            order=joined,
            worth=torch.cat(said, dim=1) if said else -pull,
            quantities={"products": products},
        )


def _cosines(x: Tensor) -> Tensor:
    """[B, n, d] float32 -> [B, n, n]"""
    rows = unit(x)
    alike: Tensor = rows @ rows.transpose(1, 2)
    return alike
