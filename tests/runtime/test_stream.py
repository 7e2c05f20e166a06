"""A video: what a frame leaves for the next one goes on, where the bundle keeps anything."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.errors import RequestError
from edgeprune.runtime import load
from tests.brightest import GRID, MakeBundle, expected

FRAMES = np.random.default_rng(3).normal(size=(3, 1, 3, 32, 48)).astype(np.float32)


def test_every_frame_is_given_what_the_one_before_it_left(make_bundle: MakeBundle) -> None:
    """The graph adds the scores of the frame before."""
    with load(make_bundle(video=True), device="cpu") as encoder:
        video = encoder.stream()
        total = np.zeros((1, GRID[0] * GRID[1]), np.float32)
        for frame in FRAMES:
            total = total + expected(frame).scores
            np.testing.assert_allclose(video(frame).scores, total, rtol=1e-5)


def test_two_streams_are_two_videos_and_a_plain_call_is_a_first_frame(make_bundle: MakeBundle) -> None:
    with load(make_bundle(video=True), device="cpu") as encoder:
        first, second = encoder.stream(), encoder.stream()
        first(FRAMES[0])
        alone = expected(FRAMES[1]).scores
        for one in (encoder, second, encoder):
            np.testing.assert_allclose(one(FRAMES[1]).scores, alone, rtol=1e-5)
        np.testing.assert_allclose(first(FRAMES[1]).scores, expected(FRAMES[0]).scores + alone, rtol=1e-5)


def test_what_was_left_may_be_given_by_hand(make_bundle: MakeBundle) -> None:
    with load(make_bundle(video=True), device="cpu") as encoder:
        video = encoder.stream()
        left = video(FRAMES[0]).extras["next.1.scores"]
        by_hand = encoder(FRAMES[1], **{"state.1.scores": left})
        assert np.array_equal(by_hand.scores, video(FRAMES[1]).scores)


def test_a_bundle_that_keeps_nothing_has_no_stream(make_bundle: MakeBundle) -> None:
    with load(make_bundle(), device="cpu") as encoder, pytest.raises(RequestError, match="keep something from frame"):
        encoder.stream()


def test_a_stream_keeps_its_state_on_the_host(make_bundle: MakeBundle) -> None:
    with load(make_bundle(video=True), device="cpu") as encoder, pytest.raises(RequestError, match="on the host"):
        encoder.stream().outputs_on_device(FRAMES[0])
