"""Frames of a video with the prior that their motion is, beside what it keeps: `edgeprune show --prior motion`.

the frame, as the encoder sees it | what is kept of it | the prior: how far each patch's blocks moved
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.ports import PRIOR
from edgeprune.runtime.devices import AUTO
from edgeprune.runtime.loading import load
from edgeprune.runtime.priors import as_prior, moving
from edgeprune.runtime.runner import Runner
from edgeprune.runtime.saving import save
from edgeprune.runtime.show import draw

__all__ = ["draw_video"]


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
        if PRIOR not in runner.manifest.ports:
            raise RequestError(
                f"a prior needs a bundle whose graph takes one, this one of {runner.manifest.method} does not; export "
                "it with --prior, such as --prior fuse:0.5"
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
        yield folder / f"frame-{number:04}.png", draw(runner, frame.rgb, inputs={PRIOR: prior})
