"""PiToMe: rows of large groups of similar ones merge among themselves, and what is like few others is left alone.

    E[i]    = mean over j of f(cos(k_i, k_j))        k: keys of the layer in front of the step, mean over heads
    f(x)    = x where x >= m, else alpha (exp(x - m) - 1)        m = .9 - .9 l / L, l of L layers in front of the step
    the 2r rows of the highest E, by falling E: every first of two joins the most similar of the seconds, the r that
    are left: x_b <- (s_b x_b + sum s_a x_a) / (s_b + sum s_a), sizes s likewise; later logits += log s

--schedule official: the same share of the rows behind every layer.

score[i] = -E[i], and 4 - E[i] of a row that others may join: it goes on, whatever joins it.

Paper   https://arxiv.org/abs/2405.16148 (section 3.2); written from its formula
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune.errors import RequestError
from edgeprune.pruners import inside
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._select import lower_take, place_in, top_in_order
from edgeprune.pruners.inside import Eager, Reduction, Step
from edgeprune.pruners.inside._merges import TAKES, by_energy, energy_of, halves
from edgeprune.taps import Taps


@dataclass(frozen=True)
class Reducer(inside.Reducer):
    depth: int = 0
    """L; 0: the layers in front of the features"""
    alpha: float = 1.0
    bias: bool = True
    written_from: ClassVar[str] = "paper"
    depths: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8)
    most: ClassVar[float] = 0.5
    gentle: ClassVar[float] = 0.41
    every: ClassVar[int] = 1
    deviations: ClassVar[tuple[str, ...]] = (
        "rows merge behind a whole layer; the paper merges between its attention and its MLP",
        "rows stay in raster order of the patch that others joined",
        "a row counts among its own neighbours, which adds the same to every energy",
        "cosines are float32 in every precision",
    )

    def prepared(self, has_cls: bool, depth: int) -> inside.Reducer:
        return self if self.depth else dataclasses.replace(self, depth=depth)

    def rule(self, step: Step) -> dict[str, Any]:
        return {"name": "energy", "margin": self._margin(step)}

    def multiply_adds(self, step: Step, rows: int, width: int, heads: int) -> int:
        each, joins = width // heads, rows - step.keep
        return (rows * rows + joins * joins) * each + step.keep * rows * width

    def select(self, step: Step, taps: Taps, carried: Mapping[str, Tensor]) -> Reduction:
        keys = unit(taps.keys())
        count = keys.shape[1]
        joins = self._joins(count, step)
        alike = keys @ keys.transpose(1, 2)
        energy = energy_of(alike, self.alpha, self._margin(step))
        first, second = halves(energy, joins)
        near = (lower_take(keys, first, 1) @ lower_take(keys, second, 1).transpose(1, 2)).argmax(dim=-1)
        number = torch.arange(count)
        joining, taking = (half.unsqueeze(-1) == number for half in (first, second))  # [B, r, n]
        target = (joining * second.gather(1, near).unsqueeze(-1)).sum(dim=1)
        gone = joining.any(dim=1)
        rows = top_in_order(1 - gone.float(), step.keep)
        into = place_in(rows, torch.where(gone, target, number))
        return Reduction(rows, by_energy(energy, taking), into=into)

    def official(
        self, step: Step, eager: Eager, carried: Mapping[str, Tensor], rows: Tensor | None = None
    ) -> Reduction:
        keys = torch.nn.functional.normalize(eager.keys[:, :, eager.prefix :].mean(dim=1), dim=2)
        similarity = torch.bmm(keys, keys.mT)
        batch, count, _ = keys.shape
        margin, joins = self._margin(step), self._joins(count, step)
        pull = torch.nn.functional.elu(similarity - margin, alpha=self.alpha)
        energy = (pull + margin * (similarity >= margin)).sum(dim=2) / count
        chosen, places, scores = [], [], []
        for image in range(batch):
            falling = energy[image].argsort(descending=True)
            a, b = falling[: 2 * joins : 2], falling[1 : 2 * joins : 2]
            if rows is not None:  # a device's own: of what it kept, those of the highest energy take the others
                stays = torch.zeros(count, dtype=torch.bool).scatter(0, rows[image], True)
                a, b = falling[~stays[falling]], falling[stays[falling]][:joins]
            target = torch.arange(count)
            target[a] = b[similarity[image][a][:, b].argmax(dim=1)] if joins else a
            taken = torch.tensor([at for at in range(count) if at not in a.tolist()])
            place = torch.full((count,), -1)
            place[taken] = torch.arange(len(taken))
            chosen.append(taken)
            places.append(place[target])
            scores.append((-energy[image]).index_add(0, b, torch.full((len(b),), TAKES)))
        return Reduction(
            torch.stack(chosen),
            torch.stack(scores),
            into=torch.stack(places),
            quantities={"similarity": similarity},
        )

    def _margin(self, step: Step) -> float:
        return 0.9 - 0.9 * step.layer / max(self.depth, step.layer)

    def _joins(self, count: int, step: Step) -> int:
        """How many rows join another. Raises RequestError where that is more than half of them."""
        if 2 * (count - step.keep) > count:
            raise RequestError(
                f"pitome merges up to half of the rows at a step, {count} to {count - count // 2} or more, got "
                f"{step.keep} behind layer {step.layer}; take more steps"
            )
        return count - step.keep
