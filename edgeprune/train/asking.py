"""What tasks have in common whose batches are images with questions about them, seen by a frozen model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeprune.quality.language import Language
from edgeprune.train.sights import Seen, Sights

__all__ = ["Asking"]


class Asking:
    """A `Task` but for its loss."""

    def __init__(self, scorer: Any, sights: Sights, language: Language, batch: int, seed: int) -> None:
        self._scorer, self._sights, self._language = scorer, sights, language
        self._batch, self._seed = batch, seed

    def batches(self, epoch: int, first: int) -> Iterator[Seen]:
        for seen, _ in self._sights.batches(self._batch, self._seed, epoch, first):
            yield seen
