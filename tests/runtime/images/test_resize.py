"""What is resized as torch does has the levels that torch gives, to the last one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.images.resize import PILLOW, TORCH, resizer
from edgeprune.runtime.images.tiles import Tiles

MODES = {2: "bilinear", 3: "bicubic"}
SIZES = [
    *(((40, 57), (31, 64)), ((57, 40), (64, 31)), ((96, 97), (40, 48)), ((33, 200), (97, 13)), ((7, 5), (100, 203))),
    *(((50, 61), (50, 30)), ((50, 61), (99, 61)), ((50, 61), (50, 61)), ((48, 48), (24, 24)), ((24, 24), (48, 96))),
    *(((1, 1), (9, 4)), ((1, 77), (3, 20)), ((77, 1), (20, 3)), ((9, 31), (1, 1)), ((1, 31), (1, 8))),
    *(((3000, 3), (5, 2)), ((3, 3000), (2, 5)), ((3000, 2), (7, 300)), ((2, 3000), (300, 7)), ((600, 492), (384, 384))),
]
"""(height, width) to another: up and down, odd, 1 pixel, one side or none changed, by more than the 256 from which a
weight has 22 bits, and such that Pillow goes down first"""


def torchs(image: NDArray[np.uint8], size: tuple[int, int], by: int) -> NDArray[np.uint8]:
    """What torchvision resizes uint8 by: [H, W, 3] -> [*size, 3]"""
    given = torch.from_numpy(image).permute(2, 0, 1)[None]
    made = torch.nn.functional.interpolate(given, size, mode=MODES[by], align_corners=False, antialias=True)
    levels: NDArray[np.uint8] = made[0].permute(1, 2, 0).numpy()
    return levels


@pytest.mark.parametrize("by", MODES, ids=MODES.get)
def test_the_levels_are_those_of_torch(by: int) -> None:
    """Of noise, and of black and white, whose edges make a filter overshoot."""
    random = np.random.default_rng(by)
    drawn = np.exp(random.uniform(0, np.log(500), (12, 2, 2))).astype(int).tolist()
    for before, after in [*SIZES, *((tuple(one), tuple(other)) for one, other in drawn)]:
        noise = random.integers(0, 256, (*before, 3), np.uint8)
        for image in (noise, np.where(noise > 127, 255, 0).astype(np.uint8)):
            found = resizer(TORCH, by)(Image.fromarray(image), after)
            np.testing.assert_array_equal(found, torchs(image, after, by), err_msg=f"{before} to {after}")


def test_they_are_not_pillows() -> None:
    """At most one off, of some levels; else no bundle would have to say whose they are."""
    image = np.random.default_rng(0).integers(0, 256, (130, 170, 3), np.uint8)
    found, other = (
        np.asarray(resizer(name, 2)(Image.fromarray(image), (48, 96))).astype(int) for name in (TORCH, PILLOW)
    )
    assert 0 < np.count_nonzero(found - other) < 0.05 * found.size
    assert np.abs(found - other).max() == 1


STEPS: dict[str, Any] = {
    "size": [24, 24], "resize": {"height": 24, "width": 24}, "resample": 2, "crop": None, "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "convert_rgb": True, "resizer": TORCH,
}  # fmt: skip


def test_a_manifest_says_so_and_images_squares_and_tiles_are_resized_by_it() -> None:
    image = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)
    steps = Preprocessing.from_json(STEPS)
    assert steps.to_json() == STEPS
    np.testing.assert_array_equal(steps.pixels(image), torchs(image, (24, 24), 2))
    tiles = Tiles(3, 24, ((24, 48), (48, 24)), squeezed=True).to_json()
    tiled = Preprocessing.from_json({**STEPS, "tiles": tiles}).tiled_pixels(image)
    wide = torchs(image, (24, 48), 2)
    np.testing.assert_array_equal(tiled, [wide[:, :24], wide[:, 24:], torchs(image, (24, 24), 2)])


def test_pillow_is_what_a_manifest_need_not_say() -> None:
    steps = Preprocessing.from_json({**STEPS, "resizer": PILLOW})
    assert steps.to_json() == {name: value for name, value in STEPS.items() if name != "resizer"}
    assert steps == Preprocessing.from_json(steps.to_json())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resizer": "cv2"}, "resizer must be pillow or torch, got cv2"),
        ({"resizer": None}, "resizer must be pillow or torch, got None"),
        ({"resizer": [TORCH]}, "resizer must be pillow or torch"),
        *(({"resample": by}, rf"takes resample 2 \(bilinear\) or 3 \(bicubic\), got {by}") for by in (0, 1, 4, 5)),
    ],
    ids=str,
)
def test_what_torch_does_not_resize_by_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Preprocessing.from_json({**STEPS, **change})
