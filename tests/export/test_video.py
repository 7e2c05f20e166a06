"""A step that keeps something from frame to frame, exported: both frames of a pair are probes, and a device that
forgets the first of them fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.export import Request
from edgeprune.export.job import Exported, export_bundle
from edgeprune.quality.scenes import draw
from edgeprune.runtime import load
from edgeprune.runtime.parity.stored import Probe, stored_probes

STEPS: dict[str, Any] = {"method": "fastervlm", "keep": 32, "inside": "sta", "schedule": "1:100,3:60", "target": "cpu"}


def test_a_free_number_of_images_is_refused() -> None:
    with pytest.raises(RequestError, match=r"sta keeps something of every frame .* --dynamic-batch frees that number"):
        export_bundle(Request(**STEPS, dynamic_batch=True))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    output = tmp_path_factory.mktemp("video") / "bundle"
    return export_bundle(Request(**STEPS, output=output, baselines=False, runtime=False))


@pytest.fixture(scope="module")
def probes(video: Exported) -> dict[str, Probe]:
    from edgeprune.bundle import load as read_bundle

    with stored_probes(read_bundle(video.folder)) as (names, read):
        return {name: read(name) for name in names}


@pytest.mark.slow
class TestExported:
    def test_every_frame_is_right(self, video: Exported) -> None:
        (report,) = video.reports
        assert report.passed
        assert report.proven

    def test_what_goes_in_and_comes_out_has_names_of_the_step(self, video: Exported) -> None:
        manifest = video.manifest
        assert list(manifest.inputs)[1:] == ["state.1.keys", "state.1.seen", "state.3.keys", "state.3.seen"]
        assert [name for name in manifest.outputs if name.startswith("next.")] == [
            name.replace("state", "next") for name in list(manifest.inputs)[1:]
        ]

    def test_there_are_first_frames_and_second_ones_among_the_scenes(self, probes: dict[str, Probe]) -> None:
        drawn = [one.inputs["state.1.seen"].any() for name, one in probes.items() if name.startswith("drawn")]
        assert drawn == [False, True, False, True]

    def test_a_device_that_forgets_the_frame_before_fails(self, video: Exported, probes: dict[str, Probe]) -> None:
        second = [one for one in probes.values() if one.inputs["state.1.seen"].any()]
        with load(video.folder, device="cpu") as encoder:
            for probe in second:
                assert probe.compare(encoder.run(probe.inputs), "float32").passed
                forgets = {"pixel_values": probe.inputs["pixel_values"]}
                assert not probe.compare(encoder.run(forgets), "float32").passed

    def test_a_stream_is_the_frames_by_hand(self, video: Exported) -> None:
        with load(video.folder, device="cpu") as encoder:
            frames = [encoder.prepare([draw(5, at).image]) for at in range(3)]
            stream, state = encoder.stream(), dict[str, Any]()
            for frame in frames:
                found = stream(frame)
                by_hand = encoder(frame, **state)
                state = {
                    name.replace("next.", "state."): value
                    for name, value in by_hand.extras.items()
                    if name.startswith("next.")
                }
                assert np.array_equal(found.tokens, by_hand.tokens)
            assert not np.array_equal(stream(frames[0]).indices, encoder(frames[0]).indices)
