"""A whole export in fewer bits: what its bundle says, that it is judged well, and that it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from edgeprune import bundle
from edgeprune.cli.tables.manifest import manifest_table
from edgeprune.errors import ParityError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.quantise import plan as plans
from edgeprune.runtime.parity.verify import verify

ASKED = "projector.linear_2"
REQUEST = Request(
    "fastervlm", "cpu", keep=36, precision="int8", calibration_images=16, keep_float=(ASKED,), baselines=False,
    runtime=False,
)  # fmt: skip
PRODUCTS = 5 * 6 + 2
"""of the embedded model: q, k, v, out, fc1 and fc2 of five layers, and a projector of two"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_bundle(replace(REQUEST, output=tmp_path_factory.mktemp("int8") / "bundle"))


@pytest.fixture
def said(exported: Exported) -> dict[str, Any]:
    assert exported.manifest.quantised is not None
    return dict(exported.manifest.quantised)


def test_the_bundle_is_within_its_bounds_here_and_when_it_is_verified_again(exported: Exported) -> None:
    for reports in (exported.reports, verify(exported.folder, device="cpu")):
        assert [report.passed for report in reports] == [True]
        assert reports[0].worst.token_median <= plans.BOUNDS["token_median"]


def test_the_manifest_says_what_is_quantised_by_which_ranges(exported: Exported, said: dict[str, Any]) -> None:
    manifest = exported.manifest
    assert manifest.precision == said["scheme"] == "int8"
    assert {manifest.outputs[name].dtype for name in ("tokens", "scores")} == {"float32"}
    assert (said["activations"], said["bounds"]) == ("u8", plans.BOUNDS)
    assert said["session"] == {"cpu": {"disable": ["MatMulAddFusion"]}}
    calibration = said["calibration"]
    assert (calibration["images"], calibration["source"]) == (16, "drawn scenes and probes")
    assert len(calibration["digest"]) == 64
    quantised = [one["name"] for one in said["products"] if not one["float"]]
    assert sorted(calibration["ranges"]) == sorted(quantised)
    assert all(low <= 0 <= high and low < high for low, high in calibration["ranges"].values())


def test_every_product_has_its_error_and_those_in_float_say_why(said: dict[str, Any]) -> None:
    layers = {one["name"]: one for one in said["products"]}
    assert len(layers) == PRODUCTS
    assert all(0 < one["error"] < 0.1 for one in layers.values())
    assert layers[ASKED]["why"] == "asked"
    for one in layers.values():
        assert one["float"] == (one["why"] in ("asked", "measured"))
    worst = max((one for one in layers.values() if one["name"] != ASKED), key=lambda one: one["error"])
    measured = [one for one in layers.values() if one["why"] == "measured"]
    assert not measured or worst in measured


def test_the_graph_has_those_products_in_eight_bits_and_the_others_in_float(
    exported: Exported, said: dict[str, Any]
) -> None:
    graph = ir.load(bundle.load(exported.folder).graph(bundle.ENCODER)).graph
    quantised: dict[str, bool] = {}
    for node in graph:
        name, given = str(node.name).rpartition("/")[0], node.inputs[:2]
        if node.op_type == "MatMul" and all(value is not None for value in given):
            made = [value.producer() for value in given if value is not None]
            quantised[name] = all(one is not None and one.op_type == "DequantizeLinear" for one in made)
    for one in said["products"]:
        assert quantised[one["name"]] is not one["float"]
    assert not any(part for name, part in quantised.items() if name not in {one["name"] for one in said["products"]})


def test_the_user_is_told_what_ranges_were_taken_of(exported: Exported) -> None:
    assert any("probes; --calibration DIR takes images of yours" in warning for warning in exported.warnings)


def test_inspect_names_what_stays_float_and_why(exported: Exported) -> None:
    table = manifest_table(exported.manifest)
    rows = dict(zip(*([*column.cells] for column in table.columns), strict=True))
    assert "of 32 products, activations u8" in rows["quantised"]
    assert f"{ASKED}: asked" in rows["stay float"]
    assert "16 images (drawn scenes and probes)" in rows["ranges"]


@pytest.mark.slow
def test_a_second_export_is_the_same_in_every_byte(exported: Exported, tmp_path: Path) -> None:
    again = export_bundle(replace(REQUEST, output=tmp_path / "again"))
    for path in sorted(exported.folder.iterdir()):
        assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "int8-dynamic"},
        {"target": "jetson-orin"},
        {"target": "jetson-orin-jp51"},
        {"inside": "tome", "encoder_cost": 0.554},
        {"inside": "drop", "schedule": "2:72", "uint8": True},
        {"tiles": 2},
        {"dynamic_batch": True},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_every_kind_of_graph_is_within_its_bounds(fields: dict[str, Any], tmp_path: Path) -> None:
    exported = export_bundle(replace(REQUEST, keep_float=(), **fields, output=tmp_path / "bundle"))
    assert [report.passed for report in exported.reports] == [True]
    said = exported.manifest.quantised
    assert said is not None
    floats = [one for one in said["products"] if one["float"]]
    assert len(floats) <= PRODUCTS // 4
    cost = exported.manifest.cost
    assert cost["graph"] == pytest.approx(cost["formula"], rel=0.06)  # as of a float graph
    assert bool(said["calibration"]) == any("--calibration DIR" in warning for warning in exported.warnings)


@pytest.mark.slow
def test_an_encoder_that_no_bound_fits_is_refused_with_the_figure_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "BOUNDS", {"regret": 1.0, "token_median": 1e-4, "token_each": 1.0})
    with pytest.raises(ParityError, match=r"in the median, 9e-05 is allowed, with 8 of 32 products in float"):
        export_bundle(replace(REQUEST, calibration_images=2, keep_float=(), output=tmp_path / "bundle"))
    assert not any(tmp_path.iterdir())
