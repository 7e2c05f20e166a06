"""The images that ranges are taken of, one after the other, and what they make of the products' inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgeprune.errors import ImageError, RequestError
from edgeprune.export.images import drawn, drawn_warning
from edgeprune.export.quantise.histogram import Histogram
from edgeprune.export.quantise.products import Products, watching
from edgeprune.export.request import SCENES, check_calibration
from edgeprune.runtime.images.preprocess import Preprocessing, as_rgb

__all__ = ["Calibration", "Calibrator", "Source", "batch_of", "source_of"]

DRAWN = "drawn scenes and probes"


@dataclass(frozen=True)
class Source:
    """Where images come from, and how many."""

    said: str
    count: int
    image: Callable[[int], Image.Image]
    """one of them, RGB"""
    asked: bool
    """whether they are what the user asked for"""

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.asked:
            return ()
        return (drawn_warning("ranges of activations were taken", self.count, "--calibration", self.said),)


@dataclass(frozen=True)
class Calibration:
    """What images made of the inputs of products."""

    source: Source
    digest: str
    """sha256 of the pixels, in order"""
    ranges: Mapping[str, tuple[float, float]]
    """product -> low and high of its input"""
    largest: Mapping[str, Tensor]
    """product -> [C], the largest |value| of each channel of its input"""
    percentile: float
    """of the values that a range holds"""

    def check(self, names: Iterable[str]) -> None:
        """Raises RequestError where one of these products was given zeros only: no scale follows from them."""
        for name in names:
            if self.ranges[name] == (0.0, 0.0):
                raise RequestError(
                    f"{name} must be given something to take a range of; it is given zeros on all {self.source.count} "
                    f"images of {self.source.said}: give others with --calibration, or --keep-float {name}"
                )

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """As the manifest has it, with the ranges of these products."""
        return {
            "images": self.source.count,
            "source": self.source.said,
            "digest": self.digest,
            "method": f"percentile {self.percentile:g}",
            "ranges": {name: list(self.ranges[name]) for name in names},
        }


def source_of(
    given: str | None,
    count: int,
    probes: Mapping[str, Image.Image],
    size: tuple[int, int],
    within: tuple[float, float] | None = None,
) -> Source:
    """given: a folder, or SCENES; None: SCENES; size: (height, width) of drawn ones; within: black and white of
    a folder's images of more than 8 bits

    Raises ImageError as `check_calibration` does.
    """
    if given in (None, SCENES):
        own = [*probes.values()][:count]
        scenes = drawn(size, count)
        return Source(
            DRAWN, count, lambda at: own[at] if at < len(own) else Image.fromarray(scenes[at].image), given is not None
        )
    folder = Path(str(given))
    paths = check_calibration(folder, within)[:count]
    return Source(folder.resolve().name, len(paths), lambda at: _read(paths[at], within), True)


def _read(path: Path, within: tuple[float, float] | None) -> Image.Image:
    try:
        return as_rgb(path, True, within)
    except ImageError as error:
        raise error if str(path) in str(error) else ImageError(f"--calibration: {path}: {error}") from None


class Calibrator:
    """Runs images through a module, `batch` at a time, with a histogram for each tensor that products are given.

    What was run stays: more images go on where the last ones ended.
    """

    def __init__(
        self,
        module: nn.Module,
        products: Products,
        source: Source,
        preprocessing: Preprocessing,
        batch: int,
        told: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._module, self._products, self._source, self._told = module, products, source, told
        self._preprocessing, self._batch = preprocessing, batch
        self._runs, self._digest = 0, hashlib.sha256()
        self._shared: dict[str, str] = {}
        self._histograms: dict[str, Histogram] = {}

    def run(self, what: str, count: int | None = None) -> None:
        """So many images of the source, or all, but for those that were run; what: they are run for."""
        runs = -(-min(count or self._source.count, self._source.count) // self._batch)
        for at in range(self._runs, runs):
            images = self._run(what, at, self._products)
            for image in images:
                self._digest.update(np.asarray(image).tobytes())
        self._runs = max(self._runs, runs)

    def again(self, what: str, names: Iterable[str]) -> None:
        """All that were run, for these products alone: what they are given is something else by now."""
        anew = {name: self._products[name] for name in names}
        for name in anew:
            self._histograms.pop(self._shared.pop(name), None)
        for at in range(self._runs if anew else 0):
            self._run(what, at, anew)

    def calibration(self, percentile: float = 100.0) -> Calibration:
        """percentile: of the values that a range holds"""
        histograms = {name: self._histograms[self._shared[name]] for name in self._products if name in self._shared}
        ranges = {name: one.range(percentile) for name, one in histograms.items()}
        largest = {name: one.largest for name, one in histograms.items()}
        return Calibration(self._source, self._digest.hexdigest(), ranges, largest, percentile)

    def _run(self, what: str, at: int, products: Products) -> list[Image.Image]:
        self._told(f"{what}, {at * self._batch} of {self._source.count} images")
        pixel_values, images = batch_of(self._source, self._preprocessing, self._batch, at)
        given: list[tuple[str, Tensor]] = []

        def seen(name: str, x: Tensor) -> None:
            if name not in self._shared:  # that of an earlier product, where it is the same tensor
                self._shared[name] = next((other for other, one in given if one is x), name)
            given.append((name, x))
            if self._shared[name] == name:
                self._histograms.setdefault(name, Histogram()).add(x)

        with torch.inference_mode(), watching(products, seen):
            self._module(pixel_values)
        return images


def batch_of(source: Source, preprocessing: Preprocessing, batch: int, at: int) -> tuple[Tensor, list[Image.Image]]:
    """[B, 3, H, W] float32, and the images that are new in it; the last is filled with the first images."""
    start = at * batch
    images = [source.image(one % source.count).convert("RGB") for one in range(start, start + batch)]
    return torch.from_numpy(np.stack([preprocessing(one) for one in images])), images[: source.count - start]
