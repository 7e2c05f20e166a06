"""CoViPAL: keep the patches that a trained scorer expects the language model's deeper layers to attend to.

    a[i]     = for each of 4 heads, softmax over words m of q(x_i) . k(t_m) / sqrt(32), times v(t_m); 0 without a word
    score[i] = softmax over patches of w . gelu(p(x_i) + a[i])          x: features behind the projector, D wide, behind
                                                                        a norm; D -> 128
    t[m]     : the language model's embeddings of all of the question's tokens, behind another norm

`text_mask` says which rows are tokens. score is the share of attention that each patch gets, as `edgeprune train
covipal` teaches it (`edgeprune.train.attention`), so that no box has to be drawn around anything.
What is known of CoViPAL: scores p(H_v, H_t) of a small classifier on both kinds of tokens in front of the language
model, top-k of them, and two stages of training, the first on what a deeper layer attends to, over all of its heads.
What the classifier is made of is ours.

Source  ours, after the abstract of https://arxiv.org/abs/2508.17243 and third-party notes of the paper. --scorer takes
        what `edgeprune train` wrote
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.ports import TEXT, TEXT_MASK, Port, words_ports
from edgeprune.pruners import Eager, Selection, Traits
from edgeprune.pruners._learned import Learned, check_width, read_learned
from edgeprune.pruners._select import ranked_top
from edgeprune.taps import Taps

HIDDEN, HEADS = 128, 4
FAR = -1e9
"""the logit of a row that is no word"""


class Scorer(Learned):
    """Which patches a question has the language model look at."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = {"width": width}
        self.patch_norm, self.word_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.patch, self.key, self.value = (nn.Linear(width, HIDDEN) for _ in range(4))
        self.last = nn.Linear(HIDDEN, 1)

    def normalised(self, mean: Tensor, spread: Tensor) -> None:
        """It has norms of its own."""

    def forward(self, tokens: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """[B, N, D], [B, L, D], [B, L] -> [B, N] float32"""
        return self.asked(*self.seen(tokens), text, mask)

    def seen(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What hangs on the image alone: [B, N, D] -> [B, N, 128] float32, twice."""
        x = self.patch_norm(tokens.float())
        return self.query(x), self.patch(x)

    def asked(self, query: Tensor, patch: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """[B, N, 128] twice, [B, L, D], [B, L] -> [B, N] float32"""
        words, is_word = self.word_norm(text.float()), mask > 0
        value = self.value(words) * is_word.unsqueeze(-1)  # nothing is read where there is no word
        query, key, value = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in (query, self.key(words), value))
        logits = query @ key.transpose(2, 3) * (HIDDEN // HEADS) ** -0.5
        shares = torch.where(is_word[:, None, None, :], logits, FAR).softmax(dim=-1)
        read = (shares @ value).transpose(1, 2).flatten(2)
        scores: Tensor = self.last(nn.functional.gelu(patch + read)).squeeze(-1)
        return scores


@dataclass(frozen=True)
class Method(pruners.Method):
    keep: int
    scorer: Scorer = field()  # without the default that it has in the base
    texts: int = 64
    """rows of the text, L: as many tokens as a question may have"""
    written_from: ClassVar[str] = "ours"
    learns: ClassVar[str] = "attention"
    traits: ClassVar[Traits] = Traits(
        reads=("projected features",),
        multiply_adds="680.6 M",
        early=False,
        asks=True,
        nested=True,
        trained_by="edgeprune train covipal",
        deviations=(
            "the classifier reads words by one layer of attention, 128 wide, and has two layers; the notes do not say",
            "trained by the first stage alone, on the mean of the deeper half of the layers by a divergence of shares; "
            "the notes name one layer and squared differences, and a second stage through the whole model",
            "a question has option texts tokens at most, and without any the patches are ranked by themselves",
            "scores, and what gives them, are float32 in every precision",
        ),
    )

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise MethodError(f"option texts of covipal must be 1 or more, got {self.texts}")

    @classmethod
    def untrained(cls, features: int, tokens: int) -> Scorer:
        return Scorer(tokens)

    @classmethod
    def read(cls, path: Path) -> Scorer:
        return read_learned(path, "covipal", Scorer)

    @classmethod
    def fitted(cls, keep: int, scorer: Scorer, host: pruners.Host, **options: Any) -> Method:
        check_width("covipal", "projected features", scorer.sizes["width"], host.tokens)
        return cls(keep, scorer, **options)

    @property
    def ports(self) -> tuple[Port, ...]:
        return words_ports(self.texts, whole=True)

    def rule(self, patches: int) -> dict[str, Any]:
        return {"name": "topk", "shares": True}

    def options(self) -> dict[str, Any]:
        return {"texts": self.texts, "sha256": self.scorer.digest}

    def multiply_adds(self, patches: int) -> int:
        width = self.scorer.sizes["width"]
        return HIDDEN * (2 * width * (patches + self.texts) + patches * (2 * self.texts + 1))

    def select(self, taps: Taps) -> Selection:
        scores = self.scorer(taps.projected, taps.given[TEXT], taps.given[TEXT_MASK]).softmax(dim=-1)
        indices, picks = ranked_top(scores, self.keep)
        return Selection(indices, scores, picks=picks)

    def official(self, eager: Eager) -> Selection:
        made = self.scorer
        x, t = (
            nn.functional.layer_norm(one.float(), one.shape[2:], norm.weight, norm.bias, norm.eps)
            for one, norm in ((eager.projected, made.patch_norm), (eager.given[TEXT], made.word_norm))
        )
        query, patch, key, value = (
            torch.matmul(z, part.weight.mT) + part.bias
            for z, part in ((x, made.query), (x, made.patch), (t, made.key), (t, made.value))
        )
        said, read = eager.given[TEXT_MASK][:, None].clamp(0, 1), []
        for q, k, v in zip(*(torch.split(one, 32, dim=2) for one in (query, key, value)), strict=True):
            logits = torch.bmm(q, k.mT) / 32**0.5
            weights = torch.exp(logits - logits.amax(dim=2, keepdim=True)) * said
            read.append(torch.bmm(weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-30), v))
        hidden = nn.functional.gelu(patch + torch.cat(read, dim=2))
        score = torch.exp((hidden * made.last.weight).sum(dim=2) + made.last.bias).double()
        score = (score / score.sum(dim=1, keepdim=True)).float()
        picks = score.argsort(dim=1, descending=True)[:, : self.keep]
        return Selection(picks.sort(dim=1).values, score, picks=picks)
