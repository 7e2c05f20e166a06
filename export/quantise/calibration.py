"""The images that ranges are taken of, one after the other, and what they make of the products' inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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

__all__ = ["Calibration", "Source", "batches", "calibrated", "source_of"]

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

    def first(self, count: int) -> Source:
        return replace(self, count=min(count, self.count))

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


def calibrated(
    module: nn.Module,
    products: Products,
    source: Source,
    preprocessing: Preprocessing,
    batch: int,
    told: Callable[[str], None] = lambda what: None,
    what: str = "ranges",
    percentile: float = 100.0,
) -> Calibration:
    """Run the images through a module, `batch` at a time, with a histogram for each tensor that products are given.

    what: they are run for; percentile: of the values that a range holds
    """
    shared: dict[str, str] = {}
    histograms: dict[str, Histogram] = {}
    digest = hashlib.sha256()
    for at, (pixel_values, images) in enumerate(batches(source, preprocessing, batch)):
        told(f"{what}, {at * batch} of {source.count} images")
        for image in images:
            digest.update(np.asarray(image).tobytes())
        given: list[tuple[str, Tensor]] = []

        def seen(name: str, x: Tensor, given: list[tuple[str, Tensor]] = given) -> None:
            if name not in shared:  # that of an earlier product, where it is the same tensor
                shared[name] = next((other for other, one in given if one is x), name)
            given.append((name, x))
            if shared[name] == name:
                histograms.setdefault(name, Histogram()).add(x)

        with torch.inference_mode(), watching(products, seen):
            module(pixel_values)
    ranges = {name: histograms[shared[name]].range(percentile) for name in products if name in shared}
    largest = {name: histograms[shared[name]].largest for name in ranges}
    return Calibration(source, digest.hexdigest(), ranges, largest, percentile)


def batches(source: Source, preprocessing: Preprocessing, batch: int) -> Iterator[tuple[Tensor, list[Image.Image]]]:
    """[B, 3, H, W] float32 each, and the images that are new in it; the last is filled with the first images."""
    for start in range(0, source.count, batch):
        images = [source.image(at % source.count).convert("RGB") for at in range(start, start + batch)]
        yield torch.from_numpy(np.stack([preprocessing(one) for one in images])), images[: source.count - start]
