"""One export, end to end: what is in the bundle, for every kind of graph, and that a failure leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeprune import bundle, encoders, pruners, targets, trace
from edgeprune.encoders import Encoder
from edgeprune.errors import BundleError, ModelError, ParityError, RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.budget import tokens as tokens_of
from edgeprune.export.job import STEPS
from edgeprune.export.record import TELLING
from edgeprune.export.request import TRAINED
from edgeprune.export.wheel import wheel
from edgeprune.probes import scenes
from edgeprune.pruners import _select as selection
from edgeprune.pruners import fastervlm
from edgeprune.pruners._scorer import load_scorer
from edgeprune.runtime import load
from edgeprune.runtime.parity.verify import verify
from edgeprune.taps import Taps

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    """The default model with every file a bundle can have."""
    return export_bundle(Request("fastervlm", "cpu", keep=64, output=folder / "default"))


@pytest.fixture(scope="module")
def tiled(folder: Path) -> Exported:
    return export_bundle(Request("fastervlm", "cpu", keep=16, tiles=3, output=folder / "tiles", baselines=False))


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
    assert cost["graph"] < cost["pool_graph"] < cost["unpruned_graph"] == cost["naive_graph"]


def test_the_steps_are_told_in_order(tmp_path: Path) -> None:
    told: list[str] = []
    request = Request("none", "cpu", output=tmp_path / "out", baselines=False)
    export_bundle(request, told.append)
    assert told == [step for step in STEPS if "baselines" not in step]


def test_the_runtime_gives_the_reference_back_for_an_image(exported: Exported) -> None:
    encoder = load(exported.folder)
    reference = load_file(exported.folder / "reference.safetensors")
    got = encoder(scenes()[0])
    np.testing.assert_array_equal(got.indices, reference["scene00/indices"].numpy())
    np.testing.assert_allclose(got.tokens, reference["scene00/tokens"].numpy(), rtol=1e-3, atol=1e-4)


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


def test_another_layer_is_another_graph(folder: Path) -> None:
    done = export_bundle(Request("fastervlm", "cpu", keep=16, layer=2, output=folder / "layer", baselines=False))
    assert done.manifest.model.layer == 2
    names = {str(node.name) for node in ir.load(done.folder / "encoder.onnx").graph}
    assert any("layers.1." in name for name in names)
    assert not any("layers.2." in name for name in names)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("method", pruners.names())
def test_every_method_becomes_a_graph_that_targets_can_run(
    method: str, precision: str, llava_folder: MakeFolder, make_scorer: MakeFolder, tmp_path: Path
) -> None:
    model = llava_folder(tmp_path / "llava")
    request = Request(
        method,
        "jetson-orin",
        keep=None if method == "none" else 8,
        scorer=make_scorer(grid=(6, 6)) if pruners.get(method).traits.needs_scorer else None,
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


def test_own_probes_are_checked_too(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (31, 200), (200, 30, 90)).save(tmp_path / "mine.png")
    done = export_bundle(Request("fastervlm", "cpu", keep=16, probes=tmp_path, output=folder / "own", baselines=False))
    assert "own-mine" in done.reports[0].probes


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


class Mistakes:
    """What a traced path can get wrong; each breaks it in one way."""

    @staticmethod
    def wrong_layer(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention
        patch.setattr(fastervlm.Method, "layers", lambda method, depth: (depth - 2,))
        patch.setattr(Taps, "cls_attention", lambda taps: right(taps, taps.depth - 2))

    @staticmethod
    def row_of_a_patch_instead_of_cls(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention

        def second_row(taps: Taps) -> torch.Tensor:
            seen = taps.attention[taps.depth - 1]
            return right(replace(taps, attention={taps.depth - 1: replace(seen, query=seen.query[:, :, 1:])}))

        patch.setattr(Taps, "cls_attention", second_row)

    @staticmethod
    def dropped_cls_offset(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(trace, "take", lambda x, rows: selection.take(x, (rows - 1).clamp(min=0)))

    @staticmethod
    def unsorted_indices(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fastervlm, "ranked_top", lambda scores, keep: (scores.topk(keep).indices,) * 2)

    @staticmethod
    def two_tokens_swapped(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(trace, "take", lambda x, rows: selection.take(x, rows)[:, [1, 0, *range(2, rows.shape[1])]])

    @staticmethod
    def scores_in_float16(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention
        patch.setattr(Taps, "cls_attention", lambda taps: right(taps).half().float())


@pytest.mark.parametrize("mistake", [name for name in vars(Mistakes) if not name.startswith("_")])
def test_parity_catches_a_mistake_of_the_traced_path_and_no_bundle_is_left(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(Mistakes, mistake)(monkeypatch)
    with pytest.raises(ParityError, match="differs from the reference"):
        export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out", baselines=False))
    assert not list(tmp_path.iterdir())


def test_parity_accepts_an_exact_tie_on_a_flat_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without positions, all patches of a flat image are equal; trace and reference prefer different ones."""

    def last_first(scores: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        return selection.ranked_top(scores + 1e-9 * torch.arange(scores.shape[-1]), keep)

    monkeypatch.setattr(encoders, "load", without_positions(encoders.load))
    monkeypatch.setattr(fastervlm, "ranked_top", last_first)
    done = export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out", baselines=False))
    flat = done.reports[0].probes["flat"]
    assert flat.passed
    assert flat.equal_sets == 0
    assert flat.decided == flat.wrong == 0


def without_positions(load: Callable[..., Encoder]) -> Callable[..., Encoder]:
    def loaded(*given: Any, **options: Any) -> Encoder:
        encoder = load(*given, **options)
        encoder.tower.module.embeddings.position_embedding.weight.data[1:] = 0  # type: ignore[union-attr, operator]
        return encoder

    return loaded


class TestAFailureLeavesNothing:
    def test_when_a_weight_is_not_a_number(self, llava_folder: MakeFolder, tmp_path: Path) -> None:
        model = llava_folder(tmp_path / "llava")
        tensors = load_file(model / "model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.fc1.weight" in name and "vision" in name)
        tensors[name][0, 0] = float("nan")
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.fc1\.weight has values that are not finite"):
            export_bundle(Request("fastervlm", "cpu", keep=8, model=str(model), output=tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_when_a_weight_does_not_fit_float16(self, llava_folder: MakeFolder, tmp_path: Path) -> None:
        model = llava_folder(tmp_path / "llava")
        tensors = load_file(model / "model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.fc1.weight" in name and "vision" in name)
        tensors[name][0, 0] = 7e4
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        request = Request("fastervlm", "cpu", keep=8, model=str(model), output=tmp_path / "out", precision="float16")
        with pytest.raises(ModelError, match=r"fc1\.weight is beyond the range of float16; export with --precision"):
            export_bundle(request)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["llava"]

    def test_when_the_disk_is_too_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import shutil

        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1 << 20))
        with pytest.raises(BundleError, match=r"the bundle needs up to .* MiB, its place has 1 MiB free"):
            export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out"))
        assert not list(tmp_path.iterdir())

    def test_and_an_existing_bundle_stays_as_it_was(self, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {path: path.read_bytes() for path in exported.folder.iterdir()}
        monkeypatch.setattr(fastervlm.Method, "select", lambda self, taps: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_bundle(Request("fastervlm", "cpu", keep=16, output=exported.folder, force=True))
        assert {path: path.read_bytes() for path in exported.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": "bfloat16"}, "--precision must be float32 or float16, got bfloat16"),
        ({"tiles": 0}, "--tiles must be at least 1, got 0"),
        ({"tiles": 2, "dynamic_batch": True}, "--tiles 2 fixes the batch and --dynamic-batch frees it"),
        ({"target": "jetson-orion"}, "no target 'jetson-orion'.* Did you mean 'jetson-orin'"),
        ({"keep": None}, "--keep must say how many"),
        ({"layer": 7}, "layer must be in"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_written(
    change: dict[str, object], says: str, tmp_path: Path
) -> None:
    given = {"method": "fastervlm", "target": "cpu", "keep": 16, "output": tmp_path / "out", **change}
    with pytest.raises(RequestError, match=says):
        export_bundle(Request(**given))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_probes_of_tiles_differ_so_that_mixed_up_tiles_show(tiled: Exported) -> None:
    reference = load_file(tiled.folder / "reference.safetensors")
    tiles = reference["scene00/pixel_values"]
    assert not torch.equal(tiles[0], tiles[1])


class TestDroppingInside:
    """A detector, 48 patches, and a scorer in front of it."""

    def request(self, folder: Path, output: Path, scorer: Path, **given: Any) -> Request:
        return Request("bavit", "cpu", model=str(folder), scorer=scorer, output=output, **{"baselines": False, **given})

    def test_a_share_is_of_all_patches_and_the_manifest_says_how_many(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        scorer = make_scorer("coarse")
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", scorer, keep=0.6, uint8=True))
        assert done.manifest.keep == 28  # 28.8 of 48, and blocks of four
        assert done.manifest.detects
        assert done.manifest.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert done.manifest.outputs["logits"].shape == (1, 5, 4)
        assert done.manifest.outputs["pred_boxes"].shape == (1, 5, 4)
        assert done.manifest.options["scorer"] == "coarse"
        assert done.warnings == ()

    def test_a_budget_that_saves_nothing_is_warned_of(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", make_scorer(), keep=47, baselines=True))
        (warning,) = done.warnings
        bound = done.manifest.cost["unpruned_formula"] / done.manifest.cost["formula"]
        assert bound < 1
        assert f"at most {bound:.2f} times as fast as without pruning; keep less than 47 of 48" in warning
        files = sorted(path.name for path in done.folder.glob("*.onnx"))
        assert files == ["baseline.matmul.onnx", "baseline.unpruned.onnx", "encoder.onnx"]

    def test_a_budget_below_the_foreground_of_one_image_in_ten_is_warned_of(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        scorer = make_scorer("trunk", foreground={"mean": 0.2, "p90": 0.5})
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", scorer, keep=12, precision="float16"))
        (warning,) = done.warnings
        assert warning.startswith("keep 12 is 25% of the patches, but one in ten of the images")
        assert "more than 50% foreground; keep 24, or fine-tune" in warning


@pytest.mark.parametrize(
    ("keep", "block", "tokens"),
    [
        (0.6, 1, 29),
        (0.6, 4, 28),
        (1.0, 4, 48),
        (0.5, 1, 24),
        (0.001, 1, 1),
        (0.001, 4, 4),
        (20, 4, 20),
        (None, 1, None),
    ],
)
def test_a_share_of_48_patches_is_rounded_to_whole_blocks(
    keep: int | float | None, block: int, tokens: int | None
) -> None:
    assert tokens_of(keep, 48, block) == tokens


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, 64.0, float("inf"), float("nan")])
def test_a_share_beyond_the_whole_is_refused_before_anything_is_written(keep: float, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--keep as a share must be in \(0, 1\], got .*; give a number of tokens"):
        export_bundle(Request("random", "cpu", keep=keep, output=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_without_a_scorer_the_one_that_was_trained_here_is_taken(
    yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    TRAINED.mkdir()
    request = Request("bavit", "cpu", keep=20, model=str(yolos_folder), output=tmp_path / "out", baselines=False)
    with pytest.raises(ModelError, match=r"bavit-scorer.scorer\.safetensors, which is none; train one"):
        export_bundle(request)
    made = make_scorer()
    made.rename(TRAINED / "scorer.safetensors")
    scorer = load_scorer(TRAINED)
    assert export_bundle(request).manifest.options["layers"] == scorer.config.layers
