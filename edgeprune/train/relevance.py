"""Learn which patches a question is about, from boxes around it, or from what a drawn scene was asked.

    loss = KL(softmax(l) || softmax(score))       l: of each patch the share that the boxes cover

Of drawn scenes it is the objects that the words of the question name; where none is what it asks for, those that share
the colour or the shape, which have to be seen for an answer of no.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import RequestError
from edgeprune.quality.language import Language
from edgeprune.quality.packing import padded
from edgeprune.quality.questions import PLURALS
from edgeprune.quality.scenes import COLORS, PATCH, SHAPES, SIDE, Scene, Thing, draw
from edgeprune.quality.sweep.items import Item, Query
from edgeprune.runtime.priors.patches import Axis, Patches
from edgeprune.train.asking import Asking
from edgeprune.train.sights import Seen, Sights

__all__ = ["Boxes", "asked_about", "covered"]

Mask = NDArray[np.bool_]


class Boxes(Asking):
    """A `Task`: images, and questions about a part of them."""

    def __init__(self, scorer: Any, sights: Sights, language: Language, batch: int, seed: int) -> None:
        for item in sights.items:
            if not item.queries or not (isinstance(item.source, tuple) or all(one.boxes for one in item.queries)):
                raise RequestError(
                    f"every question must have boxes, [[left, top, right, bottom], ...] in pixels, and every image a "
                    f"question; {item.name} lacks one"
                )
        super().__init__(scorer, sights, language, batch, seed)

    def loss(self, batch: Seen) -> tuple[Tensor, float]:
        asked = [(row, query) for row, item in enumerate(batch.items) for query in item.queries]
        texts = self._scorer.vectors(*padded([self._language.words(query.text) for _, query in asked]))
        patches = self._scorer.patches(batch.tokens)[[row for row, _ in asked]]
        scores = (patches @ texts.unsqueeze(-1)).squeeze(-1)
        wanted = torch.stack([label for item in batch.items for label in self._labels(item)]).to(scores)
        loss = F.kl_div(scores.log_softmax(dim=-1), wanted.log_softmax(dim=-1), reduction="batchmean", log_target=True)
        return loss, loss.item()

    def _labels(self, item: Item) -> Iterator[Tensor]:
        """[N] float32 of each question."""
        scene = draw(*item.source) if isinstance(item.source, tuple) else None
        for query in item.queries:
            mask = boxed(item, query) if scene is None else asked_about(scene, query.text)
            yield torch.from_numpy(covered(mask, self._sights.patches(mask.shape)).ravel()).float()


def asked_about(scene: Scene, question: str) -> Mask:
    """[96, 96], true where a scene shows what a question about it asks for."""
    words = question.rstrip("?").split()
    shapes = {shape for shape in SHAPES if {shape, PLURALS[shape]} & {*words}}
    colors = {color for color in COLORS if color in words}

    def both(thing: Thing) -> bool:
        return (not shapes or thing.shape in shapes) and (not colors or thing.color in colors)

    def one(thing: Thing) -> bool:
        return thing.shape in shapes or thing.color in colors

    meant = [at for at, thing in enumerate(scene.things) if both(thing)]
    meant = meant or [at for at, thing in enumerate(scene.things) if one(thing)]
    cells = np.isin(scene.labels, meant).reshape(SIDE // PATCH, SIDE // PATCH)
    mask: Mask = cells.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return mask


def boxed(item: Item, query: Query) -> Mask:
    """[H, W], true in the boxes of a question about a file."""
    from PIL import Image

    assert isinstance(item.source, str)
    with Image.open(item.source) as image:
        mask = np.zeros((image.height, image.width), bool)
    for left, top, right, bottom in query.boxes:
        mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return mask


def covered(mask: Mask, patches: Patches) -> NDArray[np.float64]:
    """[rows, columns], the share of each patch's pixels of the image that the mask has; 0 of a patch without any."""
    down, along = (_members(axis) for axis in (patches.rows, patches.columns))
    area = np.outer(down.sum(axis=1), along.sum(axis=1))
    shares: NDArray[np.float64] = (down @ mask @ along.T) / np.maximum(area, 1)
    return shares


def _members(axis: Axis) -> NDArray[np.float64]:
    """[patches, pixels], 1 where a pixel of the image lies in a patch."""
    inside: NDArray[np.float64] = (axis.cells() == np.arange(axis.count)[:, None]).astype(np.float64)
    return inside
