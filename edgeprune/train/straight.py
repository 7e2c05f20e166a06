"""Learn which tokens a frozen model needs to answer, straight through the choice of them.

    g[j]   = 1 of the T highest s, FLOOR of the others          s: what the scorer gives each patch
    loss   = cross-entropy of the answers, where log g[j] is added to whatever attends to token j
    dg/ds  = that of sigmoid((s - c) / d)       c: in the middle between the T-th and the next highest; d: spread of s

A token of weight FLOOR is as good as gone, and yet the gradient of log g, 1 / FLOOR, gives it what it would change if
it were there: the choice is hard on the way forth, and no token is left out on the way back. Positions are those that
the kept tokens have without the others. T is drawn anew for every batch, log-uniform, so that the order is learned and
not one budget.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import RequestError
from edgeprune.pruners._learned import Learned
from edgeprune.quality.language import Language
from edgeprune.quality.packing import Packed, Prompt, hidden_states, pack
from edgeprune.quality.sweep.items import LETTERS, Query
from edgeprune.train.sights import Seen, Sights

__all__ = ["Answers"]

FLOOR = 1e-3
FEWEST, MOST = 1 / 24, 1 / 2
"""shares of the tokens that are kept, between which T is drawn"""


class Answers:
    """A `Task`: images, and questions about them whose answers are known."""

    def __init__(self, scorer: Learned, sights: Sights, language: Language, batch: int, seed: int) -> None:
        if bare := [item.name for item in sights.items if not item.queries]:
            raise RequestError(
                f"every image must have a question and its answer, {bare[0]} has none; give --questions with --images"
            )
        self._scorer, self._sights, self._language = scorer, sights, language
        self._batch, self._seed = batch, seed
        self._known: dict[Query, tuple[Prompt, int]] = {}

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Seen, int]]:
        """What is seen of some images, and how many tokens of it are kept."""
        for seen, rng in self._sights.batches(self._batch, self._seed, epoch, first):
            count = seen.features.shape[1]
            low, high = (math.log(max(1, share * count)) for share in (FEWEST, MOST))
            yield seen, max(1, min(count - 1, round(math.exp(rng.uniform(low, high)))))

    def loss(self, batch: tuple[Seen, int]) -> tuple[Tensor, float]:
        seen, keep = batch
        gate = straight(self._scorer(seen.features), keep)
        model = self._language.model
        taught = [[self._taught(query) for query in item.queries] for item in seen.items]
        tokens = list(seen.tokens.to(model.get_input_embeddings().weight))
        packed = gated(pack(model.get_input_embeddings(), tokens, [[one for one, _ in own] for own in taught]),
                       gate, keep, len(taught[0][0][0][0]))  # fmt: skip
        hidden = hidden_states(model.model.language_model, packed)
        rows: list[int] = []
        ends: list[int] = []
        wanted: list[int] = []
        every = [one for own in taught for one in own]
        for row, end, ((_, behind), words) in zip(packed.rows, packed.ends, every, strict=True):
            rows += [row] * words
            ends += range(end - words, end)
            wanted += behind[len(behind) - words :]
        logits = model.lm_head(hidden[rows, ends]).float()
        loss = F.cross_entropy(logits, torch.tensor(wanted, device=logits.device))
        return loss, loss.item()

    def _taught(self, query: Query) -> tuple[Prompt, int]:
        """The prompt with the answer behind it, and of how many ids that is."""
        if query not in self._known:
            front, behind = self._language.prompt(query.text)
            words = self._language.ids(answer_of(query))
            self._known[query] = (front, [*behind, *words]), len(words)
        return self._known[query]


def answer_of(query: Query) -> str:
    """In words; of several people, what most of them said.

    >>> answer_of(Query("vqa", "what?", ("cat", "a cat", "cat")))
    'cat'
    """
    if isinstance(query.truth, int):
        return LETTERS[query.truth]
    return query.truth if isinstance(query.truth, str) else Counter(query.truth).most_common(1)[0][0]


def straight(scores: Tensor, keep: int) -> Tensor:
    """[B, N] -> [B, N], 1 of the highest `keep` and FLOOR of the others, with the gradient of the head."""
    highest = scores.detach().topk(keep + 1, dim=-1).values
    cut = highest[:, -2:].mean(dim=-1, keepdim=True)
    soft = torch.sigmoid((scores - cut) / scores.detach().std().clamp_min(1e-6))
    kept = torch.zeros_like(scores).scatter(1, scores.detach().topk(keep, dim=-1).indices, 1.0)
    return kept.clamp_min(FLOOR) + (soft - soft.detach())


def gated(packed: Packed, gate: Tensor, keep: int, front: int) -> Packed:
    """The same where image tokens weigh as much as their gates, and stand where they would without those of FLOOR.

    gate: [B, N] of the tokens behind `front` positions
    """
    count, total = gate.shape[1], packed.embedded.shape[1]
    end, dtype = front + count, packed.embedded.dtype
    weight = F.pad(gate.log(), (front, total - end)).to(dtype)
    sees = torch.where(packed.sees, weight[:, None, None, :], torch.finfo(dtype).min)
    positions = packed.positions.clone()
    positions[:, front:end] = front + ((gate.detach() > 0.5).cumsum(dim=1) - 1).clamp_min(0)
    positions[:, end:] = (positions[:, end:] - (count - keep)).clamp_min(0)
    return dataclasses.replace(packed, sees=sees, positions=positions)
