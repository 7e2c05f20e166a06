"""Weigh the heads of a language model's first layer by what is lost without each, for methods that read its keys.

    w_h = max(0, right - right without h) / sum of these over all h

right: the mean score of the model's answers, all image tokens given. A head is left out by zeros in place of what it
hands to the layer's output projection. What HAWK published is of another model, and its ablation is not; this one is
ours. An image is encoded once, and its questions are asked H + 1 times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.quality.language import Language, load_language
from edgeprune.quality.sweep.items import Item
from edgeprune.targets import load
from edgeprune.train.calibrate import features

__all__ = ["weigh_heads", "without_head"]

DIGITS = 6
"""of a weight, in the file and in a manifest alike"""


def weigh_heads(
    request: Request, items: Sequence[Item], show: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, Any]:
    """weights [H] of sum 1; and of what they are: model, questions, right, without [H].

    request: model, revision and layer of it; items: images with their questions

    Raises RequestError where no question is asked or the answers need no head, ModelError as `load_language`.
    """
    asked = sum(len(item.queries) for item in items)
    if not asked:
        raise RequestError("heads are weighed by answers, and these images have no questions; leave --images out")
    loaded = opened(dataclasses.replace(request, method="none", keep=None, options={}), load(request.target))
    language = load_language(request.model, request.revision)
    config = language.model.config.get_text_config()
    heads = int(config.num_attention_heads)
    right = np.zeros(1 + heads)
    for at, item in enumerate(items):
        show(at, len(items), item.name)
        pixels = torch.from_numpy(loaded.preprocessing(item.image())[None])
        with torch.inference_mode():
            tokens = loaded.encoder.project(features(loaded.encoder, pixels))
        for number in range(1 + heads):
            with without_head(language, number - 1):
                (answers,) = language.answers(tokens, [[query.text for query in item.queries]])
            right[number] += sum(query.score(answer) for query, answer in zip(item.queries, answers, strict=True))
    right /= asked
    lost = (right[0] - right[1:]).clip(0)
    if not lost.any():
        raise RequestError(f"the answers of {language.name} are as good without any one head; give more --count")
    return {
        "weights": [round(float(one), DIGITS) for one in lost / lost.sum()],
        "model": language.name,
        "questions": asked,
        "right": round(float(right[0]), DIGITS),
        "without": [round(float(one), DIGITS) for one in right[1:]],
    }


@contextmanager
def without_head(language: Language, head: int) -> Iterator[None]:
    """For a block, the language model without one head of its first layer; below 0: with all of them."""
    output = language.model.model.language_model.layers[0].self_attn.o_proj
    width = output.in_features // int(language.model.config.get_text_config().num_attention_heads)

    def leave_out(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = given[0].clone()
        hidden[..., head * width : (head + 1) * width] = 0
        return (hidden, *given[1:])

    hook = output.register_forward_pre_hook(leave_out) if head >= 0 else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
