"""Two bundles on the same probes: what became of the kept sets, the tokens, and what they say of themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeprune.bundle import MANIFEST, describe_files, load
from edgeprune.errors import BundleError
from edgeprune.runtime.parity.diff import Diff, ProbeDiff, diff

MakeBundle = Callable[..., Path]


def test_a_bundle_does_not_differ_from_itself(make_bundle: MakeBundle) -> None:
    folder = make_bundle(cost={"graph": 100})
    found = diff(folder, folder)
    assert (found.set_change, found.token_error, found.cost_ratio) == (0, 0, 1)
    assert (found.fields, found.versions, found.deviations, found.not_compared) == ({}, {}, ((), ()), {})
    assert found.probes.keys() == {"scene00", "scene01"}
    assert found.beyond(0, 0, 1) == []
    size = load(folder).manifest.files["encoder.onnx"].size
    assert found.encoder_nbytes == (size, size)


def test_what_the_manifests_say_differently_is_named(make_bundle: MakeBundle) -> None:
    old = make_bundle(cost={"graph": 100}, versions={"torch": "2.11", "onnx": "1"}, deviations=("a", "b"))
    new = make_bundle(
        cost={"graph": 150},
        versions={"torch": "2.12", "onnx": "1"},
        deviations=("b", "c"),
        method="darkest",
        options={"alpha": 2},
        target="jetson-orin",
    )
    found = diff(old, new)
    assert found.fields == {
        "method": ("brightest", "darkest"),
        "target": ("cpu", "jetson-orin"),
        "options.alpha": (None, 2),
    }
    assert found.versions == {"torch": ("2.11", "2.12")}
    assert found.deviations == (("a",), ("c",))
    assert found.cost_ratio == 1.5


def test_what_is_quantised_is_told_in_a_few_words(make_bundle: MakeBundle) -> None:
    said = {
        "activations": "u8",
        "bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15},
        "products": [{"name": "a", "error": 0.1, "float": True, "why": "measured"}, {"name": "b", "error": 0.0}],
        "calibration": {"images": 64, "source": "scenes", "ranges": {"x": [0, 1]}},
    }
    found = diff(make_bundle(), make_bundle(precision="int8", quantised=said)).fields
    assert found == {
        "precision": ("float32", "int8"),
        "quantised.activations": (None, "u8"),
        "quantised.bounds": (None, said["bounds"]),
        "quantised.products": (None, "1 of 2"),
        "quantised.float": (None, "a"),
        "quantised.calibration": (None, "64 images, scenes"),
    }


def test_kept_sets_that_differ_are_counted_and_only_common_patches_have_an_error(make_bundle: MakeBundle) -> None:
    """The second graph calls every patch by the number of its neighbour: most of what both keep has another colour."""
    found = diff(make_bundle(), make_bundle(shift=1))
    for one in found.probes.values():
        assert (one.old_kept, one.new_kept) == (5, 5)
        assert one.common < 5
        assert one.set_change == 1 - one.common / 5
        assert one.token_error is None or one.token_error > 0.01
    assert found.set_change == max(one.set_change for one in found.probes.values())


def test_precision_changes_tokens_a_little_and_no_set(make_bundle: MakeBundle) -> None:
    found = diff(make_bundle(), make_bundle(dtype="float16"))
    assert found.set_change == 0
    assert found.token_error is not None
    assert 0 < found.token_error < 1e-2
    assert found.fields["precision"] == ("float32", "float16")
    assert found.fields["tensor.pixel_values"][1] == "float16 [1, 3, 32, 48]"


def with_image(folder: Path) -> Path:
    """scene00 keeps the image that its pixel_values come from."""
    tensors = load_file(folder / "reference.safetensors")
    tensors["scene00/images"] = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    save_file(tensors, folder / "reference.safetensors")
    manifest = dataclasses.replace(load_unchecked(folder), files=describe_files(folder))
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def load_unchecked(folder: Path) -> Any:
    from edgeprune.bundle import Manifest

    return Manifest.from_json((folder / MANIFEST).read_text())


def test_another_preprocessing_shows_in_the_probes_that_keep_their_image(make_bundle: MakeBundle) -> None:
    old = with_image(make_bundle())
    preprocessing = dict(load(old).manifest.preprocessing)
    found = diff(old, make_bundle(preprocessing={**preprocessing, "mean": [0.5, 0.5, 0.5]}))
    assert [*found.fields] == ["preprocessing.mean"]
    assert [*found.probes] == ["scene00"]
    assert found.token_error is not None
    assert found.token_error > 0.01
    assert found.not_compared == {
        "scene01": "they do not take the same pixel_values, and the old one keeps no image of it"
    }


def test_bytes_as_input_are_the_same_images(make_bundle: MakeBundle) -> None:
    found = diff(with_image(make_bundle()), make_bundle(dtype="uint8"))
    assert [*found.probes] == ["scene00"]
    assert found.set_change == 0
    assert found.token_error is not None
    assert found.token_error < 1e-5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"batch": 2}, "they have different images per run (1, and 2)"),
        ({"prior": True}, "they have different inputs (pixel_values, and pixel_values, prior)"),
        ({"classes": True}, "they have different kinds (tokens, and logits)"),
        ({"grid": (6, 4)}, "they have different grids of patches (4x6, and 6x4)"),
    ],
    ids=["batch", "inputs", "kinds", "grid"],
)
def test_what_cannot_be_run_on_the_same_probes_is_said_and_not_crashed_upon(
    make_bundle: MakeBundle, changes: dict[str, Any], why: str
) -> None:
    found = diff(make_bundle(), make_bundle(**changes))
    assert found.not_compared == {"every probe": why}
    assert (found.set_change, found.token_error, found.probes) == (None, None, {})
    assert found.beyond(set_change=1) == ["set change must be at most 1, it is not known"]


def test_logits_of_two_classifiers_are_compared_as_rows_are(make_bundle: MakeBundle) -> None:
    whole = make_bundle(classes=True)
    half = diff(whole, make_bundle(classes=True, dtype="float16"))
    assert diff(whole, whole).token_error == 0
    assert half.token_error is not None
    assert 1e-6 < half.token_error < 1e-2
    assert half.set_change == 0


def empty(**changes: Any) -> Diff:
    nothing: dict[str, Any] = {"fields": {}, "versions": {}, "deviations": ((), ()), "probes": {}, "not_compared": {}}
    sizes = {"cost": (100, 102), "encoder_nbytes": (1, 1), "bundle_nbytes": (1, 1)}
    return Diff(**{**nothing, **sizes, **changes})


def test_a_bound_is_exceeded_above_it_and_by_what_is_no_number() -> None:
    probe = ProbeDiff(8, 8, 7, 0.5)
    found = empty(probes={"scene": probe, "other": dataclasses.replace(probe, token_error=float("nan"))})
    assert found.beyond(0.125, None, 1.02) == []
    assert found.beyond(0.1, 9, 1.01) == [
        "set change must be at most 0.1, it is 0.125",
        "token error must be at most 9, it is nan",
        "multiply-adds, new over old, must be at most 1.01, it is 1.02",
    ]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["token_error"] is None


def test_a_change_of_budget_is_a_change_of_sets() -> None:
    assert ProbeDiff(64, 48, 48, None).set_change == 0.25
    assert ProbeDiff(48, 64, 48, None).set_change == 0.25


def test_flat_images_say_nothing_of_sets() -> None:
    found = empty(probes={"flat": ProbeDiff(8, 8, 0, None), "scene": ProbeDiff(8, 8, 8, 0.1)})
    assert found.set_change == 0


def test_a_damaged_bundle_is_refused(make_bundle: MakeBundle) -> None:
    old, new = make_bundle(), make_bundle()
    (new / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"bundle1: encoder\.onnx has 0 bytes"):
        diff(old, new)
