"""Hawk: keep the patches that the heads of the language model's first layer find in a question, head by head.

    s[h, j]  = q_h . k_g(h),j              q: the mean query of the question's tokens; k: keys of x_j; g(h): their head
    score[j] = sum over h of w_h s[h, j] / max(|s_h|, |q_h| |k_g(h)| / 100) + 2 |w_h| / sqrt(N)          |.|: over all j

Queries and keys are those of the language model's first layer, in front of rotary positions; x is behind the projector.
What is added, the same to every patch, is twice what a head gives each one where all are alike: heads that speak
against each other leave scores of nothing, and there would be nothing to measure their errors by.

`--option weights=published` are those of Qwen2.5-VL-7B, whose first layer has 28 heads, made to sum to 1. It takes
numbers as well, one for each head, or the file that `edgeprune calibrate --method hawk` fits to another model;
`uniform`, 1 / H each, is ours.
Tokens of the question are those behind the image, to the end of the turn.

Measured on the embedded model, whose first layer has four heads, 100 drawn scenes, % right at 32 / 16 of 144 tokens,
unpruned 90.5: uniform 84.0 / 76.4, weights of that calibration 79.3 / 73.2, random patches 82.0 / 73.8
    `edgeprune calibrate --method hawk --count 60`
    `edgeprune sweep --methods hawk,hawk:weights=heads.json --keep 32,16 --count 100`
There the calibration does worse than none: measure it on yours.

Paper   https://arxiv.org/abs/2604.07812
Source  peppery77/HAWK@3af2071 src/hawk/pruning.py, config.py
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import QUERIES, TEXT, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

UNIFORM, PUBLISHED = "uniform", "published"
QWEN = (
    *(0.0875, 0.3, 0.048, 0.0321, 0.0104, 0.0102, 0.0336, 0.046, 0.054, 0.0472, 0.0234, 0.0537, 0.0109, 0.0573),
    *(0.0276, 0.0403, 0.0429, 0.0352, 0.0162, 0.0519, 0.0553, 0.0266, 0.0222, 0.048, 0.0337, 0.025, 0.0, 0.0224),
)
"""what its authors measured of the heads of Qwen2.5-VL-7B"""
FLAT = 1e-2
"""the share of what a head's products might be that they are taken for at least"""
TINY = 1e-30


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    weights: str = "uniform"
    """of heads: uniform, published, numbers with commas between, or the file of a calibration"""
    written_from: ClassVar[str] = "official code at peppery77/HAWK@3af2071"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features", "keys of the language model"),
        multiply_adds="2.1 M",
        early=False,
        asks=True,
        nested=True,
        deviations=(
            f"a head whose products are less than {FLAT:g} of what they might be counts less; the official code "
            "divides by whatever they are",
            "scores are raised by the same for all patches; the official code adds nothing",
            "K is a budget; the official code keeps a share of the patches",
        ),
    )

    def __post_init__(self) -> None:
        if self.weights not in (UNIFORM, PUBLISHED) and self._file is None:
            _numbers(self.weights)

    @property
    def _file(self) -> Path | None:
        """That it names in place of numbers."""
        path = Path(self.weights)
        try:
            return path if path.is_file() else None
        except OSError:  # numbers of many heads are too long for a name
            return None

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(QUERIES, blank=None),)

    @property
    def departs(self) -> tuple[str, ...]:
        if self.weights == PUBLISHED:
            return ()
        said = "are all alike" if self.weights == UNIFORM else "are those of option weights"
        return (f"weights of heads {said}, which is ours; the published ones are of Qwen2.5-VL-7B",)

    def prepared(self, projector: nn.Module) -> Method:
        """With the numbers of a file in its place."""
        if self.weights in (UNIFORM, PUBLISHED) or (path := self._file) is None:
            return self
        try:
            weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
            text = ",".join(f"{float(one):.6g}" for one in weights)
        except (OSError, ValueError, KeyError, TypeError):
            raise MethodError(
                f"option weights of hawk must be a file that `edgeprune calibrate --method hawk` wrote; {path} is none"
            ) from None
        _numbers(text)
        return replace(self, weights=text)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk"}

    def select(self, taps: Taps) -> Selection:
        """Raises MethodError where there are not as many weights as heads."""
        keys, text = taps.language_keys(), taps.given[TEXT]
        _, groups, _, width = keys.shape
        query = text.reshape(-1, groups, text.shape[1] // (groups * width), width)
        pointed = query @ keys.transpose(2, 3)
        whole = torch.linalg.vector_norm(keys, dim=(2, 3))[:, :, None, None]
        most = torch.linalg.vector_norm(query, dim=-1, keepdim=True) * whole
        length = torch.linalg.vector_norm(pointed, dim=-1, keepdim=True)
        shares = (pointed / torch.maximum(length, FLAT * most).clamp_min(TINY)).flatten(1, 2)
        weights = self._of_heads(shares.shape[1])
        scores = (shares * weights[:, None]).sum(dim=1) + weights.abs().sum() * (2 / math.sqrt(shares.shape[2]))
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        keys, text = eager.language_keys, eager.given[TEXT]
        batch, patches, groups, width = keys.shape
        heads = text.shape[1] // width
        k = keys.float().repeat_interleave(heads // groups, dim=2).permute(0, 2, 1, 3).reshape(-1, patches, width)
        q = text.reshape(-1, width, 1)
        s = torch.nan_to_num(torch.bmm(k, q)[:, :, 0] / math.sqrt(width))
        might = q.norm(dim=1) * k.flatten(1).norm(dim=1, keepdim=True) / math.sqrt(width)
        normed = s / s.norm(dim=1, keepdim=True).max(might / 100).clamp(min=1e-30)
        weights = self._of_heads(heads)
        score = torch.mv(normed.reshape(batch, heads, patches).mT.reshape(-1, heads), weights).reshape(batch, patches)
        score = score + 2 * weights.norm(p=1) * patches**-0.5
        chosen = score.topk(self.keep, dim=1).indices
        return Selection(chosen.sort(dim=1).values, score, picks=chosen)

    def _of_heads(self, heads: int) -> Tensor:
        """[H] float32"""
        if self.weights == PUBLISHED:
            given = [one / sum(QWEN) for one in QWEN]
        else:
            given = [1 / heads] * heads if self.weights == UNIFORM else _numbers(self.weights)
        if len(given) != heads:
            raise MethodError(
                f"option weights of hawk must be {heads} numbers, one for each head of the language model's first "
                f"layer, got {len(given)}"
            )
        return torch.as_tensor(given)


def _numbers(text: str) -> list[float]:
    """Raises MethodError for what are no weights."""
    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or not any(numbers):
        raise MethodError(
            "option weights of hawk must be uniform, published, numbers with commas between, or a file that "
            f"`edgeprune calibrate --method hawk` wrote, got {text!r}"
        )
    return numbers
