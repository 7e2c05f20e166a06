"""`--option position=fitted` and `padding=HxW`, from the request to what the manifest keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import targets
from edgeprune.errors import EdgepruneError
from edgeprune.export import Request, export_bundle
from edgeprune.export.opening import Opened, opened
from edgeprune.export.request import check
from edgeprune.probes import scenes
from edgeprune.weighting import unpadded


def found(method: str = "fastervlm", keep: int = 64, **fields: Any) -> Opened:
    request = Request(method, "cpu", keep=keep, **fields)
    check(request, exported=False)
    return opened(request, targets.load("cpu"))


@pytest.mark.slow
def test_weights_are_fitted_on_drawn_scenes_and_a_warning_says_so() -> None:
    one = found(options={"position": "fitted"})
    made = one.learned["position"]
    assert (made["images"], made["data"], [*made["weights"]]) == (16, "drawn scenes", ["4"])
    assert one.encoder.weighting[4].tolist() == torch.tensor(made["weights"]["4"]).tolist()
    assert "the weights of positions were taken of 16 drawn scenes; --calibrate DIR takes images" in one.warnings[0]
    assert found(options={"position": "fitted"}, calibrate="scenes").warnings == ()


def test_they_are_fitted_on_images_of_a_folder() -> None:
    folder = scenes()[0].parent
    made = found(options={"position": "fitted"}, calibrate=str(folder)).learned["position"]
    assert made["images"] == len(scenes())
    assert made["data"] == folder.name


def test_padding_is_a_mask_of_images_of_one_size() -> None:
    one = found(options={"padding": "320x640"})
    assert one.learned == {"padding": {"image": [320, 640], "patches": 72}}
    assert one.encoder.weighting[4].tolist() == unpadded((12, 12), (320, 640)).tolist()


@pytest.mark.slow
def test_left_out_or_as_it_comes_nothing_is_weighed() -> None:
    assert found(options={"position": "none", "padding": "none"}).learned == {}
    assert dict(found("divprune").encoder.weighting) == {}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another position": ({"options": {"position": "fited"}}, "option position must be none or fitted, got fited"),
    "no size": ({"options": {"padding": "wide"}}, "option padding must be none, or height x width of the images"),
    "a method by features": (
        {"method": "divprune", "options": {"position": "fitted"}},
        "option position is of the methods that rank by attention .*fastervlm.*; got --method divprune, which",
    ),
    "images for nothing": (
        {"calibrate": "scenes"},
        "--calibrate goes with --keep auto, --option position=fitted, or what takes numbers",
    ),
    "steps inside": (
        {"options": {"position": "fitted"}, "inside": "drop", "encoder_cost": 0.6},
        "option position is of patches that stay in their places, got --inside drop",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what: str) -> None:
    fields, said = REFUSED[what]
    with pytest.raises(EdgepruneError, match=said):
        found(**fields)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fastervlm", "hiprune", "received", "visionzip"])
def test_the_bundle_keeps_what_it_was_made_with(method: str, tmp_path: Path) -> None:
    options = {"position": "fitted", "padding": "320x640"}
    request = Request(method, "cpu", keep=64, options=options, output=tmp_path / "bundle", baselines=False)
    manifest = export_bundle(request).manifest  # raises when the graph and the reference disagree
    assert {name: manifest.options[name] for name in options} == options
    assert all(len(weights) == manifest.patches for weights in manifest.learned["position"]["weights"].values())
    assert "attention to padding around images of 320x640 counts as 0" in manifest.deviations
