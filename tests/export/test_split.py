"""The encoder as two graphs: what the pixels decide, and what a question or a prior does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeprune.errors import RequestError
from edgeprune.export import Exported, Request
from edgeprune.export.job import export_bundle
from edgeprune.export.request import check
from edgeprune.runtime import TokenEncoder, load

SCENE = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
MASKED = {"method": "divprune", "prior": "mask"}
ASKED: dict[str, Any] = {"method": "cdpruner", "options": {"form": "openvino"}}


def exported(folder: Path, **request: object) -> Path:
    """A bundle of the embedded model, verified as one graph and as two."""
    given = {"target": "cpu", "keep": 24, "baselines": False, "runtime": False, "split": True, "output": folder}
    return in_halves(export_bundle(Request(**{**given, **request})))  # type: ignore[arg-type]


def in_halves(done: Exported) -> Path:
    folder, reports = done.folder, done.reports
    assert [report.source for report in reports] == ["encoder.onnx", "encode.onnx and select.onnx"]
    assert all(report.passed for report in reports)
    encode, select = ((folder / f"{name}.onnx").stat().st_size for name in ("encode", "select"))
    assert select < encode / 2  # most layers are with the pixels; those of kept tokens alone are not
    return folder


@pytest.fixture(scope="module")
def asked(exported_once: Callable[..., Exported]) -> Path:
    """That of tests/cpp, too."""
    given = {"baselines": False, "keep": 24, "options": ASKED["options"], "split": True}
    return in_halves(exported_once(ASKED["method"], "cpu", **given))


def text(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(128).astype(np.float32)


def test_the_halves_share_no_node_and_make_up_the_whole(asked: Path) -> None:
    whole, encode, select = (
        {node.name for node in ir.load(asked / f"{name}.onnx").graph if node.inputs}
        for name in ("encoder", "encode", "select")
    )
    assert encode | select == whole
    assert not encode & select


def test_the_first_half_takes_pixels_alone_and_the_second_none(asked: Path) -> None:
    encode, select = (ir.load(asked / f"{name}.onnx").graph for name in ("encode", "select"))
    assert [value.name for value in encode.inputs] == ["pixel_values"]
    assert [value.name for value in select.inputs] == [*(value.name for value in encode.outputs), "text"]


def test_asked_often_an_image_is_encoded_once_and_gives_what_the_whole_gives(asked: Path) -> None:
    with load(asked, device="cpu", kind=TokenEncoder) as encoder:
        seen = encoder.encode(SCENE)
        encoder._halves.encoder.close()  # another run would be refused
        for seed in range(3):
            chosen, whole = seen.select(text=text(seed)), encoder(SCENE, text=text(seed))
            np.testing.assert_array_equal(chosen.indices, whole.indices)
            np.testing.assert_allclose(chosen.tokens, whole.tokens, rtol=1e-4, atol=1e-5)


def test_another_question_keeps_other_patches_and_none_is_the_method_without(asked: Path) -> None:
    with load(asked, device="cpu", kind=TokenEncoder) as encoder:
        seen = encoder.encode(SCENE)
        assert not np.array_equal(seen.select(text=text(0)).indices, seen.select(text=text(1)).indices)
        np.testing.assert_array_equal(seen.select().indices, seen.select(text=0 * text(0)).indices)


@pytest.mark.slow
def test_a_prior_is_asked_in_the_same_way(tmp_path: Path) -> None:
    folder = exported(tmp_path / "prior", method="fastervlm", prior="mask")
    with load(folder, device="cpu", kind=TokenEncoder) as encoder:
        seen = encoder.encode(SCENE)
        left = np.tile((np.arange(12) < 6).astype(np.float32), 12)
        assert (seen.select(prior=left).indices % 12 < 6).all()
        np.testing.assert_array_equal(seen.select().indices, encoder(SCENE).indices)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"nothing": text(0)}, "the graph must be given text; it was given text, nothing"),
        ({"text": text(0)[:5]}, r"text must be float32 \[1, 128\], got float32 \[1, 5\]; cast or reshape it"),
        ({"text": text(0) * np.nan}, "text must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(asked: Path, given: dict[str, np.ndarray], line: str) -> None:
    with load(asked, device="cpu", kind=TokenEncoder) as encoder, pytest.raises(Exception, match=line):
        encoder.encode(SCENE).select(**given)


@pytest.mark.slow
def test_a_bundle_of_one_graph_says_how_to_get_two(exported_once: Callable[..., Exported]) -> None:
    whole = exported_once(ASKED["method"], "cpu", keep=24, baselines=False, options=ASKED["options"]).folder
    with load(whole, device="cpu", kind=TokenEncoder) as encoder, pytest.raises(RequestError, match="with --split to"):
        encoder.encode(SCENE)


def test_nothing_to_ask_is_nothing_to_split() -> None:
    with pytest.raises(RequestError, match="--split parts what hangs on a question or a prior"):
        check(Request("fastervlm", "cpu", keep=24, split=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"dynamic_batch": True}, id="any batch"),
        pytest.param({"tiles": 3}, id="three images"),
    ],
)
def test_a_prior_is_of_every_image_of_a_run(tmp_path: Path, request_: dict[str, Any]) -> None:
    """Probes have as many as the graph takes, though fewer are enough where scenes are chosen."""
    folder = exported(tmp_path / "prior", method="fastervlm", prior="mask", **request_)
    with load(folder, device="cpu", kind=TokenEncoder) as encoder:
        left = np.tile((np.arange(12) < 6).astype(np.float32), 12)
        both = np.stack([left, 1 - left, left])
        kept = encoder([SCENE] * 3, prior=both).indices % 12
        assert [(kept[at] < 6).all() for at in range(3)] == [True, False, True]
        assert (encoder([SCENE] * 3, prior=left).indices % 12 < 6).all()


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(ASKED, id="cdpruner", marks=pytest.mark.slow),
        pytest.param({"prior": "fuse:0.5"}, id="fuse", marks=pytest.mark.slow),
        pytest.param({"method": "mmtok"}, id="mmtok", marks=pytest.mark.slow),
        pytest.param({"method": "segpruner"}, id="segpruner", marks=pytest.mark.slow),
        pytest.param({"method": "divprune", "prior": "mask"}, id="mask", marks=pytest.mark.slow),
    ],
)
def test_the_official_form_goes_along_and_takes_what_the_graph_takes(tmp_path: Path, request_: dict[str, Any]) -> None:
    request = {"method": "fastervlm", "target": "cpu", "keep": 6, "runtime": False, "output": tmp_path / "with"}
    graphs = export_bundle(Request(**{**request, **request_})).manifest.graphs
    assert graphs["baseline.official"].inputs == graphs["encoder"].inputs
    assert [*graphs["baseline.unpruned"].inputs] == ["pixel_values"]
