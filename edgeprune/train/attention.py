"""Learn which patches the deeper layers of a language model attend to, question by question.

    loss = KL(a || softmax(score))
    a[i]   share of patch i in what the position that answers a question attends to, all tokens there: the mean over
           heads and over the deeper half of the layers, of the patches alone, to a sum of 1
    and beside the questions about an image no question at all, whose a is the mean of theirs

No label is asked for: neither boxes nor right answers are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.encoders._attention import attending
from edgeprune.errors import ModelError, RequestError
from edgeprune.quality.language import Language
from edgeprune.quality.packing import Packed, Prompt, hidden_states, pack, padded
from edgeprune.train.asking import Asking
from edgeprune.train.sights import Seen, Sights

__all__ = ["Attention", "deeper_shares"]


class Attention(Asking):
    """A `Task`: images, and questions about them."""

    def __init__(self, scorer: Any, sights: Sights, language: Language, batch: int, seed: int) -> None:
        if bare := [item.name for item in sights.items if not item.queries]:
            raise RequestError(f"every image must have a question, {bare[0]} has none; give --questions with --images")
        super().__init__(scorer, sights, language, batch, seed)

    def loss(self, batch: Seen) -> tuple[Tensor, float]:
        texts = [[query.text for query in item.queries] for item in batch.items]
        prompts = [[self._language.prompt(text) for text in own] for own in texts]
        every = deeper_shares(self._language, list(batch.tokens), prompts)
        shares = torch.split(every, [len(own) for own in prompts])
        wanted = torch.cat([*shares, torch.stack([own.mean(dim=0) for own in shares])])
        words = [self._language.words(text) for own in texts for text in own]
        nothing = words[0][:0]
        rows = [row for row, own in enumerate(texts) for _ in own] + [*range(len(texts))]
        text, mask = padded([*words, *(nothing for _ in texts)])
        query, patch = self._scorer.seen(batch.tokens)
        scores = self._scorer.asked(query[rows], patch[rows], text, mask)
        loss = F.kl_div(scores.log_softmax(dim=-1), wanted, reduction="batchmean")
        return loss, loss.item()


@torch.no_grad()
def deeper_shares(language: Language, tokens: Sequence[Tensor], prompts: Sequence[Sequence[Prompt]]) -> Tensor:
    """[Q, N] float32, of each question about these images, in their order, rows with a sum of 1.

    tokens: of each image [N, D]; prompts: of its questions, one or more

    Raises ModelError where the layers hand out no attention.
    """
    model = language.model
    embed, decoder = model.get_input_embeddings(), model.model.language_model
    packed = pack(embed, [one.to(embed.weight) for one in tokens], prompts)
    first, count = len(prompts[0][0][0]), len(tokens[0])
    attends = [layer.self_attn for layer in decoder.layers if hasattr(layer, "self_attn")]
    paid: list[Tensor] = []

    def hook(module: Any, given: Any, made: tuple[Tensor, Tensor | None]) -> None:
        if (weights := made[1]) is not None:  # [B, H, S, S]
            every = weights[packed.rows, :, packed.ends, first : first + count]
            paid.append(every.float().mean(dim=1))

    hooks = [one.register_forward_hook(hook) for one in attends[len(attends) // 2 :]]
    try:
        with attending(decoder, "eager"):
            hidden_states(decoder, _added(packed))
    finally:
        for one in hooks:
            one.remove()
    if not hooks or len(paid) < len(hooks):
        raise ModelError(f"the layers of {language.name} must hand out their attention, and do not; focusui needs none")
    total = torch.stack(paid).mean(dim=0)
    return total / total.sum(dim=-1, keepdim=True)


def _added(packed: Packed) -> Packed:
    """With what is seen as numbers to add, as attention that is written out takes it."""
    dtype = packed.embedded.dtype
    nothing = torch.zeros((), dtype=dtype, device=packed.sees.device)
    return dataclasses.replace(packed, sees=torch.where(packed.sees, nothing, torch.finfo(dtype).min))
