"""The reference of an encoder whose sequence shortens on the way, and the scenes that become its probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.export.processor import read_processor
from edgeprune.export.record import HALF, Reference, _rounded, _steady
from edgeprune.probes import scenes
from tests.conftest import CLIP_PROCESSOR
from tests.device_of_steps import Stepping, stepping
from tests.runtime.parity.test_inside import DROP, JOIN, dropped, merged


def reference_of(device: Stepping) -> Reference:
    preprocessing = read_processor({**CLIP_PROCESSOR, "crop_size": 96, "size": 96}, (96, 96))
    return Reference(device.encoder, device.method, preprocessing, 1, device.rule)


@pytest.mark.parametrize("name", ["drop", "tome"])
def test_the_reference_does_what_a_device_did_and_says_what_it_thinks_of_it(name: str, tmp_path: Path) -> None:
    """At the first step another row goes on, or one joins another row, in what the device says."""
    reference = reference_of(stepping(name))
    reference.write(tmp_path, {"scene": Image.open(scenes()[0])}, uint8=False)
    own, quantities = reference.forced("scene", {})
    same, again = reference.forced("scene", own)
    assert all(np.array_equal(own[key], same[key]) for key in own)
    assert quantities.keys() == again.keys()

    done = {key: value.copy() for key, value in own.items()}
    trail = done["trail.2"][0]
    if name == "drop":
        row = int(np.flatnonzero(trail < 0)[-1])
        last = int(np.flatnonzero(trail[:row] >= 0)[-1])  # next to each other in raster order
        trail[row], trail[last] = trail[last], -1
        done["scores.2"][0][[row, last]] = done["scores.2"][0][[last, row]]
    else:
        odd = trail[1::2]
        joins = next(at for at in range(0, 144, 2) if trail[at] in odd)
        trail[joins] = next(place for place in odd if place != trail[joins])
    forced, _ = reference.forced("scene", done)
    assert np.array_equal(forced["trail.2"], done["trail.2"])
    assert np.array_equal(forced["scores.2"], own["scores.2"])  # what it computes in front of the step is the same
    assert not np.array_equal(forced["scores.3"], own["scores.3"])


def test_scores_are_as_far_off_as_those_of_a_device_in_float16() -> None:
    shares, cosines = _rounded(dropped(), DROP), _rounded(merged(), JOIN)
    assert shares["scores.1"] == pytest.approx(dropped()["scores.1"] * (1 + HALF))
    assert cosines["scores.1"] == pytest.approx(merged()["scores.1"] + HALF)
    assert np.isneginf(shares["scores"][0, 0])


def test_a_scene_is_the_steadier_the_farther_its_steps_are_from_another_decision() -> None:
    def steady(fifth: float) -> float:
        """.24 and this are the scores that the cut is between."""
        wanted = dropped(scores_1=[0.1, 0.6, 0.5, 0.24, 0.4, fifth])
        return _steady(wanted, _rounded(wanted, DROP), DROP, {})

    assert steady(0.3) == 1
    assert 1 > steady(0.2403) > steady(0.2401) > steady(0.24) > 0.5
    assert _steady(dropped(), dropped(), {"name": "topk"}, {}) == 1
