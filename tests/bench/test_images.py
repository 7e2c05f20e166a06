"""What the C library takes for an image, beside Pillow and the Python runtime. `make bench`; a minute for this file.

They take turns on one core, and the time is the core's own: other programs do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.tiles import Tiles
from tests.cpp.conftest import cpp  # noqa: F401  (a fixture)
from tests.cpp.pictures import Pictures

BLOCKS, ROUNDS = 5, 9
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REST = {"rescale": 1 / 255, "mean": MEAN, "std": STD, "convert_rgb": True}
CROP = {"size": (336, 336), "resize": {"shortest_edge": 336}, "crop": (336, 336), **REST}
SQUASH = {"size": (384, 384), "resize": {"height": 384, "width": 384}, "crop": None, **REST}
FORMS = {
    "336, crop, bicubic": Preprocessing(resample=3, **CROP),
    "336, crop, lanczos": Preprocessing(resample=1, **CROP),
    "384, squash, bilinear": Preprocessing(resample=2, **SQUASH),
    "384, squash, nearest": Preprocessing(resample=0, **SQUASH),
    "336, made square": Preprocessing(resample=3, square=(122, 116, 104), **CROP),
    "384, 5 tiles": Preprocessing(resample=3, tiles=Tiles(5, 384, ((768, 768), (384, 1536), (1536, 384))), **SQUASH),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_image_takes_no_longer_than_in_pillow(
    cpp: Path,  # noqa: F811
    form: Preprocessing,
    hold: Callable[..., None],
) -> None:
    """1920x1080 RGB. Against Pillow alone: its image is made, cut and normalised by nobody in that time."""
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    pictures = Pictures(cpp / "tests" / "pictures")
    convert = form if form.tiles is None else form.tiled
    steps: dict[str, Callable[[], object]] = {"python": lambda: convert(image)}
    ready = Image.fromarray(image)
    steps["pillow"] = lambda: form.pixels(ready) if form.tiles is None else form.tiled_pixels(ready)
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    took = []
    for _ in range(BLOCKS):
        times: dict[str, list[float]] = {name: [] for name in ("c", *steps)}
        for _ in range(ROUNDS):
            times["c"] += pictures.seconds(form, image, "float32", 2)[1:].tolist()
            for name, call in steps.items():
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
        for name in steps:
            ratios[name].append(float(np.median(times["c"]) / np.median(times[name])))
        took.append(float(np.median(times["c"])))
    pictures.close()
    print(f"\nC: {1000 * np.median(took):.2f} ms")
    hold("C / Pillow's part of it", ratios["pillow"], most=1.0)
    hold("C / the Python runtime", ratios["python"], most=1.0)
