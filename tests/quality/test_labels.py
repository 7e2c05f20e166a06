"""Labels of patches: exact areas, in the geometry of an image that is stretched to the model's size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.probes.drawn import Scenes
from edgeprune.probes.sample import Sample
from edgeprune.quality.labels import coverage, foreground_share, patch_labels

FINE = 8
"""subdivisions of a pixel; boxes on eighths of pixels are rasterised without error"""


def sample(boxes: list[tuple[float, ...]], size: tuple[int, int] = (32, 32), masks: object = None) -> Sample:
    image = np.zeros((*size, 3), np.uint8)
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    given = None if masks is None else np.asarray(masks, bool)
    return Sample(image, edges, np.zeros(len(edges), np.int64), given, "one")


def test_a_box_on_the_corner_of_four_patches_covers_a_quarter_of_each() -> None:
    found = coverage(sample([(4, 4, 12, 12)]), (4, 4))
    assert found[:2, :2].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert found.sum() == 1.0


def test_the_area_of_boxes_is_that_of_their_union_and_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = np.sort(rng.integers(0, 32 * FINE + 1, (5, 2, 2)), axis=1)
        corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
        fine = np.zeros((33 * FINE, 33 * FINE))
        for (x0, y0), (x1, y1) in corners:
            fine[y0:y1, x0:x1] = 1
        fine = fine[: 32 * FINE, : 32 * FINE]
        expected = fine.reshape(4, 8 * FINE, 4, 8 * FINE).mean((1, 3))
        boxes = np.minimum(corners / FINE, 32).reshape(5, 4)
        kept = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        np.testing.assert_allclose(coverage(sample(list(map(tuple, kept))), (4, 4)), expected, atol=1e-12)


def test_a_mask_counts_instead_of_its_box() -> None:
    mask = np.zeros((1, 32, 32), bool)
    mask[0, :8, :4] = True
    masked = sample([(0, 0, 32, 32)], masks=mask)
    assert coverage(masked, (4, 4))[0].tolist() == [0.5, 0, 0, 0]
    assert coverage(dataclasses.replace(masked, masks=None), (4, 4)).min() == 1.0


def test_masks_of_another_size_than_the_model_are_laid_under_its_patches_exactly() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((3, 21, 30)) < 0.2
    found = coverage(sample([(0, 0, 30, 21)] * 3, (21, 30), masks), (4, 7))
    pixels = np.kron(masks.any(0), np.ones((4, 7)))  # 84x210: both grids divide it
    np.testing.assert_allclose(found, pixels.reshape(4, 21, 7, 30).mean((1, 3)), atol=1e-12)


def test_a_patch_covered_by_exactly_the_threshold_is_foreground() -> None:
    tenth = sample([(0, 0, 8, 0.8)])
    assert patch_labels(tenth, (32, 32), 8, threshold=0.1).sum() == 1
    more = patch_labels(sample([(0, 0, 16, 8), (16, 0, 24, 7)]), (32, 32), 8, threshold=0.9)
    assert more.tolist()[0] == [True, True, True, False]  # the second has 7/8: too little, but it is all it covers


def test_patches_with_less_than_the_threshold_are_background() -> None:
    labels = patch_labels(sample([(0, 0, 16, 8.4)]), (32, 32), 8, threshold=0.1)
    assert np.argwhere(labels).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("masks", [True, False])
def test_every_object_has_a_patch_however_small(masks: bool) -> None:
    box = (14.0, 14.0, 19.0, 18.0)  # on a corner: 6, 9, 6 and 9 of 256 pixels
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 14:18, 14:19] = True
    labels = patch_labels(sample([box], masks=mask if masks else None), (32, 32), 16)
    assert np.argwhere(labels).tolist() == [[0, 1]]  # the larger of them


def test_a_small_object_beside_a_large_one_has_its_own_patch() -> None:
    labels = patch_labels(sample([(0, 0, 16, 16), (15, 15, 18, 18)]), (32, 32), 16, threshold=0.3)
    assert labels.tolist() == [[True, False], [False, True]]


def test_a_mirrored_scene_has_mirrored_labels() -> None:
    for scene in (Scenes(6)[at] for at in range(6)):
        assert scene.masks is not None
        mirrored = dataclasses.replace(
            scene,
            image=scene.image[:, ::-1],
            boxes=np.stack([80 - scene.boxes[:, 2], scene.boxes[:, 1], 80 - scene.boxes[:, 0], scene.boxes[:, 3]], 1),
            masks=scene.masks[:, :, ::-1],
        )
        assert (patch_labels(mirrored, (80, 80), 8) == patch_labels(scene, (80, 80), 8)[:, ::-1]).all()


def test_boxes_call_more_patches_foreground_than_masks() -> None:
    scenes = [Scenes(30)[at] for at in range(30)]
    by_mask = [patch_labels(scene, (80, 80), 8) for scene in scenes]
    by_box = [patch_labels(dataclasses.replace(scene, masks=None), (80, 80), 8) for scene in scenes]
    assert all((mask <= box).all() for mask, box in zip(by_mask, by_box, strict=True))
    assert foreground_share(by_box)["mean"] > 1.2 * foreground_share(by_mask)["mean"]


def test_an_image_without_objects_is_background() -> None:
    assert not patch_labels(sample([]), (32, 32), 8).any()


def test_the_foreground_share_is_of_images_not_of_patches() -> None:
    labels = [np.full((2, 5), share) for share in (False, True, True)] + [np.arange(10).reshape(2, 5) < 5]
    found = foreground_share(labels)
    assert found["mean"] == pytest.approx(0.625)
    assert (found["p50"], found["p90"]) == (0.75, 1.0)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"multiple of 16 pixels, the patch, got 500x864; the nearest is 496x864"):
        patch_labels(sample([]), (500, 864), 16)
    with pytest.raises(RequestError, match="the nearest is 16x32"):
        patch_labels(sample([]), (4, 33), 16)


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float) -> None:
    with pytest.raises(RequestError, match=f"--threshold must be a share of a patch.*got {threshold:g}"):
        patch_labels(sample([]), (32, 32), 8, threshold)
