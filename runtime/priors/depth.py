"""Depth cameras: where in the world the surface that a patch shows is.

    world(u, v) = cam2world [(u - cx) z / fx, (v - cy) z / fy, z, 1]          z: depth at column u and row v
    xyz[i]      = mean over the pixels of patch i of world

The pixels are those that the encoder takes, each the nearest of the depth map, as the official code resizes a map; of
a map in the encoder's own size they are the map's. A pixel without depth has z = 0 and so is where the camera is, which
pulls the mean of its patch there, padding likewise: so the official code counts them. `holes=False` leaves them out.

Intrinsics are those of the map as it is given. The official script pads maps to a square and keeps the cy of the map
that was not padded; here the rows of padding are no rows of the map.

Source  intcomp/SegPruner@acf0e4e patches/0001-SeGPruner.patch, compute_projection, patch_word;
        scripts/eval_openeqa.py, load_depth
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.priors.patches import Axis, Patches

__all__ = ["Intrinsics", "located"]

POSE = np.eye(4)
"""of a camera that the world is seen from"""
RIGID = 1e-3
"""how far a pose's rotation may be from one: files have six digits at times, and quaternions are rounded"""


class Intrinsics(NamedTuple):
    """Of a pinhole camera, in pixels of the depth map."""

    fx: float
    fy: float
    cx: float
    """column of the optical axis, 0 the middle of the first"""
    cy: float

    @classmethod
    def of(cls, matrix: NDArray[Any]) -> Intrinsics:
        """matrix: [3, 3] or [4, 4], the upper rows fx 0 cx and 0 fy cy. Raises RequestError when it is another."""
        matrix = np.asarray(matrix)
        if matrix.shape not in ((3, 3), (4, 4)):
            raise RequestError(f"intrinsics must be [3, 3] or [4, 4], or fx, fy, cx and cy; got {list(matrix.shape)}")
        return cls(*(float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))))


def located(
    patches: Patches,
    depth: NDArray[Any],
    intrinsics: Intrinsics | None,
    pose: NDArray[Any] = POSE,
    holes: bool = True,
) -> NDArray[np.float32]:
    """-> [N, 3] float32, metres, in the world's axes.

    patches: of the depth map's size
    depth: [H, W] float metres along the optical axis; 0 or NaN where there is none. Millimetres are refused as whole
        numbers: divide by 1000
    pose: [4, 4], camera to world
    holes: whether pixels without depth count, as points at the camera; without, a patch that has no other is there

    Raises RequestError.
    """
    depth = np.asarray(depth)
    if intrinsics is None:
        raise RequestError("a depth map must come with its camera's intrinsics fx, fy, cx and cy; none were given")
    if depth.dtype.kind != "f" or depth.shape != patches.size:
        raise RequestError(
            f"a depth map must be float metres of {list(patches.size)}, got {depth.dtype} {list(depth.shape)}; divide "
            "millimetres by 1000, and make the patches of the map's size"
        )
    if not np.isfinite(intrinsics).all() or intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise RequestError(f"intrinsics must be numbers, fx and fy above 0, got {tuple(intrinsics)}")
    depth = np.where(np.isnan(depth), 0, depth).astype(np.float64)
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise RequestError(f"depth must be finite and not negative, got {depth.min()} to {depth.max()} m")
    turn, camera = _pose(pose)
    height, width = patches.size
    across = (np.arange(width) - intrinsics.cx) / intrinsics.fx * depth
    down = ((np.arange(height) - intrinsics.cy) / intrinsics.fy)[:, None] * depth
    rows, columns = _counts(patches.rows), _counts(patches.columns)
    sums = np.stack([rows @ seen @ columns.T for seen in (across, down, depth)], axis=-1)
    each: NDArray[np.float64] | int = patches.rows.pixels * patches.columns.pixels
    if not holes:  # a sum over none is 0, whatever it is divided by
        each = np.maximum(rows @ (depth > 0) @ columns.T, 1)[..., None]
    return ((sums / each) @ turn.T + camera).reshape(-1, 3).astype(np.float32)


def _counts(axis: Axis) -> NDArray[np.float64]:
    """[patches, length], how many of the pixels of each patch are taken from each of the map's along a side."""
    nearest = axis.sampled()
    counts = np.zeros((axis.count, axis.length))
    there = nearest >= 0
    np.add.at(counts, (np.arange(len(nearest))[there] // axis.pixels, nearest[there]), 1)
    return counts


def _pose(pose: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rotation and the place of the camera."""
    pose = np.asarray(pose)
    if pose.shape != (4, 4) or pose.dtype.kind not in "fiu" or not np.isfinite(pose).all():
        raise RequestError(
            f"a pose must be [4, 4] finite numbers, camera to world, got {pose.dtype} {list(pose.shape)}"
        )
    pose = pose.astype(np.float64)
    turn, camera = pose[:3, :3], pose[:3, 3]
    turned = np.abs(turn @ turn.T - np.eye(3)).max() <= RIGID and np.linalg.det(turn) > 0
    if not turned or not np.allclose(pose[3], (0, 0, 0, 1)):
        raise RequestError(
            "a pose must be a rotation, a place and a last row 0 0 0 1, camera to world; is it transposed?"
        )
    return turn, camera
