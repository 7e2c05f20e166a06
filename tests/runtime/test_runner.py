"""What every kind of open bundle has: inputs by name, a name of its own, and an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import BundleError, ImageError, RequestError
from edgeprune.runtime import Classifier, Detector, Runner, TokenEncoder, load
from edgeprune.runtime.ledger.bench import bench
from edgeprune.runtime.parity.verify import verify
from tests.brightest import LABELS, expected

MakeBundle = Callable[..., Path]
PIXELS = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)


def test_a_bundle_is_opened_as_what_it_gives(make_bundle: MakeBundle) -> None:
    runner = load(make_bundle())
    assert type(runner) is TokenEncoder
    assert isinstance(runner, Runner)


def test_a_classifier_says_its_classes_in_the_order_of_their_probabilities(make_bundle: MakeBundle) -> None:
    logits = expected(np.concatenate([PIXELS, -PIXELS])).tokens.mean(axis=1)
    powers = np.exp(logits.astype(np.float64))
    shares = powers / powers.sum(axis=1, keepdims=True)
    for dtype, near in (("float32", 1e-5), ("float16", 2e-3)):
        classifier = load(make_bundle(classes=True, batch=2, dtype=dtype))
        assert type(classifier) is Classifier
        assert classifier.labels == LABELS
        found = classifier(np.concatenate([PIXELS, -PIXELS]))
        for one, wanted, share in zip(found, logits, shares, strict=True):
            assert one.logits.dtype == dtype
            np.testing.assert_allclose(one.logits, wanted, atol=near)
            np.testing.assert_allclose(one.probabilities, share, atol=near)
            order = np.argsort(-one.probabilities, kind="stable")[:5]
            assert one.top() == [(LABELS[at], one.probabilities[at]) for at in order]
            assert one.top(1) == one.top()[:1]


def test_classes_of_a_wrong_graph_fail_and_those_of_the_right_one_pass(make_bundle: MakeBundle) -> None:
    (right,), (wrong,) = (verify(make_bundle(classes=True, shift=shift), "cpu") for shift in (0, 1))
    assert right.passed
    assert right.worst.tokens == 2  # a row of logits for each probe of one image
    assert not wrong.passed


def test_a_bundle_of_another_kind_than_asked_for_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match="must give logits, pred_boxes, it gives tokens, indices, scores"):
        load(make_bundle(), kind=Detector)


def test_its_name_says_method_budget_and_device(make_bundle: MakeBundle) -> None:
    with load(make_bundle(), "cpu") as runner:
        assert repr(runner) == "<TokenEncoder: brightest keeps 5 of 24 tokens (21%), cpu>"
    assert repr(runner) == "<TokenEncoder: brightest keeps 5 of 24 tokens (21%), closed>"


def test_what_was_closed_refuses_every_call(make_bundle: MakeBundle) -> None:
    runner = load(make_bundle(), kind=TokenEncoder)
    runner.close()
    runner.close()
    for call in (runner, runner.outputs, lambda values: runner.run({"pixel_values": values})):
        with pytest.raises(RequestError, match=r"encoder\.onnx is closed; open the bundle again with load"):
            call(PIXELS)


# Inputs by name.


def test_another_input_has_a_name(make_bundle: MakeBundle) -> None:
    encoder = load(make_bundle(prior=True), kind=TokenEncoder)
    prior = np.zeros((1, 24), np.float32)
    plain = encoder(PIXELS, prior=prior)
    prior[0, 7] = 100
    assert 7 in encoder(PIXELS, prior=prior).indices
    assert encoder.outputs(PIXELS, prior=prior)["scores"][0, 7] == pytest.approx(plain.scores[0, 7] + 100)
    assert encoder.run({"prior": prior, "pixel_values": PIXELS}).keys() == {"tokens", "indices", "scores"}


@pytest.mark.parametrize("given", [{}, {"prior": np.zeros((1, 24), np.float32), "more": PIXELS}, {"before": PIXELS}])
def test_an_input_that_is_missing_or_too_many_is_named(make_bundle: MakeBundle, given: dict[str, Any]) -> None:
    names = ", ".join(["pixel_values", *given])
    with pytest.raises(RequestError, match=f"must be given pixel_values, prior; it was given {names}"):
        load(make_bundle(prior=True), kind=TokenEncoder)(PIXELS, **given)


@pytest.mark.parametrize("prior", [np.zeros((1, 23), np.float32), np.zeros((24,), np.float32), np.zeros((1, 24))])
def test_an_input_that_does_not_fit_is_named(make_bundle: MakeBundle, prior: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"prior must be float32 \[1, 24\], got float"):
        load(make_bundle(prior=True), kind=TokenEncoder)(PIXELS, prior=prior)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused_unless_the_look_is_left_out(
    make_bundle: MakeBundle, number: float
) -> None:
    """With NaN among them every score is NaN, and patches 0, 1, 2, ... are kept."""
    runner, spoilt = load(make_bundle(), kind=TokenEncoder), PIXELS.copy()
    spoilt[0, 1, 2, 3] = number
    for call in (runner, lambda values: runner.run({"pixel_values": values})):
        with pytest.raises(
            ImageError, match="pixel_values must be finite, 1 of 4608 are NaN or infinite; replace them"
        ):
            call(spoilt)
    runner.check_finite = False
    assert runner(spoilt).indices.shape == (1, 5)


def test_pixels_that_float16_makes_infinite_are_refused_and_other_inputs_too(make_bundle: MakeBundle) -> None:
    too_large = r"pixel_values must be finite, 4608 of 4608 .* beyond the range of float16"
    with np.errstate(over="ignore"), pytest.raises(ImageError, match=too_large):
        load(make_bundle(dtype="float16"), kind=TokenEncoder)(PIXELS * 0 + np.float32(7e4))
    with pytest.raises(ImageError, match="prior must be finite, 24 of 24 are NaN"):
        load(make_bundle(prior=True), kind=TokenEncoder)(PIXELS, prior=np.full((1, 24), np.nan, np.float32))


def test_float32_is_cast_where_the_graph_takes_float16(make_bundle: MakeBundle) -> None:
    runner = load(make_bundle(dtype="float16"))
    one, other = runner.run({"pixel_values": PIXELS}), runner.run({"pixel_values": PIXELS.astype(np.float16)})
    np.testing.assert_array_equal(one["tokens"], other["tokens"])


def test_a_bundle_of_two_inputs_is_verified_and_measured(make_bundle: MakeBundle) -> None:
    folder = make_bundle(prior=True, picks=True, cost={"formula": 1, "graph": 1})
    (report,) = verify(folder, "cpu")
    assert report.passed
    assert bench(folder, rounds=1).rounds == 1


def test_verify_runs_the_preprocessing_where_a_probe_has_images(make_bundle: MakeBundle) -> None:
    """A wrong mean changes what the graph is given, which stored pixel_values would never show."""
    from dataclasses import replace

    from safetensors.numpy import load_file, save_file

    from edgeprune.bundle import MANIFEST, Manifest, describe_files

    folder = make_bundle(probes=2)
    reference = folder / "reference.safetensors"
    tensors = load_file(reference)
    raw = np.random.default_rng(1).integers(0, 256, (1, 32, 48, 3), np.uint8)  # what scene01 was made of
    save_file({**tensors, "scene01/images": raw}, reference)

    def seal(**preprocessing: Any) -> None:
        manifest = Manifest.from_json((folder / MANIFEST).read_text())
        steps = {**manifest.preprocessing, **preprocessing}
        files = describe_files(folder)
        (folder / MANIFEST).write_text(replace(manifest, files=files, preprocessing=steps).to_json())

    seal()
    assert verify(folder, "cpu")[0].passed
    seal(mean=[8.46, 0.4578275, 0.40821073])
    (report,) = verify(folder, "cpu")
    assert report.probes["scene00"].passed
    assert not report.probes["scene01"].passed
