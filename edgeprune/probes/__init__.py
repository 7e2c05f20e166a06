"""The images that parity is checked on: drawn scenes, and what breaks rankings (noise, ties, extremes). No torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgeprune.errors import ImageError

__all__ = ["probes", "scenes"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def probes(size: tuple[int, int], folder: Path | None = None) -> dict[str, Image.Image]:
    """Name -> RGB image; the synthetic ones have the given (height, width).

    A flat image makes all patches tie; black and white are flat at the ends of the range. `folder` adds the user's own.
    Raises ImageError when the folder has no readable image.
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
    return images | (_own(folder) if folder is not None else {})


def scenes() -> list[Path]:
    """The drawn scenes that come with the embedded model."""
    return sorted((Path(str(files("edgeprune"))) / "models" / "tiny" / "scenes").glob("*.png"))


def _own(folder: Path) -> dict[str, Image.Image]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise ImageError(f"--probes must be a folder with images ({', '.join(sorted(_SUFFIXES))}); {folder} has none")
    try:
        return {f"own-{path.stem}": Image.open(path).convert("RGB") for path in paths}
    except (OSError, UnidentifiedImageError) as error:
        raise ImageError(f"--probes: {error}") from None
