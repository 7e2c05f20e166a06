"""Events of a sensor of 4 x 8 pixels, on a grid of 2 x 4 patches of 2 x 2 pixels each, unless said otherwise."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.runtime.priors import Events, Patches, active
from tests.runtime.priors.steps import steps

SQUEEZED = steps((28, 56))
PATCHES = Patches.of((4, 8), (2, 4), SQUEEZED)


def events(*each: tuple[int, int, float, int]) -> Events:
    """(x, y, t, polarity) each"""
    x, y, t, polarity = zip(*each, strict=True)
    return Events(np.array(x), np.array(y), np.array(t), np.array(polarity))


SEEN = events((0, 0, 5, 1), (1, 1, 10, 0), (1, 0, 11, 1), (7, 3, 12, 0), (4, 2, 20, 1))


def test_a_patch_has_the_logarithm_of_one_and_its_events() -> None:
    prior = active(PATCHES, SEEN)
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior.reshape(2, 4), [[log(4), 0, 0, 0], [0, 0, log(2), log(2)]], rtol=1e-6)


def test_events_before_the_keyframe_and_from_the_frame_on_are_not_counted() -> None:
    prior = active(PATCHES, SEEN, since=10, until=20)
    np.testing.assert_allclose(prior.reshape(2, 4), [[log(3), 0, 0, 0], [0, 0, 0, log(2)]], rtol=1e-6)


@pytest.mark.parametrize("negative", [0, -1])
@pytest.mark.parametrize(("brighter", "first"), [(True, log(3)), (False, log(2))])
def test_events_are_counted_by_polarity(negative: int, brighter: bool, first: float) -> None:
    assert SEEN.polarity is not None
    signed = SEEN._replace(polarity=np.where(SEEN.polarity == 1, 1, negative))
    assert active(PATCHES, signed, brighter=brighter)[0] == pytest.approx(first)


def test_the_order_of_events_does_not_matter() -> None:
    turned = Events(*(values[::-1] for values in SEEN if values is not None))
    np.testing.assert_array_equal(active(PATCHES, turned, since=10), active(PATCHES, SEEN, since=10))


def test_nothing_happened() -> None:
    assert active(PATCHES, Events(np.array([]), np.array([]), np.array([]))).tolist() == [0] * 8
    assert active(PATCHES, SEEN, since=21).tolist() == [0] * 8


def test_events_that_the_crop_cuts_off_are_in_no_patch() -> None:
    """A square of 4 x 4 from the middle of 4 x 8: columns 2 to 5."""
    cropped = Patches.of((4, 8), (2, 2), steps((28, 28), resize={"shortest_edge": 28}, crop=(28, 28)))
    prior = active(cropped, events((1, 0, 0, 1), (2, 0, 0, 1), (5, 3, 0, 1), (6, 3, 0, 1)))
    np.testing.assert_allclose(prior, [log(2), 0, 0, log(2)], rtol=1e-6)


READERS: list[Any] = [
    [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")],  # aedat
    [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")],  # Metavision
    [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")],  # expelliarmus
]


@pytest.mark.parametrize("dtype", READERS)
def test_records_are_taken_as_readers_give_them(dtype: Any) -> None:
    assert SEEN.polarity is not None
    records = np.zeros(len(SEEN.x), dtype)
    (polarity,) = {"on", "p"} & set(records.dtype.names or ())
    records["x"], records["y"], records["t"], records[polarity] = SEEN.x, SEEN.y, SEEN.t, SEEN.polarity
    for brighter in (None, True, False):
        np.testing.assert_array_equal(
            active(PATCHES, Events.of(records), brighter=brighter), active(PATCHES, SEEN, brighter=brighter)
        )


def test_records_without_a_time_are_refused() -> None:
    with pytest.raises(RequestError, match=r"x, y and t; t missing in \['x', 'y'\]"):
        Events.of(np.zeros(3, [("x", "i4"), ("y", "i4")]))


ONE = np.array([1])
WRONG = [
    (
        Events(np.array([1, 8, 9]), np.array([1, 1, 1]), np.arange(3)),
        r"sensor of 4x8 .* 2 of 3 do not, the first at x = 8",
    ),
    (Events(ONE, np.array([-1]), ONE), "the first at y = -1"),
    (Events(ONE, ONE, np.array([-3])), "not negative; 1 are not"),
    (Events(ONE, ONE, np.array([np.nan])), "not negative; 1 are not"),
    (Events(ONE, ONE, np.array(["1"])), "times must be numbers"),
    (Events(ONE, ONE, np.array([1, 2])), r"of one length, got x \[1\], y \[1\], t \[2\]"),
    (Events(ONE, ONE, ONE, np.array([1, 0])), "of one length"),
    (Events(np.array([1.5]), ONE, ONE), "x must be whole numbers of pixels, got float64"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_events_that_cannot_be_are_refused(wrong: Events, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        active(PATCHES, wrong)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(RequestError, match="since <= until, got 5 and 4"):
        active(PATCHES, SEEN, since=5, until=4)


def test_a_polarity_that_is_not_known_is_refused() -> None:
    with pytest.raises(RequestError, match="leave brighter=None"):
        active(PATCHES, SEEN._replace(polarity=None), brighter=True)
