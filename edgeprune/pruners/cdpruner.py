"""CDPruner: keep the patches that span the most, weighed by what they have to do with a question.

    rel[i]  = -v_i . t                     v: features in CLIP's joint space, unit; t: the text, a mean of unit vectors
    r[i]    = 1 - (max rel - rel[i]) / max(max rel - min rel, |t| / 100)
    L[i, j] = r_i cos(x_i, x_j) r_j        x: behind the projector
    next    = argmax over j of det L[S + j] / det L[S]      S: the chosen
    score[j] = that ratio, for the patches that were picked

A text of zeros makes every r 1, which is `dpp`. `--option form=openvino` is the form of OpenVINO GenAI, whose text is
the language model's: rel[i] = +x_i . t with unit x, L = (1 - w) cos + w r cos r, w = `weight`, and the upper and the
lower half of the raster are chosen from apart, K // 2 of the upper one.

Paper   https://arxiv.org/abs/2506.10967
Source  Theia-4869/CDPruner@9541616 llava/model/llava_arch.py, encode_images;
        openvinotoolkit/openvino.genai@da1db86 src/cpp/src/visual_language/cdpruner
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeprune import pruners
from edgeprune.errors import MethodError, unknown_name
from edgeprune.ports import ALIGNED, TEXT, TOKENS, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._determinant import SMALLEST, by_cholesky, by_elimination
from edgeprune.pruners._greedy import cosine, unit
from edgeprune.taps import Taps

FORMS = ("paper", "openvino")
FLAT = 1e-2
"""the share of the text's length that the spread of relevance is taken for at least"""
TINY = 1e-12


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    form: str = "paper"
    weight: float = 0.5
    written_from: ClassVar[str] = "official code at Theia-4869/CDPruner@9541616"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="1020 M",
        early=False,
        asks=True,
        nested=True,
        deviations=(
            f"its spread is taken as {FLAT:g} of the text's length at least, and the most relevant patch has 1; the "
            "official code divides by the spread alone, and adds 1e-6 to each",
            "the cosine of a patch with itself is 1, so that the first of equals is picked first; in the official code "
            "rounding decides",
            f"a pick that has {SMALLEST:g} left or less takes nothing from the others; the official code divides by it",
        ),
        on_tiles=("relevance is stretched tile by tile; the official code stretches it over all of an image together",),
    )

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise MethodError(unknown_name("form of cdpruner", self.form, FORMS))
        if not 0 < self.weight <= 1:
            raise MethodError(f"option weight of cdpruner must be in (0, 1], got {self.weight:g}; 0.5 is OpenVINO's")

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(ALIGNED if self.form == "paper" else TOKENS),)

    @property
    def nests(self) -> bool:
        return self.form == "paper"

    def parts(self, patches: int) -> list[list[int]]:
        """[first patch, end, how many are kept] of each part of the raster that is chosen from apart."""
        half, first = patches // 2, self.keep // 2
        halves = [[0, half, first], [half, patches, self.keep - first]]
        return [[0, patches, self.keep]] if self.form == "paper" else [part for part in halves if part[2]]

    def rule(self, patches: int) -> dict[str, Any]:
        return {
            "name": "greedy",
            "objective": "relevant",
            "smallest": SMALLEST,
            "flat": FLAT,
            "weight": self._weight,
            "parts": [] if self.nests else self.parts(patches),
        }

    @property
    def _weight(self) -> float:
        return 1.0 if self.form == "paper" else self.weight

    def select(self, taps: Taps) -> Selection:
        text, x = taps.given[TEXT], taps.projected.float()
        signed = -taps.aligned().float() if self.form == "paper" else x
        relevance = (unit(signed) @ text.unsqueeze(-1)).squeeze(-1)
        length, similarity = torch.linalg.vector_norm(text, dim=-1, keepdim=True), cosine(x)
        scores, picks = torch.full_like(relevance, -torch.inf), []
        for start, end, count in self.parts(x.shape[1]):
            own = similarity[:, start:end, start:end].clone()
            chosen = self._chosen(own, relevance[:, start:end], length, count)
            ends = start, x.shape[1] - end
            scores = torch.maximum(scores, torch.nn.functional.pad(chosen.scores, ends, value=-torch.inf))
            assert chosen.picks is not None
            picks.append(chosen.picks + start)
        order = torch.cat(picks, dim=1)
        return Selection(order.sort(dim=-1).values, scores, picks=order)

    def _chosen(self, similarity: Tensor, relevance: Tensor, length: Tensor, keep: int) -> Selection:
        weight = self._weight
        high, low = relevance.amax(dim=-1, keepdim=True), relevance.amin(dim=-1, keepdim=True)
        spread = torch.maximum(high - low, FLAT * length).clamp_min(TINY)
        r = 1 - (high - relevance) / spread
        both = (1 - weight) + weight * r.unsqueeze(-1) * r.unsqueeze(1)
        return by_cholesky(similarity * both, (1 - weight) + weight * r * r, keep)

    def official(self, eager: Eager) -> Selection:
        text, x = eager.given[TEXT], torch.nn.functional.normalize(eager.projected, dim=-1)
        v = -torch.nn.functional.normalize(eager.aligned, dim=-1) if self.form == "paper" else x
        relevance, lengths = torch.bmm(v, text[:, :, None])[:, :, 0], text.norm(dim=1)
        similarity = torch.bmm(x, x.mT)
        quantities = {"similarity": similarity, "relevance": relevance, "length": lengths[:, None]}
        itself = similarity + torch.diag_embed(1 - similarity.diagonal(dim1=1, dim2=2))
        scores, picks = torch.full_like(relevance, -torch.inf), []
        for start, stop, keep in self.parts(relevance.shape[1]):
            own = relevance[:, start:stop]
            most = own.max(dim=1, keepdim=True).values
            spread = (most - own.min(dim=1, keepdim=True).values).clamp(min=TINY)
            r = (own - most) / spread.max(FLAT * lengths[:, None]) + 1
            kernel = itself[:, start:stop, start:stop]
            conditioned = r[:, :, None] * kernel * r[:, None, :]
            chosen = by_elimination(torch.lerp(kernel, conditioned, self._weight), keep)
            scores[:, start:stop] = chosen.scores
            assert chosen.picks is not None
            picks.append(chosen.picks + start)
        order = torch.cat(picks, dim=1)
        return replace(Selection(order.sort(dim=1).values, scores, picks=order), quantities=quantities)
