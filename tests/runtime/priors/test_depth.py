"""The official code's formula is written down here once more, pixel by pixel, and numbers are worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.priors import Intrinsics, Patches, located
from tests.runtime.priors.steps import steps

SEEN = Intrinsics(fx=50.0, fy=40.0, cx=13.5, cy=20.0)
QUARTER = np.array([[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]], float)
"""a quarter turn about the optical axis, then moved"""


def official(depth: NDArray[Any], patch: int, intrinsics: Intrinsics, pose: NDArray[Any]) -> NDArray[np.float64]:
    """compute_projection and patch_word: rows and columns of whole patches, the sum over a patch by its pixels."""
    rows, columns = depth.shape[0] // patch, depth.shape[1] // patch
    points = np.zeros((rows * columns, 3))
    for v, u in np.ndindex(rows * patch, columns * patch):
        z = depth[v, u]
        camera = ((u - intrinsics.cx) / intrinsics.fx * z, (v - intrinsics.cy) / intrinsics.fy * z, z, 1)
        points[v // patch * columns + u // patch] += (pose @ camera)[:3] / patch**2
    return points


def test_points_are_the_official_ones() -> None:
    """45 x 31 pixels in patches of 7: a rest of 3 each is in none. Some pixels have no depth."""
    random = np.random.default_rng(0)
    depth = random.uniform(0.5, 4, (45, 31)) * (random.uniform(size=(45, 31)) > 0.2)
    patches = Patches.of((45, 31), (6, 4), steps((45, 31)), pixels=7)
    points = located(patches, depth.astype(np.float32), SEEN, QUARTER)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, official(depth, 7, SEEN, QUARTER), rtol=1e-5)


def test_by_hand() -> None:
    """One patch of 2 x 2 pixels, 2 m away, the axis through its upper left one: u - cx is 0, 1, and so is v - cy."""
    patches = Patches.of((2, 2), (1, 1), steps((2, 2)))
    depth = np.full((2, 2), 2.0)
    assert located(patches, depth, Intrinsics(1, 2, 0, 0)).tolist() == [[1.0, 0.5, 2.0]]
    assert located(patches, depth, Intrinsics(1, 2, 0, 0), QUARTER).tolist() == [[9.5, 21.0, 32.0]]


@pytest.mark.parametrize("none", [0.0, np.nan])
def test_a_pixel_without_depth_is_where_the_camera_is(none: float) -> None:
    patches = Patches.of((1, 2), (1, 1), steps((1, 2)))
    depth = np.array([[4.0, none]])
    assert located(patches, depth, Intrinsics(1, 1, 0, 0), QUARTER).tolist() == [[10, 20, 32]]
    assert located(patches, depth, Intrinsics(1, 1, 0, 0), QUARTER, holes=False).tolist() == [[10, 20, 34]]


def test_a_patch_without_any_depth_is_where_the_camera_is() -> None:
    patches = Patches.of((1, 2), (1, 2), steps((1, 2)))
    for holes in (True, False):
        points = located(patches, np.array([[0.0, 3.0]]), Intrinsics(1, 1, 0, 0), QUARTER, holes)
        assert points.tolist() == [[10, 20, 30], [10 - 0, 20 + 3, 33]]


def test_a_small_map_is_made_larger_by_repeating_its_pixels() -> None:
    """2 x 2 squeezed into 4 x 4 with a pixel for a patch: each of the map's is four patches'."""
    depth = np.array([[1.0, 2.0], [3.0, 4.0]])
    patches = Patches.of((2, 2), (4, 4), steps((4, 4)))
    points = located(patches, depth, Intrinsics(1, 1, 0, 0)).reshape(4, 4, 3)
    np.testing.assert_array_equal(points[..., 2], np.kron(depth, np.ones((2, 2))))
    assert points[3, 3].tolist() == [4, 4, 4]


def test_padding_is_where_the_camera_is_and_no_row_of_the_map() -> None:
    """2 x 4 in the middle of 4 x 4: patches of 2 x 2 are half padding. The axis is the map's, not the square's."""
    patches = Patches.of((2, 4), (2, 2), steps((4, 4), square=(0, 0, 0)))
    points = located(patches, np.full((2, 4), 6.0), Intrinsics(1, 1, 0, 0))
    assert points[:, 2].tolist() == [3, 3, 3, 3]
    assert points[:, 1].tolist() == [0, 0, 3, 3]
    assert located(patches, np.full((2, 4), 6.0), Intrinsics(1, 1, 0, 0), holes=False)[:, 2].tolist() == [6] * 4


@pytest.mark.parametrize("side", [3, 4])
def test_intrinsics_are_read_from_a_matrix(side: int) -> None:
    matrix = np.eye(side)
    matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = 346.5, 347.2, 191.5, 143.5
    assert Intrinsics.of(matrix) == Intrinsics(346.5, 347.2, 191.5, 143.5)


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\[3, 3\] or \[4, 4\], .* got \[2, 3\]"):
        Intrinsics.of(np.ones((2, 3)))


DEPTH = np.ones((4, 4), np.float32)
SHEARED = np.eye(4) + np.eye(4, k=1) / 2
WRONG: list[tuple[Any, Any, Any, str]] = [
    (DEPTH, None, np.eye(4), "must come with its camera's intrinsics"),
    (DEPTH[:3], SEEN, np.eye(4), r"float metres of \[4, 4\], got float32 \[3, 4\]"),
    ((DEPTH * 1000).astype(np.uint16), SEEN, np.eye(4), "got uint16 .* divide millimetres by 1000"),
    (-DEPTH, SEEN, np.eye(4), "finite and not negative"),
    (DEPTH * np.inf, SEEN, np.eye(4), "finite and not negative"),
    (DEPTH, SEEN._replace(fx=0.0), np.eye(4), "fx and fy above 0"),
    (DEPTH, SEEN._replace(cy=np.nan), np.eye(4), "must be numbers"),
    (DEPTH, SEEN, np.eye(3), r"a pose must be \[4, 4\] finite"),
    (DEPTH, SEEN, np.eye(4) * np.nan, r"a pose must be \[4, 4\] finite"),
    (DEPTH, SEEN, QUARTER.T, "is it transposed"),
    (DEPTH, SEEN, SHEARED, "a rotation"),
    (DEPTH, SEEN, np.diag([1, 1, -1, 1]), "a rotation"),
]


@pytest.mark.parametrize(("depth", "intrinsics", "pose", "said"), WRONG)
def test_what_cannot_be_is_refused(depth: Any, intrinsics: Any, pose: Any, said: str) -> None:
    patches = Patches.of((4, 4), (2, 2), steps((28, 28)))
    with pytest.raises(RequestError, match=said):
        located(patches, depth, intrinsics, pose)
