"""Where the tokens of a conversation stand, for rotary positions of one axis or of three.

one axis     0, 1, 2, ... over what is there
three axes   text at n     (n, n, n), (n + 1, n + 1, n + 1), ...
             image at n    n + (time, row, column) of each kept token, its place in the whole image
             text behind   at n + max(rows, columns) of the whole image, whatever was kept

So a token that was kept keeps its place. Numbering what is left without gaps (compact) gives other answers.

Source  transformers Qwen2VLModel.get_rope_index
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError

__all__ = ["compact", "kept", "placeholders"]


def placeholders(ids: Sequence[int], image_token: int, counts: Sequence[int]) -> list[int]:
    """Where each image begins among the ids.

    ids: a conversation, with as many placeholders one after the other as an image has tokens
    counts: tokens of each image, in the order of the conversation

    Raises RequestError when the placeholders are not as many, or there are more of them.
    """
    starts, at = [], 0
    for number, count in enumerate(counts, start=1):
        while at < len(ids) and ids[at] != image_token:
            at += 1
        have = _run(ids, image_token, at, count)
        if have != count:
            raise RequestError(
                f"the prompt must have {count} placeholders (token {image_token}) for image {number} of {len(counts)}, "
                f"one for each of its tokens, got {have}; have the chat template write them, or write {count}"
            )
        starts.append(at)
        at += count
    more = sum(token == image_token for token in ids[at:])
    if more:
        raise RequestError(
            f"the prompt must have {sum(counts)} placeholders (token {image_token}), one for each token of its "
            f"{len(counts)} images, got {sum(counts) + more}; give the missing image, or take the placeholders out"
        )
    return starts


def _run(ids: Sequence[int], token: int, at: int, most: int) -> int:
    """How many of a token stand one after the other, `most` at the most: two images may touch."""
    count = 0
    while count < most and at + count < len(ids) and ids[at + count] == token:
        count += 1
    return count


def compact(length: int) -> NDArray[np.int64]:
    """[1, length]: positions of one axis."""
    return np.arange(length, dtype=np.int64)[None]


def kept(
    length: int, starts: Sequence[int], places: Sequence[NDArray[np.integer[Any]]], sides: Sequence[int]
) -> tuple[NDArray[np.int64], int]:
    """[3, length]: time, row and column of every token of a conversation; and where the token behind it stands.

    length: of the conversation, tokens
    starts: where each image begins in it
    places: [3, K] of each image: (time, row, column) of its tokens in the whole image, from 0
    sides: of each image the longer side of the whole one, max(rows, columns) of its tokens
    """
    parts, at, position = [], 0, 0
    for start, place, side in zip(starts, places, sides, strict=True):
        parts += [_text(position, start - at), place.astype(np.int64) + (position + start - at)]
        position += start - at + side
        at = start + place.shape[1]
    return np.concatenate([*parts, _text(position, length - at)], axis=1), position + length - at


def _text(start: int, length: int) -> NDArray[np.int64]:
    """[3, length], alike on all axes."""
    return np.broadcast_to(np.arange(start, start + length, dtype=np.int64), (3, length))
