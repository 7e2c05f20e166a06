"""A YOLOS detector that goes on with the patches that a rule keeps: what is fine-tuned, and what is judged.

    with dropping(tower, depth, choose): model(pixel_values)      the hooks that the export traces with

The model is transformers' own, with both tables of positions as they are stored, so that they train and are saved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.encoders import Tower, yolos
from edgeprune.encoders._attention import recording
from edgeprune.errors import ModelError
from edgeprune.export.processor import read_processor
from edgeprune.pruners import Host, Selection, received
from edgeprune.pruners._scorer import Scorer
from edgeprune.pruners.bavit import Method
from edgeprune.quality.trunk import default_detector
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.shortening import dropping
from edgeprune.taps import Taps

__all__ = ["SparseDetector", "numbered", "open_sparse"]

Choose = Callable[[Tensor], Tensor]
"""[B, N, C], the patches at the place of dropping -> rows [B, K] int64, ascending"""


@dataclass(frozen=True)
class SparseDetector:
    """A detector and the scorer that ranks its patches. Raises as `Method.fitted` does when they do not fit."""

    checkpoint: Checkpoint
    model: Any
    """YolosForObjectDetection; it trains where it is told to"""
    tower: Tower
    method: Method
    preprocessing: Preprocessing

    @property
    def id(self) -> str:
        return self.checkpoint.id

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images in pixels"""
        return self.tower.image_size

    @property
    def patches(self) -> int:
        """N"""
        return self.tower.grid[0] * self.tower.grid[1]

    @property
    def classes(self) -> tuple[str, ...]:
        return yolos.labels(self.model)

    def keep_of(self, share: float) -> int:
        """Patches that are this share of all; of a coarse scorer, whole blocks of them."""
        block = self.method.side**2
        return min(self.patches, max(block, round(share * self.patches / block) * block))

    def select(self, pixels: Tensor, patches: Tensor, keep: int, spread: bool = False) -> Selection:
        """By the scorer, without a gradient. pixels: [B, 3, H, W]; patches: [B, N, C] at the place of dropping.

        spread: as the option of the method
        """
        tower, method = self.tower, dataclasses.replace(self.method, keep=keep, spread=spread)
        place = tower.grid, tower.prefix, len(tower.blocks)
        with torch.no_grad():
            return method.select(Taps({}, patches, patches, *place, suffix=tower.suffix, pixels=pixels))

    def __call__(self, pixels: Tensor, choose: Choose | None = None) -> Any:
        """What YolosForObjectDetection returns, logits and pred_boxes.

        choose: which patches it goes on with; None for all
        """
        if choose is None:
            return self.model(pixels)
        with dropping(self.tower, self.depth, choose):
            return self.model(pixels)

    def received(self, pixels: Tensor, keep: int, layer: int) -> Any:
        """The same on what the untrained method `received` keeps behind so many layers. Raises MethodError where there
        are not as many."""
        tower, method = self.tower, received.Method(keep, layer)
        read = {at: tower.attention[at] for at in method.layers(len(tower.blocks))}
        with recording(tower.module, read.values()) as seen:

            def choose(patches: Tensor) -> Tensor:
                attention = {at: seen.attention[module] for at, module in read.items()}
                place = tower.grid, tower.prefix, len(tower.blocks)
                return method.select(Taps(attention, patches, patches, *place, suffix=tower.suffix)).indices

            with dropping(tower, layer, choose):
                return self.model(pixels)

    @property
    def depth(self) -> int:
        """Layers that see every patch."""
        return self.method.steps(len(self.tower.blocks))[0]

    def train_behind(self) -> None:
        """Lets everything train that the scorer does not read; what it reads must stay as it was trained on."""
        self.model.requires_grad_(True)
        if not (depth := self.depth):
            return
        for part in (self.tower.embeddings, *self.tower.blocks[:depth]):
            assert part is not None
            part.requires_grad_(False)
        if self.tower.between is not None:  # one table for all layers: those in front of the scorer get no gradient
            (table,) = self.tower.between.parameters()
            behind = (torch.arange(len(table)) >= depth).view(-1, *(1,) * (table.dim() - 1))
            table.register_hook(lambda gradient: gradient * behind.to(gradient.device))  # type: ignore[no-untyped-call]


def open_sparse(model: str | Path | None, scorer: Scorer, size: tuple[int, int] | None = None) -> SparseDetector:
    """A detector at its own size, or at another one, with its weights in float32.

    model: folder or Hugging Face id; None for the detector of drawn scenes that comes along

    Raises ModelError when it is no YOLOS, RequestError when the size is no multiple of the patch, and as
    `open_checkpoint` and `Method.fitted`.
    """
    checkpoint = open_checkpoint(str(default_detector() if model is None else model))
    if (kind := checkpoint.config.get("model_type")) != "yolos":
        raise ModelError(f"--model must be a YOLOS detector, {checkpoint.id} is {kind or 'unknown'}")
    whole, size = yolos.detector(checkpoint, size)
    tower = yolos.tower_of(whole, size)
    preprocessing = read_processor(checkpoint.processor, size, model_type="yolos")
    host = Host(
        tower.grid,
        tower.patch_embedding.kernel_size[0],
        tower.width,
        len(tower.blocks),
        preprocessing.mean,
        preprocessing.std,
    )
    method = Method.fitted(tower.grid[0] * tower.grid[1], scorer, host)
    return SparseDetector(checkpoint, whole, tower, method, preprocessing)


def numbered(wanted: tuple[str, ...], have: tuple[str, ...], id: str) -> list[int]:
    """The places of some class names among those of a detector. Raises ModelError when one is not there."""
    if absent := [name for name in wanted if name not in have]:
        raise ModelError(
            f"{id} must know the classes of the images; of {len(wanted)} it lacks {len(absent)}, the first is "
            f"'{absent[0]}'; it has {', '.join(have[:5])}{', ...' if len(have) > 5 else ''}: rename them in the "
            f"annotations"
        )
    return [have.index(name) for name in wanted]
