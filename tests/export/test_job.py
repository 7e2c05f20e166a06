"""One export, end to end: what is in the bundle, for every kind of graph, and that a failure leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgeprune import bundle, encoders, pruners, targets
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.job import STEPS
from edgeprune.export.record import TELLING
from edgeprune.export.request import trained
from edgeprune.export.wheel import wheel
from edgeprune.probes import scenes
from edgeprune.pruners._scorer import load_scorer
from edgeprune.runtime import load
from edgeprune.runtime.parity.verify import verify
from tests.export.test_text import write_clip
from tests.learned import written

MakeFolder = Callable[..., Path]
IN_FLOAT16 = ("aim", "bavit", "vispruner")
"""a merge, which always runs, a scorer, and a rule of two parts; those of plain rules are in test_target_matrix.py. The
others are cells here, and tests/encoders/test_matrix.py exports them in float32"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def exported(exported_once: Callable[..., Exported]) -> Exported:
    """The default model with every file a bundle can have."""
    return exported_once("fastervlm", "cpu", keep=64)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """The steps of `tiled`, as they were told."""
    return []


@pytest.fixture(scope="module")
def tiled(folder: Path, told: list[str]) -> Exported:
    request = Request("fastervlm", "cpu", keep=16, tiles=3, output=folder / "tiles", baselines=False)
    return export_bundle(request, told.append)


@pytest.fixture(scope="module")
def early(folder: Path) -> Exported:
    """With the features of layer 2, and a probe of the user's."""
    mine = folder / "probes"
    mine.mkdir()
    Image.new("RGB", (31, 200), (200, 30, 90)).save(mine / "mine.png")
    request = Request("fastervlm", "cpu", keep=16, layer=2, probes=mine, output=folder / "early", baselines=False)
    return export_bundle(request)


def test_the_bundle_holds_the_files_of_the_contract(exported: Exported) -> None:
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "README.md",
        "baseline.matmul.onnx",
        "baseline.official.onnx",
        "baseline.pool.onnx",
        "baseline.unpruned.onnx",
        "compare.py",
        wheel().name,
        "encoder.onnx",
        "manifest.json",
        "preprocessor_config.json",
        "probes.json",
        "reference.safetensors",
    ]
    assert bundle.load(exported.folder).manifest == exported.manifest


def test_the_manifest_says_what_the_bundle_is(exported: Exported) -> None:
    said = json.loads((exported.folder / "manifest.json").read_text())
    assert (said["method"], said["keep"], said["grid"], said["tiles"]) == ("fastervlm", 64, [12, 12], 1)
    assert said["model"] == {
        "id": "edgeprune/tiny",
        "revision": "local",
        "family": "llava",
        "layer": 5,
        "features": "hidden_states[5]",
    }
    assert (said["schema_version"], said["precision"]) == ("2.0", "float32")
    assert {name: graph["file"] for name, graph in said["graphs"].items()} == {
        "encoder": "encoder.onnx",
        **{f"baseline.{name}": f"baseline.{name}.onnx" for name in ("official", "unpruned", "pool", "matmul")},
    }
    assert said["graphs"]["encoder"]["outputs"]["tokens"] == {"shape": [1, 64, 128], "dtype": "float32"}
    assert said["graphs"]["baseline.unpruned"]["outputs"]["tokens"]["shape"] == [1, 144, 128]
    assert said["deviations"]
    assert {"torch", "transformers", "onnx", "onnxruntime", "edgeprune"} <= set(said["versions"])


def test_the_graph_carries_its_metadata(exported: Exported) -> None:
    properties = ir.load(exported.folder / "encoder.onnx").metadata_props
    assert properties["edgeprune.method"] == "fastervlm"
    assert properties["edgeprune.keep"] == "64"
    assert properties["edgeprune.grid"] == "12x12"
    assert properties["edgeprune.model"] == "edgeprune/tiny"
    assert "edgeprune.version" in properties


def test_parity_was_checked_on_every_probe_before_it_returned(exported: Exported) -> None:
    (report,) = exported.reports
    drawn = [name for name in report.probes if name.startswith("drawn")]
    assert len(report.probes) == 7 + len(drawn)
    assert len(drawn) == TELLING
    assert report.proven
    assert report.passed
    assert report.worst.wrong == 0


