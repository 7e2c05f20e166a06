"""A tiny model in torch and assembled, asked the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgeprune.integrations.transformers import generation_inputs
from edgeprune.runtime.generate import Model, Prompted, Sampling
from tests.export.assemble.kinds import STOP, WORDS

__all__ = ["NEW", "PHOTOS", "PROMPTS", "QUESTIONS", "Made"]

NEW = 12
PHOTOS = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
    for seed, size in enumerate([(96, 60, 3), (60, 96, 3)])
]
QUESTIONS = [" ".join(np.random.default_rng(seed).choice(WORDS, 2 + seed)) for seed in range(4)]
PROMPTS = [(photo, question) for photo in PHOTOS for question in QUESTIONS]


@dataclass(frozen=True)
class Made:
    whole: Any
    """of torch"""
    model: Model

    def torch_says(self, images: list[Image.Image], ids: tuple[int, ...]) -> list[int]:
        """Greedy, to the end of an answer; with the same tokens."""
        with torch.inference_mode():
            inputs = generation_inputs(self.whole, self.model.encoder, list(images), torch.tensor([ids]))
            assert inputs["input_ids"].tolist() == [list(ids)]
            found = self.whole.generate(
                **inputs,
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=STOP,
                pad_token_id=0,
            )
        return found[0, len(ids) :].tolist()  # type: ignore[no-any-return]

    def prompt(self, images: list[Image.Image], *turns: str) -> Prompted:
        """Questions of turns, the images in front of the first; between them an answer of one word."""
        encoded = [self.model.encode(image) for image in images]
        messages: list[dict[str, Any]] = []
        for turn in turns:
            if messages:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": WORDS[0]}]})
            pictures = [{"type": "image"} for _ in images] if not messages else []
            messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": turn}]})
        return Prompted(self.model.chat.ids(messages, [len(one.tokens) for one in encoded]), tuple(encoded))

    def says(self, prompt: Prompted) -> list[int]:
        return list(self.model.engine.answer(prompt, Sampling(NEW)))
