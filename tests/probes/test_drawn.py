"""Drawn scenes: the same on every machine, other ones for another seed, and annotated to the pixel."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.probes.drawn import CLASSES, Scenes
from edgeprune.probes.sample import Sample

COUNT = 300
PATCH = 8


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    scenes = Scenes(COUNT, seed=3)
    return [scenes[i] for i in range(COUNT)]


def test_a_scene_depends_on_its_seed_and_number_alone(samples: list[Sample]) -> None:
    few = Scenes(6, seed=3)
    assert [few[i] for i in (5, 0, 3)] == [samples[i] for i in (5, 0, 3)]


def test_the_first_scene_is_the_one_that_was_always_drawn() -> None:
    digest = hashlib.sha256(Scenes(1)[0].image.tobytes()).hexdigest()
    assert digest.startswith("d823937ade821c2b"), "checkpoints and figures were made on other scenes"


def test_two_seeds_share_no_scene(samples: list[Sample]) -> None:
    other = Scenes(COUNT, seed=4)
    images = [sample.image.tobytes() for sample in samples] + [other[i].image.tobytes() for i in range(COUNT)]
    assert len(set(images)) == 2 * COUNT


def test_every_scene_has_one_to_five_shapes_and_every_class_occurs_as_often(samples: list[Sample]) -> None:
    counts = [len(sample.labels) for sample in samples]
    labels = np.concatenate([sample.labels for sample in samples])
    assert set(counts) == {1, 2, 3, 4, 5}
    assert (np.bincount(labels, minlength=len(CLASSES)) / len(labels) > 0.2).all()


def test_the_parts_of_a_sample_have_their_shapes_and_types(samples: list[Sample]) -> None:
    for sample in samples[:20]:
        count = len(sample.labels)
        assert sample.masks is not None
        assert sample.image.shape == (80, 80, 3)
        assert sample.image.dtype == np.uint8
        assert sample.boxes.shape == (count, 4)
        assert sample.boxes.dtype == np.float32
        assert sample.labels.dtype == np.int64
        assert sample.masks.shape == (count, 80, 80)
        assert sample.masks.dtype == bool


def test_a_box_lies_in_the_image_and_is_tight_around_its_mask(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.masks is not None
        for mask, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes.astype(int).tolist(), strict=True):
            assert 0 <= x0 < x1 <= 80
            assert 0 <= y0 < y1 <= 80
            assert mask.sum() == mask[y0:y1, x0:x1].sum()
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()  # noqa: PT018


def test_no_pixel_belongs_to_two_shapes(samples: list[Sample]) -> None:
    assert all(sample.masks is not None and sample.masks.sum(axis=0).max() == 1 for sample in samples)


def test_a_third_of_the_patches_show_a_shape(samples: list[Sample]) -> None:
    shares = [_foreground(sample).mean() for sample in samples]
    assert np.mean(shares) == pytest.approx(0.35, abs=0.03)
    assert np.percentile(shares, 90) == pytest.approx(0.52, abs=0.05)


def test_a_shape_stands_out_from_what_is_around_it(samples: list[Sample]) -> None:
    for sample in samples[:100]:
        assert sample.masks is not None
        ground = np.median(sample.image[~sample.masks.any(axis=0)], axis=0)
        for mask in sample.masks:
            assert np.abs(np.median(sample.image[mask], axis=0) - ground).sum() > 50


@pytest.mark.slow
def test_a_larger_image_has_larger_shapes() -> None:
    small, large = Scenes(40, size=(80, 80)), Scenes(40, size=(160, 240))
    assert large[0].image.shape == (160, 240, 3)
    sides = [
        np.concatenate([scenes[i].boxes[:, 2] - scenes[i].boxes[:, 0] for i in range(40)]) for scenes in (small, large)
    ]
    assert np.median(sides[1]) > 1.6 * np.median(sides[0])


def test_a_number_outside_is_no_scene() -> None:
    scenes = Scenes(3)
    assert len(list(scenes[i] for i in range(len(scenes)))) == 3
    for index in (3, -1):
        with pytest.raises(IndexError, match=r"scene must be in 0\.\.2"):
            scenes[index]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"count": 0}, "scenes must be 1 or more, got 0"),
        ({"count": 1, "seed": -1}, "seed of scenes must be 0 or more, got -1"),
        ({"count": 1, "size": (80, 16)}, "32x32 pixels or larger, got 80x16"),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Scenes(**kind)  # type: ignore[arg-type]


def _foreground(sample: Sample) -> Any:
    """[rows, columns]: patches with a pixel of a shape"""
    assert sample.masks is not None
    height, width = sample.size
    return sample.masks.any(axis=0).reshape(height // PATCH, PATCH, width // PATCH, PATCH).any(axis=(1, 3))