def test_the_graph_stays_within_one_per_cent_of_the_formula_where_patches_cost_little(exported: Exported) -> None:
    cost = exported.manifest.cost
    patch_embedding = 144 * 128 * 3 * 8 * 8  # 2 % of this small encoder, 0.2 % of ViT-L/14-336
    assert (cost["graph"] - patch_embedding) / cost["formula"] == pytest.approx(1, abs=0.01)
    assert cost["graph"] < cost["pool_graph"] < cost["unpruned_graph"] == cost["official_graph"]


def test_the_steps_are_told_in_order(tiled: Exported, told: list[str]) -> None:
    assert told == [step for step in STEPS if "baselines" not in step]


def test_the_runtime_gives_the_reference_back_for_an_image(exported: Exported) -> None:
    encoder = load(exported.folder)
    reference = load_file(exported.folder / "reference.safetensors")
    got = encoder(scenes()[0])
    np.testing.assert_array_equal(got.indices, reference["scene00/indices"].numpy())
    np.testing.assert_allclose(got.tokens, reference["scene00/tokens"].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_jetson_orin_gets_a_float16_graph_and_its_build_recipe(folder: Path) -> None:
    done = export_bundle(Request("fastervlm", "jetson-orin", keep=64, output=folder / "orin", baselines=False))
    assert done.manifest.precision == "float16"
    assert done.manifest.inputs["pixel_values"].dtype == done.manifest.outputs["tokens"].dtype == "float16"
    assert done.manifest.outputs["scores"].dtype == "float32"
    assert done.reports[0].passed
    script = done.folder / "build.sh"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "--stronglyTyped" in text
    assert "plan=encoder.jetson-orin.plan" in text
    assert done.manifest.files[wheel().name].size == len(wheel().content)
    assert f"pip install './{wheel().name}[cpu]'" in (done.folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_images_as_bytes_with_the_normalisation_in_the_graph(folder: Path, precision: str) -> None:
    output = folder / f"uint8-{precision}"
    done = export_bundle(
        Request("fastervlm", "cpu", keep=64, output=output, uint8=True, precision=precision, baselines=False)
    )
    assert done.manifest.inputs["pixel_values"] == bundle.TensorSpec((1, 96, 96, 3), "uint8")
    assert done.reports[0].passed
    image = Image.open(scenes()[0]).convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(load(output)(np.asarray(image)).indices, load(output)(image).indices)


def test_several_tiles_per_run(tiled: Exported) -> None:
    assert tiled.manifest.outputs["tokens"].shape == (3, 16, 128)
    assert tiled.reports[0].passed
    together = load(tiled.folder)([*scenes()[:3]])
    assert together.tokens.shape == (3, 16, 128)


@pytest.mark.slow
def test_a_dynamic_batch_takes_any_number_of_images(folder: Path) -> None:
    done = export_bundle(
        Request("fastervlm", "cpu", keep=16, dynamic_batch=True, output=folder / "free", baselines=False)
    )
    assert done.manifest.inputs["pixel_values"].shape == ("batch", 3, 96, 96)
    assert done.manifest.dynamic_batch
    encoder = load(done.folder)
    alone = encoder(scenes()[1])
    together = encoder([*scenes()[:5]])
    np.testing.assert_array_equal(together.indices[1], alone.indices[0])
    np.testing.assert_allclose(together.tokens[1], alone.tokens[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_another_layer_is_another_graph(early: Exported) -> None:
    assert early.manifest.model.layer == 2
    names = {str(node.name) for node in ir.load(early.folder / "encoder.onnx").graph}
    assert any("layers.1." in name for name in names)
    assert not any("layers.2." in name for name in names)


IN_JOINT_SPACE = ("cdpruner", "desap", "hiprune_text", "sppruner", "trim")
"""which compare patches with a question in CLIP's space"""


def marks_of(method: str, precision: str) -> Any:
    if precision == "float32" or method not in IN_FLOAT16:
        return pytest.mark.cells
    return () if method == "aim" else pytest.mark.slow


CELLS = [
    pytest.param(method, precision, marks=marks_of(method, precision))
    for method in pruners.names()
    for precision in ("float32", "float16")
]


def trained_for(method: str, model: Path, make_scorer: MakeFolder, folder: Path) -> Path | None:
    """The file of a scorer with weights by chance, where the method has one."""
    if pruners.get(method).learns:
        return written(method, encoders.load(open_checkpoint(str(model))), folder / "scorer.safetensors")
    return make_scorer(grid=(6, 6)) if pruners.get(method).traits.needs_scorer else None


@pytest.mark.parametrize(("method", "precision"), CELLS)
def test_every_method_becomes_a_graph_that_targets_can_run(
    method: str, precision: str, llava_folder: MakeFolder, make_scorer: MakeFolder, tmp_path: Path
) -> None:
    model = llava_folder(tmp_path / "llava")
    asked = method in IN_JOINT_SPACE
    request = Request(
        method,
        "jetson-orin",
        keep=None if method == "none" else 8,
        text_model=str(write_clip(tmp_path / "clip", 2)) if asked else None,
        scorer=trained_for(method, model, make_scorer, tmp_path),
        model=str(model),
        output=tmp_path / "out",
        precision=precision,
        baselines=False,
    )
    done = export_bundle(request)
    assert done.reports[0].passed
    used = {node.op_type for node in ir.load(done.folder / "encoder.onnx").graph.all_nodes()}
    assert not used & set(targets.load("jetson-orin").onnx.forbidden_ops)


def test_float32_is_refused_on_a_target_that_multiplies_in_float16_alone(tmp_path: Path) -> None:
    request = Request("fastervlm", "rtx-turing", keep=16, precision="float32", output=tmp_path / "out")
    with pytest.raises(RequestError, match="rtx-turing computes products in float16 alone, got --precision float32"):
        export_bundle(request)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_own_probes_are_checked_too(early: Exported) -> None:
    assert "own-mine" in early.reports[0].probes


@pytest.mark.slow
def test_large_weights_lie_beside_the_graphs_once(
    clip_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.export.storage.INLINE_NBYTES", 0)
    monkeypatch.setattr("edgeprune.export.storage.SMALL_NBYTES", 256)
    model = clip_folder(tmp_path / "clip", hidden_size=64, intermediate_size=256)
    done = export_bundle(Request("fastervlm", "cpu", keep=9, model=str(model), output=tmp_path / "out"))
    data = (done.folder / "encoder.onnx.data").stat().st_size
    for name in ("encoder.onnx", *(f"baseline.{one}.onnx" for one in ("official", "unpruned", "pool"))):
        path = done.folder / name
        assert path.stat().st_size < data
        weights = [v.const_value for v in ir.load(path).graph.initializers.values()]
        assert {w.location for w in weights if isinstance(w, ir.ExternalTensor)} == {"encoder.onnx.data"}
    assert verify(done.folder)[0].passed
    from edgeprune.runtime.ledger.bench import bench

    assert {row.name for row in bench(done.folder, rounds=1).rows} == {"pruned", "official", "pool", "unpruned"}


def test_the_baselines_compute_what_they_stand_for(exported: Exported) -> None:
    import onnxruntime

    reference = load_file(exported.folder / "reference.safetensors")
    pixels = reference["scene00/pixel_values"].numpy()
    tokens = {}
    for name, path in bundle.load(exported.folder).baselines.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        if name != "matmul":
            tokens[name] = session.run(["tokens"], {"pixel_values": pixels})[0]
    kept = reference["scene00/indices"].numpy()[0]
    np.testing.assert_allclose(tokens["official"], reference["scene00/tokens"].numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(tokens["unpruned"][:, kept], reference["scene00/tokens"].numpy(), rtol=1e-3, atol=1e-4)
    assert tokens["pool"].shape == (1, 64, 128)


def test_the_probes_of_tiles_differ_so_that_mixed_up_tiles_show(tiled: Exported) -> None:
    reference = load_file(tiled.folder / "reference.safetensors")
    tiles = reference["scene00/pixel_values"]
    assert not torch.equal(tiles[0], tiles[1])


@pytest.mark.slow
def test_without_a_scorer_the_one_that_was_trained_here_is_taken(
    yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left = trained("bavit")
    left.mkdir()
    request = Request("bavit", "cpu", keep=20, model=str(yolos_folder), output=tmp_path / "out", baselines=False)
    with pytest.raises(ModelError, match=r"bavit-scorer.scorer\.safetensors, which is none; train one"):
        export_bundle(request)
    made = make_scorer()
    made.rename(left / "scorer.safetensors")
    scorer = load_scorer(left)
    assert export_bundle(request).manifest.options["layers"] == scorer.config.layers
