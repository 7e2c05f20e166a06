"""Frames of a video with the prior that their motion is, beside what it keeps: `edgeprune show BUNDLE VIDEO --prior motion`.

    the frame, as the encoder sees it | what is kept of it | the prior: how far each patch's blocks moved
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.runtime.devices import AUTO
from edgeprune.runtime.loading import load
from edgeprune.runtime.priors import as_prior, moving
from edgeprune.runtime.runner import Runner
from edgeprune.runtime.saving import save
from edgeprune.runtime.show import draw

__all__ = ["MOTION", "draw_video"]

MOTION = "motion"
_COLD, _HOT = np.array((28, 30, 44), np.float32), np.array((255, 176, 46), np.float32)


def draw_video(
    bundle: str | os.PathLike[str],
    video: Path,
    folder: Path,
    every: int = 1,
    device: str = AUTO,
    told: Callable[[str], None] = lambda name: None,
) -> list[Path]:
    """Write frame-0000.png, ... into a folder that is there; returns what was written.

    bundle: whose graph takes a prior; every: only each so many-th frame is run and drawn; told: called with each name

    Raises RequestError for a bundle without a prior, and as `edgeprune.runtime.priors.moving` does.
    """
    if every < 1:
        raise RequestError(f"--every must be at least 1, got {every}")
    written = []
    with load(bundle, device) as runner:
        if "prior" not in runner.manifest.ports:
            raise RequestError(
                f"a prior needs a bundle whose graph takes one, this one of {runner.manifest.method} does not; export it "
                "with --prior, such as --prior fuse:0.5"
            )
        for place, picture in _pictures(runner, video, folder, every):
            told(place.name)
            save(place, lambda file, one=picture: one.save(file, format="PNG"))  # type: ignore[misc]
            written.append(place)
    return written


def _pictures(runner: Runner, video: Path, folder: Path, every: int) -> Iterator[tuple[Path, Image.Image]]:
    for number, frame in enumerate(moving(video, runner.grid, runner.preprocessing)):
        if number % every:
            continue
        prior = as_prior([frame.prior], runner.grid)
        seen = draw(runner, frame.rgb, inputs={"prior": prior})
        yield folder / f"frame-{number:04}.png", _beside(seen, frame.prior.reshape(runner.grid))


def _beside(picture: Image.Image, prior: NDArray[np.float32]) -> Image.Image:
    """The picture with a map of the prior at its right, black where it is 0 and bright where it is the largest."""
    height = picture.height - 2 * (margin := picture.height // 28)
    share = prior / max(float(prior.max()), 1e-12)
    colours = (_COLD + share[..., None] * (_HOT - _COLD)).astype(np.uint8)
    side = round(height * 0.9)
    drawn = Image.fromarray(colours).resize((side * prior.shape[1] // prior.shape[0], side), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (picture.width + drawn.width + margin, picture.height), picture.getpixel((0, 0)))  # type: ignore[arg-type]
    canvas.paste(picture, (0, 0))
    canvas.paste(drawn, (picture.width, margin))
    return canvas
