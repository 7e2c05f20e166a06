"""Decoder and projector of the embedded model learn to answer; the vision tower stays as it is.

    loss    cross-entropy of the one-word answer and of the end behind it, for up to eight questions about each image

With token drop, each batch sees T of the N tokens, T log-uniform in 12..N: most often those that lie furthest in a
random direction of the feature space, else any; in raster order. LLaVA is not trained so: without it this decoder
counts by the density of tokens. Gradients of such batches must not reach the tower, which would write the whole scene
into every patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.quality.language import Language
from edgeprune.quality.packing import Prompt, hidden_states, pack
from edgeprune.train.drawings import Drawings, pixel_values
from edgeprune.train.schedule import drawn

__all__ = ["Reading", "features"]

FEWEST = 12
AT_RANDOM = 0.4
"""share of the batches that see any tokens"""
WAYS = 8

Step = tuple[list[int], list[int], np.random.Generator]


@dataclass
class Reading:
    """A `Task`. language: of the LlavaForConditionalGeneration that learns; drop: whether tokens are dropped"""

    language: Language
    drawings: Drawings
    batch: int
    per_round: int
    seed: int
    bf16: bool
    drop: bool = False

    def __post_init__(self) -> None:
        self._known: dict[str, Prompt] = {}

    def batches(self, epoch: int, first: int) -> Iterator[Step]:
        """Which scenes, how each is laid down, and the lots of what is dropped."""
        order, _, rng = drawn(len(self.drawings), self.batch, self.seed, epoch)
        ways, lots = rng.integers(WAYS, size=order.shape), rng.integers(1 << 63, size=len(order))
        steps = list(zip(order.tolist(), ways.tolist(), lots.tolist(), strict=True))[first : self.per_round]
        for numbers, how, lot in steps:
            yield numbers, how, np.random.default_rng(lot)

    def loss(self, batch: Step) -> tuple[Tensor, float]:
        numbers, ways, rng = batch
        model, processor = self.language.model, self.language.processor
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                pixels = pixel_values(self.drawings.laid_images(numbers, ways), processor.image_processor)
                seen = features(model, pixels)
            if self.drop:
                seen = dropped(seen, rng)
            tokens = model.model.multi_modal_projector(seen)
            prompts = [[self._taught(*one) for one in self.drawings.questions[number]] for number in numbers]
            packed = pack(model.get_input_embeddings(), list(tokens.float()), prompts)
            hidden = hidden_states(model.model.language_model, packed)
            ends = torch.tensor(packed.ends)
            logits = model.lm_head(torch.cat([hidden[packed.rows, ends - 1], hidden[packed.rows, ends]]))
        answers = [behind[-1] for own in prompts for _, behind in own]
        wanted = torch.tensor(answers + [model.config.text_config.eos_token_id] * len(answers))
        loss = F.cross_entropy(logits.float(), wanted)
        return loss, loss.item()

    def _taught(self, question: str, answer: str) -> Prompt:
        """The prompt with its answer behind it, one id."""
        if question not in self._known:
            self._known[question] = self.language.prompt(question)
        front, behind = self._known[question]
        (word,) = self.language.processor.tokenizer.encode(f" {answer}", add_special_tokens=False)
        return front, [*behind, word]


def features(model: Any, pixels: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, N, C] in front of the projector, without [CLS]"""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    patches: Tensor = hidden[model.config.vision_feature_layer][:, 1:]
    return patches


def dropped(seen: Tensor, rng: np.random.Generator) -> Tensor:
    """[B, N, C] -> [B, T, C]"""
    images, patches, width = seen.shape
    keep = round(math.exp(rng.uniform(math.log(FEWEST), math.log(patches))))
    if rng.random() < AT_RANDOM:
        scores = torch.from_numpy(rng.random((images, patches)))
    else:
        scores = seen.double() @ torch.from_numpy(rng.standard_normal(width))
    rows = scores.topk(keep, dim=1).indices.sort(dim=1).values
    return seen.gather(1, rows[..., None].expand(-1, -1, width))
