"""The images that parity is checked on: drawn scenes, and what breaks rankings (noise, ties, extremes). No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.errors import ImageError
from edgeprune.runtime.images.preprocess import as_rgb, check_file

__all__ = ["check_own", "folder_of", "probes", "scenes"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def probes(
    size: tuple[int, int], folder: Path | None = None, within: tuple[float, float] | None = None
) -> dict[str, Image.Image]:
    """Name -> RGB image; the synthetic ones have the given (height, width).

    A flat image makes all patches tie; black and white are flat at the ends of the range. `folder` adds the user's own,
    read as the runtime reads a file, and those of more than 8 bits with the values `within` as black and white. Raises
    ImageError when it has none, or names the first that cannot be read.
    """
    height, width = size
    ramp = np.linspace(0, 255, height)[:, None] + np.linspace(0, 255, width)[None, :]
    drawn: dict[str, Callable[[], np.ndarray]] = {
        "noise": lambda: np.random.default_rng(0).integers(0, 256, (height, width, 3)),
        "gradient": lambda: np.stack([ramp / 2, ramp[::-1] / 2, ramp[:, ::-1] / 2], axis=-1),
        "flat": lambda: np.full((height, width, 3), 127),
        "black": lambda: np.zeros((height, width, 3)),
        "white": lambda: np.full((height, width, 3), 255),
    }
    images = {path.stem: Image.open(path).convert("RGB") for path in scenes()[:2]}
    images |= {name: Image.fromarray(draw().astype(np.uint8)) for name, draw in drawn.items()}
    own = {} if folder is None else _own(folder)
    return images | {name: as_rgb(path, True, within) for name, path in own.items()}


def scenes() -> list[Path]:
    """The drawn scenes that come with the embedded model."""
    return sorted((Path(str(files("edgeprune"))) / "models" / "tiny" / "scenes").glob("*.png"))


def check_own(folder: Path, within: tuple[float, float] | None = None) -> None:
    """What can be said of the user's own without decoding them. Raises ImageError as `probes` does."""
    for path in _own(folder).values():
        check_file(path, within)


def folder_of(folder: Path, option: str) -> list[Path]:
    """The images of a folder, by name. Raises ImageError where there is none; option: that named it."""
    if not folder.is_dir():
        raise ImageError(f"{option} must be a folder with images; there is no folder {folder}")
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ImageError(f"{option} must be a folder with images ({', '.join(sorted(_SUFFIXES))}); {folder} has none")
    return paths


def _own(folder: Path) -> dict[str, Path]:
    """Name -> file: own- and its stem, or its whole name where another file would have the same."""
    paths = folder_of(folder, "--probes")
    taken = Counter(name for path in paths for name in {path.stem, path.name})
    return {f"own-{path.stem if taken[path.stem] == 1 else path.name}": path for path in paths}
