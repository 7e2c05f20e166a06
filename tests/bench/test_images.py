"""What the C library takes for an image, beside Pillow and the Python runtime. `make bench`; a minute for this file.

They take turns on one core, and the time is the core's own: other programs do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.tiles import Tiles
from tests.cpp.conftest import cpp  # noqa: F401  (a fixture)
from tests.cpp.pictures import Pictures, steps

BLOCKS, ROUNDS = 5, 9
CROP: dict[str, Any] = {"size": (336, 336), "resize": {"shortest_edge": 336}, "crop": (336, 336)}
SQUASH: dict[str, Any] = {"size": (384, 384), "resize": {"height": 384, "width": 384}}
FORMS = {
    "336, crop, bicubic": steps(resample=3, **CROP),
    "336, crop, lanczos": steps(resample=1, **CROP),
    "384, squash, bilinear": steps(resample=2, **SQUASH),
    "384, squash, nearest": steps(resample=0, **SQUASH),
    "336, made square": steps(resample=3, square=(122, 116, 104), **CROP),
    "384, 5 tiles": steps(resample=3, tiles=Tiles(5, 384, ((768, 768), (384, 1536), (1536, 384))), **SQUASH),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_image_takes_no_longer_than_in_pillow(
    cpp: Path,  # noqa: F811
    form: Preprocessing,
    hold: Callable[..., None],
) -> None:
    """1920x1080 RGB to float32. Pillow alone has its image ready, and makes pixels that nobody normalises."""
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    pictures = Pictures(cpp / "tests" / "pictures")
    convert = form if form.tiles is None else form.tiled
    alone, ready = form.pixels if form.tiles is None else form.tiled_pixels, Image.fromarray(image)
    calls: dict[str, Callable[[], object]] = {"python": lambda: convert(image), "pillow": lambda: alone(ready)}
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    took = []
    for _ in range(BLOCKS):
        times: dict[str, list[float]] = {name: [] for name in ("c", *calls)}
        for _ in range(ROUNDS):
            times["c"] += pictures.seconds(form, image, "float32", 2)[1:].tolist()
            for name, call in calls.items():
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
        for name in calls:
            ratios[name].append(float(np.median(times["c"]) / np.median(times[name])))
        took.append(float(np.median(times["c"])))
    pictures.close()
    print(f"\nC: {1000 * np.median(took):.2f} ms")
    hold("C / Pillow alone", ratios["pillow"], most=1.0)
    hold("C / the Python runtime", ratios["python"], most=1.0)
