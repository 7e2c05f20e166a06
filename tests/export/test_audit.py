"""The fusion audit: what it reads off the builder, that pruning costs no fused attention, and that it can fail."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner

from edgeprune import bundle, encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.cli import cli
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError
from edgeprune.export import Exported
from edgeprune.export import audit as module
from edgeprune.export.audit import FusionAudit, GraphAudit, Layer, audit, audit_bundle, read
from edgeprune.export.graph import to_onnx
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, with_inside
from edgeprune.schedule import Step
from edgeprune.trace import PrunedEncoder, outputs
from tests.covering import always

LAYERS = [f"encoder.encoder.layers.{at}.self_attn" for at in range(5)]
"""of the embedded model, up to the feature layer"""
MORE_KERNELS = {"fastervlm": 15, "hiprune": 20, "divprune": 30}
"""what a method may add to the unpruned graph; of divprune's 22, 16 are one loop's: the builder writes its body of 2
kernels out eight times"""

STEPS, KERNELS_OF_A_STEP = 2, 20
"""inside the encoder, and what each may add: cells, which rank by two layers, 39 in two steps, tome 23"""

LISTED = """Layers:
Name: _gemm_mha_v2_myl0_3, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [2,4], Format/Datatype: Half }], \
StreamId: 0, Metadata: [ONNX Layer: a.0.attn/MatMul][ONNX Layer: a.0.attn/Softmax][ONNX Layer: a.0.attn/MatMul_2]
Name: __myl_MaxSubExp_myl0_4, LayerType: kgen, Inputs: [], StreamId: 0, Metadata: [ONNX Layer: a.1.attn/Softmax]
Name: a+b, LayerType: gemm, Inputs: [], StreamId: 0
Name: __mye7_myl0_5, LayerType: signal, Inputs: [], Outputs: []

