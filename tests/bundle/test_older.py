"""Bundles of releases before this one load and run. Every release stores one in tests/golden: the next one goes there.

bundle-0.1  made by 0.1 as `edgeprune export --method fastervlm --keep 16 --no-baselines` of a LLaVA of three
            layers with seeded random weights, 40x40 pixels, 5x5 patches
bundle-0.2  made by tests/golden/release.py, with baselines
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeprune.bundle import MANIFEST, Graph, Manifest, Plan, add_engine, load
from edgeprune.cli import cli
from edgeprune.errors import RequestError
from edgeprune.runtime.parity.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"
FIRST = GOLDEN / "bundle-0.1"
PROBES = {"bundle-0.1": 7, "bundle-0.2": 10}


def older(**changes: Any) -> dict[str, Any]:
    """The manifest of 0.1, with fields changed; None takes one out."""
    given = {**json.loads((FIRST / MANIFEST).read_text()), **changes}
    return {name: value for name, value in given.items() if value is not None}


@pytest.fixture(params=sorted(path.name for path in GOLDEN.glob("bundle-*")))
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


def test_a_stored_bundle_loads_with_all_it_says(golden: Path) -> None:
    manifest = load(golden).manifest
    assert golden.name == f"bundle-{manifest.versions['edgeprune'].rpartition('.')[0]}"
    assert manifest.encoder.outputs["indices"].shape == (1, manifest.keep)


def test_a_stored_bundle_runs_as_it_did_when_it_was_made(golden: Path) -> None:
    (report,) = verify(golden, "cpu")
    assert report.passed
    assert len(report.probes) == PROBES[golden.name]


def test_a_stored_bundle_can_be_inspected_shown_verified_and_measured(golden: Path, tmp_path: Path) -> None:
    picture = tmp_path / "kept.png"
    photo = Path(__file__).parents[2] / "edgeprune" / "models" / "tiny" / "scenes" / "scene00.png"
    for words in (
        ["inspect"],
        ["verify", "--device", "cpu"],
        ["bench", "--rounds", "2"],
        ["show", str(photo), "--output", str(picture)],
    ):
        done = CliRunner().invoke(cli, [words[0], str(golden), *words[1:]])
        assert done.exit_code == 0, done.output
    assert picture.exists()


def test_the_dtype_of_0_1_is_the_precision_and_its_one_graph_the_encoder() -> None:
    manifest = load(FIRST).manifest
    assert (manifest.precision, manifest.schema_version) == ("float32", "1.0")
    assert manifest.encoder.file == "encoder.onnx"
    assert manifest.encoder.inputs["pixel_values"].shape == (1, 3, 40, 40)
    assert (manifest.steps, manifest.nested, manifest.rule, manifest.engines) == ((), False, {}, {})


def test_baselines_of_0_1_are_the_files_of_that_name() -> None:
    file = {"size": 1, "sha256": ""}
    given = older(files={"encoder.onnx": file, "baseline.pool.onnx": file, "baseline.txt": file})
    manifest = Manifest.from_json(json.dumps(given))
    assert manifest.graphs["baseline.pool"] == Graph("baseline.pool.onnx", {}, {})
    assert manifest.baselines == {"pool": "baseline.pool.onnx"}


@pytest.mark.parametrize(
    "changes",
    [{"dtype": None}, {"inputs": None}, {"outputs": None}, {"files": None}, {"files": []}, {"keep": 17}, {"keep": "16"},
     {"inputs": 7}, {"method": "\x1b[2J"}, {"dtype": "float64"}, {"files": {}}, {"files": {"x": 7}}],
    ids=str,
)  # fmt: skip
def test_a_wrong_manifest_of_0_1_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(FIRST, tmp_path / "old"))
    (folder / MANIFEST).write_text(json.dumps(older(**changes)))
    with pytest.raises(RequestError) as refused:
        load(folder)
    assert str(refused.value).isprintable()
    assert str(refused.value).startswith(str(folder))


def test_an_engine_for_a_bundle_of_0_1_brings_its_manifest_up_to_date(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIRST, tmp_path / "old"))
    engine = Plan("encoder.x.plan", "tensorrt-rtx", "1.7", (86,), "Linux x86_64", (), 7)
    add_engine(load(folder), "x", engine, b"plan")
    manifest = load(folder).manifest
    assert (manifest.schema_version, set(manifest.engines)) == ("2.0", {"x"})
    assert manifest.encoder == load(FIRST).manifest.encoder


def test_a_bundle_of_0_1_gives_tokens(tmp_path: Path) -> None:
    from edgeprune.runtime import load as open_bundle

    tokens, indices, scores = open_bundle(FIRST)(np.zeros((50, 60, 3), np.uint8))
    assert (tokens.shape, indices.shape, scores.shape) == ((1, 16, 32), (1, 16), (1, 25))
