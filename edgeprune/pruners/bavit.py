"""BAViT: drop what a small trained classifier takes for background, in front of the encoder.

    score[j] = z[j, foreground] - z[j, background]        z: two logits per patch (`edgeprune.pruners._scorer`)

    front    a ViT of its own on the image, as in the paper (2 or 10 layers)
    coarse   the same on patches of m x m of the encoder's; its blocks are kept or dropped whole. Not of the paper
    trunk    a norm and a linear head on the encoder's own hidden states behind its first layers. Not of the paper

The layers behind the place of dropping run on the kept patches alone. The paper drops every patch that is called
background, a count that depends on the image; the budget here is static. By score it fills up with the background that
looks most like foreground, the rims of what is kept anyway. With option `spread` it fills up evenly over the grid:

    score[j] = relu(z[j]) - d[j] * clamp(-z[j] / 2, 0, 1)         z: the difference above; d in (0, 1]

Foreground comes first, as before, then background by its place; a patch in doubt (-2 < z < 0) comes before its place.
d is an ordered dither: the ranks of frac(row / g^2 + column / g) over N, with g = 1.3247..., g^3 = g + 1. Cut anywhere,
the sequence leaves no hole and no cluster, on a grid of any size, from nothing but its size; ordered matrices (Bayer)
want powers of two, void-and-cluster and farthest points a search. Ranks are distinct: two patches of certain background
never tie but lie 1 / N or more apart, and no rounding of z moves them.

Paper   https://arxiv.org/abs/2410.09324
Patent  US 2026/0087793 A1, a published application
Source  no code or weights are public; written from the paper. --scorer takes what `edgeprune bavit train` made
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._dither import PLASTIC, dither
from edgeprune.pruners._scorer import BACKGROUND, FOREGROUND, Scorer, load_scorer
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

CERTAIN = 2.0
"""-z from which a patch is background without a doubt"""


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    scorer: Scorer = field()  # without the default that it has in the base
    side: int
    """m: the encoder's patches along a side of the scorer's"""
    spread: bool = False
    """whether background fills up the budget evenly over the grid, instead of by its score"""
    written_from: ClassVar[str] = "paper"
    traits: ClassVar[Traits] = Traits(
        reads=("image or early hidden states",),
        multiply_adds="2679 M",  # a `front` of 2 layers, 384 wide
        trained_by="edgeprune bavit train",
        inside=True,
        deviations=(
            "the number of kept patches is fixed; the paper drops every patch that is called background",
            "scores are float32 in every precision",
        ),
    )

    @classmethod
    def read(cls, path: Path) -> Scorer:
        return load_scorer(path)

    @classmethod
    def fitted(cls, keep: int, scorer: Scorer, host: pruners.Host, **options: Any) -> Method:
        """The method for an encoder. Raises MethodError when the scorer was trained for another one, RequestError when
        the budget or the grid does not divide into its blocks."""
        config = scorer.config
        if config.kind == "trunk":
            if config.width != host.width or not 0 < config.layers < host.layers:
                raise MethodError(
                    f"the scorer reads hidden states of width {config.width} behind layer {config.layers}, this "
                    f"encoder has width {host.width} and {host.layers} layers; train one on it: --kind trunk --model"
                )
            return cls(keep, scorer.fitted(host.grid, host.mean, host.std), 1, **options)
        wanted = config.patch_size / host.patch_size
        side = round(wanted)
        if side != wanted or (side == 1) != (config.kind == "front"):
            kind = "front" if config.kind == "front" else "coarse, a multiple of"
            raise MethodError(
                f"the scorer was trained for patches of {config.patch_size} pixels ({kind} the encoder's), this "
                f"encoder has patches of {host.patch_size}; train one with --patch-size {host.patch_size}"
            )
        rows, columns = host.grid
        if rows % side or columns % side:
            raise RequestError(
                f"the grid must divide into blocks of {side}x{side} patches, got {rows}x{columns}; choose a size of "
                f"multiples of {config.patch_size} pixels"
            )
        if keep % side**2:
            near = " or ".join(str(one) for one in (keep - keep % side**2, keep - keep % side**2 + side**2) if one)
            raise RequestError(f"keep must be a multiple of the {side**2} patches of a block, got {keep}; {near} would")
        return cls(keep, scorer.fitted((rows // side, columns // side), host.mean, host.std), side, **options)

    def steps(self, depth: int) -> tuple[int, ...]:
        return (self.scorer.config.layers if self.scorer.config.kind == "trunk" else 0,)

    @property
    def departs(self) -> tuple[str, ...]:
        other = {
            "coarse": f"patches are kept in blocks of {self.side}x{self.side}; the paper scores each by itself",
            "trunk": "the encoder's own first layers say what is background; the paper has a ViT in front of it",
        }
        kind = self.scorer.config.kind
        evenly = "what foreground leaves of the budget goes to background evenly over the grid; the paper drops it all"
        return (*((other[kind],) if kind in other else ()), *((evenly,) if self.spread else ()))

    def options(self) -> dict[str, Any]:
        config = self.scorer.config
        own = {"scorer": config.kind, "layers": config.layers, "width": config.width, "sha256": self.scorer.digest}
        return {**own, "spread": self.spread}

    def multiply_adds(self, patches: int) -> int:
        """Of the scorer, for one image of N patches."""
        config = self.scorer.config
        if config.kind == "trunk":
            return 2 * patches * config.width
        tokens, width = patches // self.side**2, config.width
        layer = tokens * width * (4 * width + 2 * config.mlp_width) + 2 * tokens * tokens * width
        return tokens * width * (3 * config.patch_size**2 + 2) + config.layers * layer

    def select(self, taps: Taps) -> Selection:
        logits: Tensor = self.scorer(taps.features if self.scorer.config.kind == "trunk" else taps.pixels)
        scores = logits[..., FOREGROUND] - logits[..., BACKGROUND]
        if self.spread:
            turn = dither(taps.grid[0] // self.side, taps.grid[1] // self.side)
            scores = scores.relu() - turn * (scores / -CERTAIN).clamp(0, 1)
        if self.side == 1:
            indices, picks = ranked_top(scores, self.keep)
            return Selection(indices, scores, picks=picks)
        members = _members(taps.grid, self.side)
        _, blocks = ranked_top(scores, self.keep // self.side**2)
        picks = members.index_select(0, blocks.flatten()).reshape(blocks.shape[0], self.keep)
        scores = scores.index_select(1, members.flatten().argsort() // self.side**2)
        return Selection(picks.sort(dim=1).values, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        given = eager.features if self.scorer.config.kind == "trunk" else eager.pixels
        background, foreground = self.scorer(given).unbind(dim=-1)
        score, side = foreground - background, self.side
        coarse = [size // side for size in eager.grid]
        if self.spread:
            score = _evenly(score, coarse[1])
        kept = torch.zeros_like(score).scatter(1, score.topk(self.keep // side**2, dim=1).indices, 1.0)
        maps = torch.stack((score, kept), dim=1).unflatten(2, coarse)  # type: ignore[no-untyped-call]
        score, kept = torch.nn.functional.interpolate(maps, scale_factor=side, mode="nearest").flatten(2).unbind(dim=1)
        indices = torch.stack([image.nonzero().squeeze(1) for image in kept])
        falling = score.gather(1, indices).argsort(dim=1, descending=True, stable=True)
        return Selection(indices, score, picks=indices.gather(1, falling))


def _members(grid: tuple[int, int], side: int) -> Tensor:
    """[blocks, m * m] int64: the patches of each block, both in raster order.

    >>> _members((2, 4), 2)
    tensor([[0, 1, 4, 5],
            [2, 3, 6, 7]])
    """
    rows, columns = grid
    place = torch.arange(math.prod(grid)).reshape(rows // side, side, columns // side, side)
    return place.permute(0, 2, 1, 3).reshape(-1, side**2)


def _evenly(logit: Tensor, columns: int) -> Tensor:
    """The score of the head, [B, n] both, of a grid with so many columns: foreground as it is, the rest by its turn."""
    count = logit.shape[1]
    turn = sorted(range(count), key=lambda at: math.modf(at // columns / PLASTIC**2 + at % columns / PLASTIC)[0])
    late = torch.tensor([turn.index(at) + 1 for at in range(count)]) / count
    return torch.where(logit > 0, logit, torch.where(logit < -CERTAIN, -late, late * logit / CERTAIN))
