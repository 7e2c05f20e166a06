"""The questions about an image behind each other in one sequence, so that all share one pass over its tokens.

front, image, question 1, question 2, ...      each sees the front, the image and itself
0, 1, ...,    p, p + 1, ..., p, p + 1, ...     its positions are those that it would have alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Packed", "Prompt", "hidden_states", "length", "pack", "padded"]

Prompt = tuple[list[int], list[int]]
"""ids in front of the image, the same for all questions about it, and behind it"""


@dataclass(frozen=True)
class Packed:
    embedded: Tensor
    """[B, S, D]"""
    sees: Tensor
    """[B, 1, S, S] bool: which position each one attends to"""
    positions: Tensor
    """[B, S] int64"""
    rows: list[int]
    """of each question, in the order of the images, its sequence, and in `ends` where in it its last id stands"""
    ends: list[int]


def length(image: Tensor, prompts: Sequence[Prompt]) -> int:
    """Positions of one image and its questions."""
    return len(prompts[0][0]) + len(image) + sum(len(behind) for _, behind in prompts)


def pack(embed: Any, images: Sequence[Tensor], prompts: Sequence[Sequence[Prompt]]) -> Packed:
    """embed: ids to [..., D]; images: [K, D] of each; prompts: one or more of each.

    Shorter sequences are padded behind, where nothing looks.
    """
    device, total = embed.weight.device, max(map(length, images, prompts))
    embedded = images[0].new_zeros(len(images), total, images[0].shape[1])
    group, positions = torch.zeros(2, len(images), total, dtype=torch.long)  # group 0: what all of the image share
    rows, ends = [], []
    for row, (image, own) in enumerate(zip(images, prompts, strict=True)):
        front, shared = len(own[0][0]), len(own[0][0]) + len(image)
        words = embed(torch.tensor(own[0][0] + [id_ for _, behind in own for id_ in behind], device=device))
        words = words.to(embedded.dtype)
        embedded[row, : len(image) + len(words)] = torch.cat([words[:front], image, words[front:]])
        positions[row, :shared] = torch.arange(shared)
        start = shared
        for number, (_, behind) in enumerate(own, 1):
            end = start + len(behind)
            group[row, start:end] = number
            positions[row, start:end] = shared + torch.arange(len(behind))
            rows.append(row)
            ends.append(end - 1)
            start = end
    sees = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    sees &= torch.ones(total, total, dtype=torch.bool).tril()
    return Packed(embedded, sees[:, None].to(device), positions.to(device), rows, ends)


def hidden_states(decoder: Any, packed: Packed) -> Tensor:
    """[B, S, D] behind the decoder of a transformers model, whose attention must be torch's (`sdpa`)."""
    given = {"attention_mask": packed.sees, "position_ids": packed.positions, "use_cache": False}
    hidden: Tensor = decoder(inputs_embeds=packed.embedded, **given).last_hidden_state
    return hidden


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of several lengths as one: [L, D] of each -> [Q, L, D] float32, and which of its rows are any, [Q, L] bool.

    >>> padded([torch.ones(1, 2), torch.ones(3, 2)])[1]
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    together = torch.nn.utils.rnn.pad_sequence([*texts], batch_first=True).float()
    lengths = torch.tensor([len(one) for one in texts])
    return together, (torch.arange(together.shape[1]) < lengths[:, None]).to(together.device)
