"""Preprocessings of every kind that there is, by what they do to the sides of an image. Nearest, so that a pixel of the
result is one of the image."""

from __future__ import annotations

from typing import Any

from edgeprune.runtime.images.preprocess import Preprocessing


def steps(size: tuple[int, int], **fields: Any) -> Preprocessing:
    given: dict[str, Any] = {
        "resize": {"height": size[0], "width": size[1]},
        "resample": 0,
        "crop": None,
        "rescale": 1 / 255,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "convert_rgb": True,
        **fields,
    }
    return Preprocessing(size=size, **given)


KINDS = {
    "as it comes": steps((56, 84), resize=None),
    "squeezed": steps((56, 84)),
    "squeezed, a rest behind the patches": steps((61, 62)),
    "shortest edge, centre crop": steps((56, 56), resize={"shortest_edge": 63}, crop=(56, 56)),
    "crop that adds zeros": steps((56, 70), resize={"shortest_edge": 29}, crop=(56, 70)),
    "put into a square": steps((56, 56), square=(9, 9, 9)),
    "put into a square, cut": steps((42, 42), square=(9, 9, 9), resize={"shortest_edge": 56}, crop=(42, 42)),
    "upper left corner": steps((56, 70), resize={"max_height": 56, "max_width": 70}, pad=True),
    "upper left corner, by edges": steps((64, 64), resize={"shortest_edge": 40, "longest_edge": 64}, pad=True),
}
