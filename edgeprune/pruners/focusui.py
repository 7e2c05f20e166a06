"""FocusUI: keep the patches that a trained scorer finds most like the question.

    E(z)     = MLP(norm(z + MHA(z)))                   8 heads, of the language model's width D; a second one for texts
    v_i      = unit(tanh(E(x)_i))                      x: features behind the projector
    t        = mean over m of unit(tanh(E'(w)_m))      w: the language model's embeddings of the question's tokens
    score[i] = v_i . t

A mean over tokens of the question is one dot product with their mean, so that the graph is given t alone, and E' runs
outside of it (`Scorer.vector`); the bundle brings the weights of both along as scorer.safetensors. `edgeprune train
focusui` trains E and E' on which patches a question is about, by boxes (`edgeprune.train.relevance`).

Source  showlab/FocusUI@894ddcb modeling_patch_scorer.py, modeling_focusui_qwen25vl.py; it has no licence: the
        mathematics only. --scorer takes what `edgeprune train` wrote, not the published weights
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.ports import LEARNED, TEXT, Port, text_port
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._greedy import unit
from edgeprune.pruners._learned import Learned, check_width, read_learned
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

HEADS = 8


class Expert(nn.Module):
    """E: [B, n, D] -> [B, n, D] float32, rows of length 1. rows: [B, n] bool, those that are any; None: all"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        z = z.float()
        parts = (part(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        query, key, value = parts
        mask = None if rows is None else rows[:, None, None, :]
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = seen.transpose(1, 2).flatten(2)
        made = self.down(nn.functional.gelu(self.up(self.norm(z + self.output(attended)))))
        return unit(made.tanh())


class Scorer(Learned):
    """E of patches and E' of texts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = {"width": width}
        self.patches, self.texts = Expert(width), Expert(width)

    def normalised(self, mean: Tensor, spread: Tensor) -> None:
        """It has a norm of its own."""

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """[B, N, D], t [B, D] -> [B, N] float32"""
        scores: Tensor = (self.patches(tokens) @ text.unsqueeze(-1)).squeeze(-1)
        return scores

    def vectors(self, words: Tensor, rows: Tensor) -> Tensor:
        """t of several questions: [Q, L, D], and which of their rows are words, [Q, L] bool -> [Q, D] float32"""
        share = rows.float() / rows.sum(dim=1, keepdim=True).clamp_min(1)
        mean: Tensor = (share.unsqueeze(1) @ self.texts(words, rows)).squeeze(1)
        return mean

    @torch.inference_mode()
    def vector(self, words: Tensor) -> Tensor:
        """t of one question: [L, D], the embeddings of its tokens -> [D] float32"""
        return self.vectors(words[None], torch.ones(1, len(words), dtype=torch.bool))[0]


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    scorer: Scorer = field()  # without the default that it has in the base
    written_from: ClassVar[str] = "official code at showlab/FocusUI@894ddcb"
    learns: ClassVar[str] = "boxes"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="60702.3 M",
        early=False,
        asks=True,
        nested=True,
        trained_by="edgeprune train focusui",
        deviations=(
            "dropped runs leave nothing behind; in the official code each leaves one token at its last place, so that "
            "the count of tokens hangs on the image",
            "of equal scores one is taken as it comes; the official code draws an order from the question",
            "the MLP is two layers of the model's width; scores, and what gives them, are float32 in every precision",
        ),
    )

    @classmethod
    def untrained(cls, features: int, tokens: int) -> Scorer:
        return Scorer(tokens)

    @classmethod
    def read(cls, path: Path) -> Scorer:
        return read_learned(path, "focusui", Scorer)

    @classmethod
    def fitted(cls, keep: int, scorer: Scorer, host: pruners.Host, **options: Any) -> Method:
        check_width("focusui", "projected features", scorer.sizes["width"], host.tokens)
        return cls(keep, scorer, **options)

    @property
    def ports(self) -> tuple[Port, ...]:
        return (text_port(LEARNED, blank=None),)

    def options(self) -> dict[str, Any]:
        return {"sha256": self.scorer.digest}

    def multiply_adds(self, patches: int) -> int:
        width = self.scorer.sizes["width"]
        return patches * width * (6 * width + 2 * patches + 1)

    def select(self, taps: Taps) -> Selection:
        scores = self.scorer(taps.projected, taps.given[TEXT])
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        expert, z = self.scorer.patches, eager.projected
        query, key, value = (
            (torch.matmul(z, part.weight.mT) + part.bias).reshape(*z.shape[:2], expert.heads, -1).movedim(2, 1)
            for part in (expert.query, expert.key, expert.value)
        )
        weights = torch.softmax(torch.matmul(query, key.mT) / query.shape[3] ** 0.5, dim=3)
        attended = torch.matmul(weights, value).movedim(1, 2).flatten(2)
        summed = z + torch.matmul(attended, expert.output.weight.mT) + expert.output.bias
        normed = nn.functional.layer_norm(summed, z.shape[2:], expert.norm.weight, expert.norm.bias, expert.norm.eps)
        hidden = nn.functional.gelu(torch.matmul(normed, expert.up.weight.mT) + expert.up.bias)
        made = torch.tanh(torch.matmul(hidden, expert.down.weight.mT) + expert.down.bias)
        v = nn.functional.normalize(made, dim=2)
        score = torch.bmm(v, eager.given[TEXT][:, :, None])[:, :, 0]
        picks = score.argsort(dim=1, descending=True)[:, : self.keep]
        return Selection(picks.sort(dim=1).values, score, picks=picks)
