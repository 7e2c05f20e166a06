"""Event cameras: how much happened in a patch since the last keyframe.

    prior[i] = log(1 + events in patch i with since <= t < until)

0, and so masked out, where nothing happened: a patch that did not change is one that the keyframe's tokens still show.
Fusing it with what a method ranks by (by ranks, in the paper) is the graph's.

Recordings are read by packages that give numpy arrays, none of which is needed here: `Events.of` takes what `aedat`
(packet["events"] of .aedat4), `expelliarmus` (.raw, .dat), Metavision's RawReader and `tonic` return as it is. The
sensor must see just what the image shows: a frame of the same chip, or one that was registered to it.

Paper   https://arxiv.org/abs/2605.19506 (EventPrune; its abstract, there is no code)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.priors.patches import Patches

__all__ = ["Events", "active"]

POLARITIES = ("p", "on", "polarity")
"""what readers call it"""


class Events(NamedTuple):
    """What a sensor sent, in any order; [M] each."""

    x: NDArray[Any]
    """whole numbers, columns of the sensor from the left"""
    y: NDArray[Any]
    """whole numbers, rows of the sensor from the top"""
    t: NDArray[Any]
    """not negative; microseconds, or whatever the keyframes' times are in"""
    polarity: NDArray[Any] | None = None
    """darker is 0, -1 or False, brighter 1 or True; None where it is not known"""

    @classmethod
    def of(cls, records: NDArray[Any]) -> Events:
        """records: [M] structured, with fields x, y, t and, where there is one, p, on or polarity

        Raises RequestError when one is missing.
        """
        names = records.dtype.names or ()
        if missing := [name for name in ("x", "y", "t") if name not in names]:
            raise RequestError(f"events must have fields x, y and t; {', '.join(missing)} missing in {list(names)}")
        polarity = next((name for name in POLARITIES if name in names), None)
        return cls(records["x"], records["y"], records["t"], None if polarity is None else records[polarity])


def active(
    patches: Patches, events: Events, since: float = 0, until: float | None = None, brighter: bool | None = None
) -> NDArray[np.float32]:
    """-> [N] float32, log(1 + how many events); all 0 where there was none.

    patches: of the sensor's size
    since: the last keyframe's time; until: that of the frame, itself not counted, None for all there are
    brighter: count those that got brighter alone, or darker alone; None for both

    Raises RequestError for events outside of the sensor, negative or missing times, arrays that differ in length, and
    a polarity that is asked for and not there.
    """
    x, y, time = _checked(patches, events)
    if until is not None and not since <= until:
        raise RequestError(f"events must be counted from the keyframe on, since <= until, got {since} and {until}")
    counted = time >= since
    if until is not None:
        counted &= time < until
    if brighter is not None:
        if events.polarity is None:
            raise RequestError("events must have a polarity to be counted by it; leave brighter=None, or give it")
        counted &= (np.asarray(events.polarity) > 0) == brighter
    at = patches.holding(x[counted], y[counted])
    return np.log1p(np.bincount(at[at >= 0], minlength=patches.count)).astype(np.float32)


def _checked(patches: Patches, events: Events) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, y and t"""
    columns = {name: np.asarray(values) for name, values in events._asdict().items() if values is not None}
    if len({values.shape for values in columns.values()}) != 1 or columns["t"].ndim != 1:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in columns.items())
        raise RequestError(f"events must be arrays of one length, got {shapes}")
    x, y, time = columns["x"], columns["y"], columns["t"]
    if not len(time):  # an empty list is of floats
        return np.zeros(0, np.int64), np.zeros(0, np.int64), time
    for name, values, most in (("x", x, patches.columns.length), ("y", y, patches.rows.length)):
        if values.dtype.kind not in "iu":
            raise RequestError(f"events' {name} must be whole numbers of pixels, got {values.dtype}")
        if (wrong := (values < 0) | (values >= most)).any():
            height, width = patches.size
            raise RequestError(
                f"events must lie on the sensor of {height}x{width} (height x width); {int(wrong.sum())} of "
                f"{len(values)} do not, the first at {name} = {values[wrong][0]}; give the sensor's size"
            )
    if time.dtype.kind not in "iuf" or (wrong := ~(time >= 0)).any():
        given = f"{int(wrong.sum())} are not" if time.dtype.kind in "iuf" else f"got {time.dtype}"
        raise RequestError(f"events' times must be numbers and not negative; {given}; count from the recording's start")
    return x, y, time
