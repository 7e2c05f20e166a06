"""PruneSID: group the patches by main directions, and keep of each group what [CLS] attends to and is not alike.

    X        = sigmoid(h), without each row's mean                            h: in front of the projector
    Q        = K // 4 orthonormal columns of X^T (X X^T)^2 R                   R: drawn once, of the patches
    V        = the right singular vectors of Q^T X^T, the strongest first      [N, K // 4]
    group    = argmax over g of |V[j, g]|
    stands   in each group, by falling a: j, unless cos(h_j, h_i) > K / 32 x mean of cos, of an i that stands
                                                                              a: mean [CLS] row over heads
    n, m     = how many there are in a group, and how many of them stand
    most     = min(n, m, 5 ceil(K / 64)), and 1 more for all, up to n, until the sum is K or more
    share    = 1 of each that is not empty; of the others, L, round(L M_g / M) - round(L M_(g-1) / M), at most `most`;
               what is missing then goes to the groups of the most that stand, as far as they may
                                                                              M_g: sum of m up to g
    kept     = the `share` first of each group: those that stand by falling a, then the others
    score[j] = a + 4 of a kept patch, + 2 of one that stands

Singular vectors are not in ONNX: columns are made orthonormal one by one, and the few that are left are found by
squaring their products (`_directions`). Who stands is found in rounds, all patches at once: in each a patch stands that
none is alike before it that stood in the round before.

Source  ZhengyaoFang/PruneSID@4ef17d9 prunesid/prunesid_llava/clip_encoder.py
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._directions import TINY, first_eigenvector
from edgeprune.pruners._greedy import cosine
from edgeprune.pruners._loop import State, repeat
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

ROUNDS = 64
"""in which who stands is found, of which chains of patches that each hang on the one before take as many as they are
long: probes of the embedded model settle in 7 or fewer"""
SMALL, DRAWS = 1e-4, 4
"""relative errors of the features that the reference tries, and how often, to learn how far they turn directions"""


def start(patches: int, groups: int) -> list[list[float]]:
    """What the directions are sought from, [N, groups]: the same in every release of Python."""
    drawn = random.Random(0)
    return [[2 * drawn.random() - 1 for _ in range(groups)] for _ in range(patches)]


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    written_from: ClassVar[str] = "official code at ZhengyaoFang/PruneSID@4ef17d9"
    traits: ClassVar[Traits] = Traits(
        reads=("[CLS] attention", "features"),
        multiply_adds="338 M",
        early=False,
        official_in_onnx=False,
        emits=("picks", "order", "worth"),
        deviations=(
            "directions are sought from numbers that were drawn once; the official code draws them each time",
            "[CLS] is not kept and not counted: its place is one patch more",
            "tokens stay in raster order; the official code has them group by group",
            f"who stands is found in {ROUNDS} rounds, more than chains of like patches are long in any but contrived "
            "images",
            "of equal groups the one of the stronger direction is filled first, and halves are rounded to even; the "
            "official code leaves the first open and rounds sums of float32",
            "a K below 4 has one group; the official code has none and fails",
            "attention and cosines are float32 in every precision; the official code has them in the model's dtype",
        ),
    )

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth - 1,)

    @property
    def _most(self) -> int:
        return 5 * math.ceil(self.keep / 64)

    def _groups(self, width: int) -> int:
        """Never more than centred rows of this width have directions."""
        return max(1, min(self.keep // 4, width - 1))

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "groups", "most": self._most, "times": self.keep / 32}

    def select(self, taps: Taps) -> Selection:
        attended = taps.cls_attention().mean(dim=1)
        h = taps.features.float()
        patches, groups = h.shape[1], self._groups(h.shape[2])
        worth, group = _strength(h, groups).max(dim=-1)
        alike, number = cosine(h), torch.arange(patches)
        mean = (alike.sum(dim=(1, 2), keepdim=True) - patches) / max(patches * (patches - 1), 1)
        same = group.unsqueeze(1) == group.unsqueeze(2)
        blocks = (same & _before(attended, number) & (alike > self.keep / 32 * mean)).float()

        def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
            standing = ((carry[0] @ blocks) < 0.5).float()
            return (standing,), standing[:, 0, :1]

        (standing,), _ = repeat(step, (attended.unsqueeze(1) * 0 + 1,), ROUNDS)
        stands = standing.squeeze(1)
        member = (group.unsqueeze(1) == torch.arange(groups).unsqueeze(-1)).float()  # [B, G, N]
        share = self._shares(member.sum(dim=-1), (member * standing).sum(dim=-1), patches)
        ahead = (same & _before(attended + 2 * stands, number)).sum(dim=1)
        kept = ahead.float() < share.gather(1, group)
        scores = attended + 4 * kept.float() + 2 * stands
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks, order=group, worth=worth)

    def _shares(self, size: Tensor, standing: Tensor, patches: int) -> Tensor:
        """How many of each group are kept, of how many there are and stand: whole numbers, [B, G] float32 each."""
        most = torch.minimum(size, standing).clamp(max=float(self._most))
        more = torch.arange(patches + 1, dtype=torch.float32).unsqueeze(-1)
        sums = torch.minimum(most.unsqueeze(1) + more, size.unsqueeze(1)).sum(dim=-1)
        most = torch.minimum(most + (sums < self.keep).float().sum(dim=-1, keepdim=True), size)
        least = size.clamp(max=1.0)
        others = self.keep - least.sum(dim=-1, keepdim=True)
        place = torch.arange(size.shape[1])
        up_to = (standing.unsqueeze(1) * (place <= place.unsqueeze(-1)).float()).sum(dim=-1)
        rounded = (up_to * others / standing.sum(dim=-1, keepdim=True)).round()
        before = torch.cat((rounded[:, :1] * 0, rounded[:, :-1]), dim=-1)
        share = torch.minimum(least + rounded - before, most)
        room, missing = most - share, self.keep - share.sum(dim=-1, keepdim=True)
        filled = (room.unsqueeze(-1) * _before(standing, place).float()).sum(dim=1)  # by groups that come first
        return share + torch.minimum((missing - filled).clamp_min(0.0), room)

    def official(self, eager: Eager) -> Selection:
        h = eager.features.double()
        batch, patches, width = h.shape
        groups = self._groups(width)
        strong, v = _official_directions(h, groups)
        group = v.argmax(dim=2)
        normalised = eager.features / eager.features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = torch.bmm(normalised, normalised.mT)
        upper = torch.ones(patches, patches, dtype=torch.bool).triu(1)
        threshold = self.keep / 32 * similarity[:, upper].sum(dim=1) / max(int(upper.sum()), 1)
        attention = eager.attentions[-1][:, :, 0, eager.prefix :].mean(dim=1)
        scores, orders = attention.clone(), []
        for image in range(batch):
            falling = attention[image].argsort(descending=True, stable=True).tolist()
            members = [[at for at in falling if group[image, at] == one] for one in range(groups)]
            leading: list[list[int]] = []
            for one in members:
                left, first = list(one), []
                while left:
                    first.append(left.pop(0))
                    left = [at for at in left if similarity[image, first[-1], at] <= threshold[image]]
                leading.append(first)
            share = _official_shares([len(one) for one in members], [len(one) for one in leading], self.keep)
            order: list[tuple[int, bool]] = []
            for count, one, first in zip(share, members, leading, strict=True):
                ranked = first + [at for at in one if at not in first]
                order += [(at, at in first) for at in ranked[:count]]
                scores[image, first] += 2
            scores[image, [at for at, _ in order]] += 4
            orders.append(torch.tensor([at for at, _ in sorted(order, key=lambda one: falling.index(one[0]))]))
        picks = torch.stack(orders)
        picks = picks.gather(1, scores.gather(1, picks).argsort(dim=1, descending=True, stable=True))
        drawn, turn = torch.Generator().manual_seed(0), torch.zeros_like(strong)
        for _ in range(DRAWS):
            off = h * (1 + SMALL * torch.randn(h.shape, generator=drawn, dtype=h.dtype))
            turn = torch.maximum(turn, (_official_directions(off, groups)[1] - v).abs().amax(dim=1) / SMALL)
        apart = (strong[:, :, None] - torch.nn.functional.pad(strong, (0, 1))[:, None, :]).abs()
        apart[:, range(groups), range(groups)] = torch.inf
        longest = torch.sigmoid(h).norm(dim=2).amax(dim=1, keepdim=True).maximum(strong[:, :1])
        rounding = 4 * torch.finfo(torch.float32).eps * longest / apart.amin(dim=2).clamp_min(1e-30)
        return Selection(
            picks.sort(dim=1).values,
            scores,
            picks=picks,
            order=group,
            worth=v.amax(dim=2).float(),
            quantities={
                "similarity": similarity,
                "threshold": threshold[:, None],
                "directions": v.float(),
                "turn": turn.float(),
                "rounding": rounding.clamp_max(1.0).float(),
            },
        )


def _official_directions(h: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """[B, N, C] float64 -> singular values [B, groups], |V| [B, N, groups]"""
    a = torch.sigmoid(h).mT
    a = a - a.mean(dim=1, keepdim=True)
    drawn = torch.tensor(start(h.shape[1], groups), dtype=h.dtype).expand(len(h), -1, -1)
    q = torch.linalg.qr(a @ drawn).Q
    for _ in range(2):
        q = torch.linalg.qr(a.mT @ q).Q
        q = torch.linalg.qr(a @ q).Q
    _, strong, v = torch.linalg.svd(q.mT @ a, full_matrices=False)
    return strong, v.abs().mT


def _official_shares(size: list[int], standing: list[int], keep: int) -> list[int]:
    """How many of each group are kept, loop by loop."""
    most = [min(5 * math.ceil(keep / 64), n, m) for n, m in zip(size, standing, strict=True)]
    while sum(most) < keep:
        most = [min(one + 1, n) for one, n in zip(most, size, strict=True)]
    least = [min(1, n) for n in size]
    others, done, share = keep - sum(least), 0, []
    for at, one in enumerate(least):
        whole, rest = divmod(sum(standing[: at + 1]) * others, sum(standing))
        whole += 2 * rest > sum(standing) or (2 * rest == sum(standing) and whole % 2)
        share.append(min(one + whole - done, most[at]))
        done = whole
    for at in sorted(range(len(size)), key=lambda one: -standing[one]):
        share[at] += min(most[at] - share[at], keep - sum(share))
    return share


def _before(value: Tensor, number: Tensor) -> Tensor:
    """Whether j stands before i when the values fall, of equal ones the first: [B, n], [n] -> [B, j, i] bool"""
    one, other = value.unsqueeze(2), value.unsqueeze(1)
    return (one > other) | ((one == other) & (number.unsqueeze(-1) < number))


def _strength(h: Tensor, groups: int) -> Tensor:
    """|V|: [B, N, C] float32 -> [B, N, groups], the strongest direction first."""
    x = torch.sigmoid(h)
    x = x - x.mean(dim=-1, keepdim=True)
    across = x.transpose(1, 2)
    basis = _upright(across @ torch.tensor(start(h.shape[1], groups)))
    for _ in range(2):
        basis = _upright(across @ (x @ basis))
    image = x @ basis
    itself = torch.eye(groups)

    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        vector = first_eigenvector(carry[0])
        without = itself - vector @ vector.transpose(1, 2)
        return (without @ carry[0] @ without,), vector.squeeze(-1)

    _, vectors = repeat(step, (image.transpose(1, 2) @ image,), groups)
    v = image @ vectors.permute(1, 2, 0)
    length: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(TINY)
    return (v / length).abs()


def _upright(columns: Tensor) -> Tensor:
    """Gram-Schmidt, each column twice: [B, C, G] -> [B, C, G], orthonormal."""
    places = torch.arange(columns.shape[-1])

    def step(carry: State, at: Tensor | int) -> tuple[State, Tensor]:
        (basis,) = carry
        column = torch.where(places == at, columns, 0.0).sum(dim=-1, keepdim=True)
        for _ in range(2):
            column = column - basis @ (basis.transpose(1, 2) @ column)
            column = column / torch.linalg.vector_norm(column, dim=1, keepdim=True).clamp_min(TINY)
        return (torch.where(places == at, column, basis),), column[:, :1, 0]

    (basis,), _ = repeat(step, (columns * 0,), columns.shape[-1])
    return basis
