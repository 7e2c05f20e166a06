"""What rows at a step are ranked by, by name, for the reducers that choose by a score: the higher go on.

    cls      mean over heads of A[cls, j]                      A: attention of the layer in front of the step
    column   mean over heads and all queries of A[i, j]        the whole map is recomputed
    keys     -||k_j||, k: keys of that layer, mean over heads  what is attended to has short keys
    flowcut  of the two layers in front of the step: s = (a / sum a + v / sum v) * ||mean over heads of v_j||_1,
             a the score `cls`, v[j] = mean over heads of softmax(v_cls . v_j); cum = cum / 2 + s / 2, and s at first,
             carried from step to step
    auto     where there is a [CLS] token cls, for cells flowcut, else keys
    METHOD   the score of a method that gives every row its own (`Traits.ranks`), with its default options, as if the
             encoder ended here: of attention in the layer in front of the step, and of the rows as they are there in
             place of features, projected or not

On the embedded model, cells behind the second of five layers, 32 of 144 tokens, 400 held-out scenes, points against
the same tokens chosen behind the encoder: cls +.2, keys -1.6, column -36: early column means point away from objects.

Paper   of flowcut https://arxiv.org/abs/2505.19536; of keys https://arxiv.org/abs/2406.11430
Source  of flowcut TungChintao/FlowCut@a2ecd24 flowcut/utils_flowcut.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import catalog, pruners
from edgeprune.pruners import Method, inside
from edgeprune.pruners.inside import Eager, Reducer, Step
from edgeprune.taps import Taps
from edgeprune.traits import SCORES

__all__ = ["Ranked", "officially_ranked", "ranked"]

Carried = Mapping[str, Tensor]


class Ranked(inside.Reducer):
    """A reducer with the option `score`. Raises MethodError for one that is none of SCORES, nor such a method."""

    score: str = "auto"
    best: ClassVar[str] = "cls"
    """what `auto` is where there is a [CLS] token"""

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            catalog.check_score(self.score, {name: pruners.get(name).traits.ranks for name in pruners.names()})

    @property
    def early(self) -> bool:
        return not self.merges and (self.score in SCORES or pruners.get(self.score).traits.early)

    @property
    def reads_maps(self) -> bool:
        if self.score in SCORES:
            return self.score == "column"
        return pruners.get(self.score).traits.query_rows is None

    @property
    def needs_cls(self) -> bool:
        return self.score in ("cls", "flowcut") if self.score in SCORES else pruners.get(self.score).traits.needs_cls

    def prepared(self, has_cls: bool, depth: int) -> Reducer:
        made: Any = self
        if self.score == "auto":
            made = dataclasses.replace(made, score=self.best if has_cls else "keys")
        return made  # type: ignore[no-any-return]

    def layers(self, step: Step) -> tuple[int, ...]:
        own = _method(self.score).layers(step.layer) if self.score not in SCORES else ()
        return own or tuple(range(max(0, step.layer - (2 if self.score == "flowcut" else 1)), step.layer))

    @property
    def shares(self) -> bool:
        """Whether the scores are means of a softmax."""
        if self.score in SCORES:
            return self.score in ("cls", "column")
        return bool(_method(self.score).rule(1).get("shares"))

    def ranking(self, rows: int, width: int) -> int:
        """Multiply-adds of the score."""
        if self.score in SCORES:
            return rows * rows * width if self.score == "column" else 0
        return _method(self.score).ranking(rows, width)


def _method(name: str) -> Method:
    """Whose scores are asked for, whatever it keeps."""
    make: Any = pruners.get(name)
    built: Method = make(1)
    return built


def ranked(score: str, step: Step, taps: Taps, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
    """The static form: [B, n] float32, and what it carries to the next step."""
    if score not in SCORES:
        return _method(score).select(taps).scores, {}
    if score == "column":
        return taps.column_mean(), {}
    if score == "keys" or (score == "auto" and not taps.prefix):
        return -torch.linalg.vector_norm(taps.keys(), dim=-1), {}
    if score != "flowcut":
        return taps.cls_attention().mean(dim=1), {}
    flow = carried.get("flow")
    last = taps.attention[step.layer - 1]
    for layer in range(max(0, step.layer - 2), step.layer):
        if taps.attention[layer].key.shape == last.key.shape:  # another step may stand between the two
            own = _flow(taps, layer)
            flow = own if flow is None else (flow + own) / 2
    assert flow is not None
    return flow, {"flow": flow}


def _flow(taps: Taps, layer: int) -> Tensor:
    value = taps.attention[layer].value
    assert value is not None
    value = value.float()[:, :, : value.shape[2] - taps.suffix]
    attended = taps.cls_attention(layer).mean(dim=1)
    alike = (value[:, :, :1] @ value.transpose(2, 3)).softmax(dim=-1).mean(dim=1)[:, 0, taps.prefix :]
    length = value.mean(dim=1)[:, taps.prefix :].abs().sum(dim=-1)
    return (attended / attended.sum(dim=-1, keepdim=True) + alike / alike.sum(dim=-1, keepdim=True)) * length


def officially_ranked(score: str, step: Step, eager: Eager, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
    """The same as the sources have it, of whole maps."""
    if score not in SCORES:
        return _method(score).official(eager).scores, {}
    first, last = eager.prefix, eager.attentions[-1]
    name = score if score != "auto" else "cls" if first else "keys"
    if name == "column":
        return (last.sum(dim=2) / last.shape[2]).mean(dim=1)[:, first:], {}
    if name == "keys":
        return -eager.keys[:, :, first:].mean(dim=1).square().sum(dim=2).sqrt(), {}
    if name == "cls":
        return last[:, :, 0, first:].mean(dim=1), {}
    cumulative = carried.get("flow")
    for back in (2, 1):
        if len(eager.attentions) < back or eager.attentions[-back].shape != last.shape:
            continue
        row = eager.attentions[-back].mean(dim=1)[:, 0, first:]
        values = eager.values[-back]
        products = torch.einsum("bhd,bhjd->bhj", values[:, :, 0], values)
        semantic = products.softmax(dim=2)[:, :, first:].mean(dim=1)
        information = torch.einsum("bhjd->bjd", values)[:, first:].div(values.shape[1]).norm(p=1, dim=2)
        score_here = (row / row.sum(1)[:, None] + semantic / semantic.sum(1)[:, None]) * information
        cumulative = score_here if cumulative is None else 0.5 * cumulative + 0.5 * score_here
    assert cumulative is not None
    return cumulative, {"flow": cumulative}
