"""Options that are averages over images: taken at export where they are not given, and kept in the manifest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune import targets
from edgeprune.errors import RequestError
from edgeprune.export import Request
from edgeprune.export.images import images_of
from edgeprune.export.opening import Opened, opened
from edgeprune.export.request import check
from edgeprune.probes import scenes


def found(method: str = "agilepruner", **fields: Any) -> Opened:
    request = Request(method, "cpu", keep=64, **fields)
    check(request, exported=False)
    return opened(request, targets.load("cpu"))


@pytest.mark.slow
def test_the_average_is_that_of_the_participation_ratio_over_the_images() -> None:
    one = found(calibrate="scenes")
    pixels, data, count = images_of("scenes", one.preprocessing)
    with torch.inference_mode():
        hidden = one.encoder.hidden(one.encoder.tower.module(pixels, output_hidden_states=True))
    rows = torch.nn.functional.normalize(hidden[:, one.encoder.tower.prefix :].double(), dim=2)
    squares = torch.linalg.svdvals(rows) ** 2
    ratio = float((squares.sum(dim=1) ** 2 / (squares**2).sum(dim=1)).mean())
    assert one.method.options()["average"] == pytest.approx(ratio, rel=1e-4)
    assert one.learned == {"average": {"images": count, "data": data, "value": one.method.options()["average"]}}
    assert one.warnings == ()


def test_drawn_scenes_are_warned_of_and_a_folder_is_named() -> None:
    assert "was taken of 16 drawn scenes; --calibrate DIR takes images of yours" in found().warnings[0]
    folder = scenes()[0].parent
    assert found(calibrate=str(folder)).learned["average"]["data"] == folder.name


def test_an_average_that_is_given_is_taken_as_it_is() -> None:
    one = found(options={"average": "7.5"})
    assert one.method.options()["average"] == 7.5
    assert one.learned == {}
    with pytest.raises(RequestError, match="--calibrate goes with --keep auto"):
        found(options={"average": "7.5"}, calibrate="scenes")
