"""What an engine of the decoder is given, and what all engines have: one file for each in this folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError

__all__ = ["Encoded", "Engine", "Prompted", "Sampling"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image, as the encoder gives it."""

    tokens: NDArray[Any]
    """[K, D] float32 or float16, in the order in which the decoder reads them"""
    positions: NDArray[np.int32] | None = None
    """[3, K] time, row and column of each token in the whole image; None where positions count along one axis"""
    side: int = 0
    """the longer side of the whole image's grid: how far text behind it goes on, where there are positions"""
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """name -> [K, D], added behind the first, the second, ... layer of the decoder (`Assembled.extras`)"""
    image_ms: float = 0.0
    """that reading, resizing and cutting it up took"""
    encoder_ms: float = 0.0


@dataclass(frozen=True, eq=False)
class Prompted:
    """A prompt as the decoder takes it: ids with exactly as many image ids as its images have tokens."""

    ids: tuple[int, ...]
    images: tuple[Encoded, ...]
    spare: int = 0
    """positions to have room for behind the answer, in a conversation that may go on"""

    @property
    def tokens(self) -> NDArray[Any]:
        """[sum of K, D], of all images, in the order of the prompt."""
        return np.concatenate([image.tokens for image in self.images])

    def behind_images(self, image: int) -> int:
        """How many ids there are up to the last one of an image."""
        return max((at for at, id in enumerate(self.ids, start=1) if id == image), default=0)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, as the engines name it. Greedy where temperature is 0, or top_k is 1."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    """of the likeliest; 0 for all"""
    top_p: float = 1.0
    """the fewest likeliest that hold this share of the probability"""
    seed: int | None = None
    """None for another one each time"""
    past_stop: bool = False
    """whether it goes on to max_new_tokens behind what would end the answer, to be timed"""

    def __post_init__(self) -> None:
        """Raises RequestError when a value is out of its range."""
        for holds, rule, given in (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1", self.max_new_tokens),
            (0 <= self.temperature < float("inf"), "temperature must be 0 or above", self.temperature),
            (self.top_k >= 0, "top_k must be 0 (all) or above", self.top_k),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1", self.top_p),
        ):
            if not holds:
                raise RequestError(f"{rule}, got {given}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


class Engine(Protocol):
    """A decoder that is open. Not thread-safe: it has one cache, in which one answer after the other comes to be."""

    name: str
    version: str

    def answer(self, prompt: Prompted, sampling: Sampling) -> Iterator[int]:
        """The ids of the answer one by one, the one behind which it ends among them; max_new_tokens at most.

        The first one comes when the whole prompt has been read. What the cache holds already of it, of the prompt and
        the answer before, need not be read again.

        Raises BundleError when the engine fails on the way.
        """

    def forget(self) -> None:
        """Empty the cache."""

    def close(self) -> None: ...