Bindings:
pixel_values
"""


def test_a_listing_is_read_as_kernels_and_layers() -> None:
    heard = read(["other", LISTED], {"a.0.attn/Softmax": "", "a.1.attn/Softmax": "its map is read by b too"}, 86)
    assert [(kernel.name, kernel.type, kernel.attends) for kernel in heard.kernels] == [
        ("_gemm_mha_v2_myl0_3", "gemm", True),
        ("__myl_MaxSubExp_myl0_4", "kgen", False),
        ("a+b", "gemm", False),
    ]
    assert heard.kernels[0].nodes == ("a.0.attn/MatMul", "a.0.attn/Softmax", "a.0.attn/MatMul_2")
    assert [(layer.name, layer.fused, layer.why) for layer in heard.layers] == [
        ("a.0.attn", True, ""),
        ("a.1.attn", False, "its map is read by b too"),
    ]
    assert heard.fused == 1


def test_a_layer_of_several_attentions_is_fused_when_all_of_them_are() -> None:
    attention = {"a.0.attn/Softmax": "x", "a.0.attn/Softmax_2": "windows"}
    (layer,) = read([LISTED], attention, 86).layers
    assert (layer.fused, layer.why) == (False, "windows")


def test_a_builder_that_lists_nothing_is_an_error_not_a_pass() -> None:
    with pytest.raises(EdgepruneError, match="listed no kernels"):
        read(["Layers:\n"], {}, 86)


def test_a_report_says_which_layers_were_lost() -> None:
    whole = read([LISTED], {"a.0.attn/Softmax": ""}, 86)
    broken = read([LISTED], {"a.1.attn/Softmax": "its map is read by b too"}, 86)
    report = FusionAudit("x", True, {"pruned": broken, "unpruned": broken})
    assert report.lost == []
    assert report.lines() == [
        "as TensorRT-RTX compiles it for SM 86, a proxy for x",
        "pruned, not fused: a.1.attn; its map is read by b too",
        "unpruned, not fused: a.1.attn; its map is read by b too",
    ]
    report.check()
    with pytest.raises(EdgepruneError, match=r"loses fused attention on SM 86: a\.1\.attn; its map is read by b too"):
        FusionAudit("x", True, {"pruned": broken}).check()
    assert FusionAudit("x", False, {"pruned": whole, "unpruned": broken}).to_json()["passed"]


# The real builder, on graphs of the embedded model.


@pytest.fixture(scope="module")
def folder(exported_once: Callable[..., Exported]) -> Path:
    """A float16 bundle of fastervlm, with the unpruned graph and the official code traced as it is."""
    pytest.importorskip("tensorrt_rtx")
    return exported_once("fastervlm", "rtx-desktop", keep=64).folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Iterator[Callable[[Path], GraphAudit]]:
    """(path) -> `audit` of it; who asks for this does not compile a graph for an SM that it was compiled for before."""
    known: dict[tuple[bytes, int], GraphAudit] = {}

    def once(path: Path, sm: int = module.PROXY_SM) -> GraphAudit:
        key = path.read_bytes(), sm
        if key not in known:
            known[key] = audit(path, sm)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "audit", once)
        yield once


@pytest.fixture(scope="module")
def unpruned(folder: Path, compiled: Callable[[Path], GraphAudit]) -> GraphAudit:
    return compiled(folder / "baseline.unpruned.onnx")


def graph(method: str, folder: Path, dtype: torch.dtype = torch.float16, inside: str = "") -> Path:
    """The graph of a method alone, without a bundle around it; inside: the reducer of two steps in front of it."""
    pytest.importorskip("tensorrt_rtx")
    encoder = encoders.load(open_checkpoint())
    for part in (encoder.tower.module, encoder.projector):
        part.to(dtype)
    keep = None if method == "none" else 64
    built = build_method(pruners.get(method), method, encoder, keep)
    if inside:
        reducer = build_reducer(encoder, inside, built, method)
        encoder = with_inside(encoder, inside, reducer, (Step(2, 104), Step(3, 80)), built)
    module = PrunedEncoder(encoder, built)
    example = torch.zeros(1, 3, *encoder.tower.image_size, dtype=dtype)
    ir.save(to_onnx(module, example, outputs(encoder, built), opset=18, ir_version=10), folder / f"{method}.onnx")
    return folder / f"{method}.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("method", always(["fastervlm", "hiprune", "divprune"], "fastervlm"))
def test_pruning_keeps_attention_fused_and_adds_few_kernels(
    method: str, folder: Path, unpruned: GraphAudit, compiled: Callable[[Path], GraphAudit], tmp_path: Path
) -> None:
    pruned = compiled(folder / "encoder.onnx" if method == "fastervlm" else graph(method, tmp_path))
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in unpruned.layers] == LAYERS
    assert pruned.unfused == []
    assert len(pruned.kernels) <= len(unpruned.kernels) + MORE_KERNELS[method]


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["tome", pytest.param("cells", marks=pytest.mark.slow)])
def test_steps_inside_keep_attention_fused_and_add_few_kernels_each(
    reducer: str, folder: Path, compiled: Callable[[Path], GraphAudit], tmp_path: Path
) -> None:
    behind = compiled(folder / "encoder.onnx")
    short = compiled(graph("fastervlm", tmp_path, inside=reducer))
    assert [layer.name for layer in short.layers] == LAYERS
    assert short.unfused == []
    assert len(short.kernels) <= len(behind.kernels) + STEPS * KERNELS_OF_A_STEP


@pytest.mark.slow
def test_reading_the_attention_map_out_is_caught_and_the_layer_named(
    folder: Path, unpruned: GraphAudit, compiled: Callable[[Path], GraphAudit]
) -> None:
    official = compiled(folder / "baseline.official.onnx")
    assert official.fused < unpruned.fused == len(LAYERS)
    (layer,) = official.unfused
    assert layer.name == LAYERS[-1]
    assert "its map is read by" in layer.why
    with pytest.raises(EdgepruneError, match=r"loses fused attention on SM 86: .*layers\.4\.self_attn; its map"):
        FusionAudit("rtx-desktop", False, {"pruned": official, "unpruned": unpruned}).check()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_bundle_is_audited_next_to_its_unpruned_graph(folder: Path) -> None:
    told: list[str] = []
    report = audit_bundle(folder, show=lambda done, total, what: told.append(what))
    assert told == ["compile the pruned graph", "compile the unpruned graph"]
    assert (report.sm, report.proxy, report.lost) == (86, False, [])
    assert [(name, fused, layers) for name, _, fused, layers in report.rows()] == [
        ("pruned", 5, 5),
        ("unpruned", 5, 5),
    ]
    said = json.loads(json.dumps(report.to_json()))
    assert said["passed"]
    assert said["graphs"]["pruned"]["layers"][0] == {"name": LAYERS[0], "fused": True, "why": ""}


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_for_a_jetson_it_is_a_proxy(folder: Path) -> None:
    report = audit_bundle(folder, "jetson-orin")
    assert (report.sm, report.proxy) == (86, True)
    assert report.lines() == ["as TensorRT-RTX compiles it for SM 86, a proxy for jetson-orin"]


@pytest.mark.slow
def test_float32_is_not_fused_and_says_so(tmp_path: Path) -> None:
    unfused = audit(graph("none", tmp_path, torch.float32))
    assert unfused.fused == 0
    assert {layer.why for layer in unfused.unfused} == {"float32; the builder fuses 16-bit attention only"}


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_the_command_line_prints_a_table_and_fails_when_a_layer_is_lost(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["audit", str(folder), "--target", "jetson-orin"])
    assert done.exit_code == 0
    assert "SM 86, a proxy for jetson-orin" in done.output
    assert "5 of 5 layers" in done.output

    broken = Path(shutil.copytree(folder, tmp_path / "bundle"))
    shutil.copy(folder / "baseline.official.onnx", broken / "encoder.onnx")
    manifest = replace(bundle.load(folder).manifest, files=bundle.describe_files(broken))
    (broken / bundle.MANIFEST).write_text(manifest.to_json())
    done = CliRunner().invoke(cli, ["audit", str(broken)])
    assert "4 of 5 layers" in done.output
    assert isinstance(done.exception, EdgepruneError)
    assert done.exception.exit_code == 1


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_build_for_a_jetson_audits_before_it_sends_one_to_the_board(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = CliRunner().invoke(cli, ["build", str(folder), "--target", "jetson-orin", "--audit"])
    assert "5 of 5 layers" in done.output
    assert isinstance(done.exception, RequestError)
    assert "run `bash build.sh`" in str(done.exception)


@pytest.mark.parametrize("sm", [87, 90])
def test_an_sm_that_the_builder_does_not_know_is_refused(folder: Path, sm: int) -> None:
    with pytest.raises(RequestError, match=f"got {sm}; .*built on the device"):
        audit_bundle(folder, sm=sm)


def test_a_target_of_onnx_runtime_has_nothing_to_audit(folder: Path) -> None:
    with pytest.raises(RequestError, match="cpu runs ONNX Runtime"):
        audit_bundle(folder, "cpu")


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match=r"edgeprune\[rtx\]"):
        audit(tmp_path / "encoder.onnx")


def test_it_ends_in_one_line_that_says_what_it_comes_to() -> None:
    fused, lost = Layer("layers/0", True, ""), Layer("layers/1", False, "its map is read by selection/Slice too")
    whole, broken = GraphAudit(86, (), (fused, replace(lost, fused=True))), GraphAudit(86, (), (fused, lost))
    audited = FusionAudit("x", False, {"pruned": broken, "unpruned": whole})
    assert audited.verdict() == "1 of 2 attention layers fused, 2 without pruning: 1 lost"
    assert (
        FusionAudit("x", False, {"pruned": whole, "unpruned": whole}).verdict().endswith("2 without pruning: none lost")
    )
    assert FusionAudit("x", False, {"pruned": whole}).verdict().endswith("has no unpruned graph to compare with")
