"""The graph against its target: what is exported fits, and each thing that does not is found with its node's name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgeprune import encoders, pruners, targets
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import RequestError, TargetError
from edgeprune.export import Request, export_bundle
from edgeprune.export.downgrade import downgrade
from edgeprune.export.graph import to_onnx
from edgeprune.export.lint import Finding, lint, parse, refuse
from edgeprune.export.quantise.scheme import scheme_of
from edgeprune.fit import build_method
from edgeprune.precisions import QUANTISED as QUANTISED_PRECISIONS
from edgeprune.targets import Target
from edgeprune.trace import PrunedEncoder
from tests.covering import always

MakeFolder = Callable[..., Path]

CPU = targets.load("cpu")
WEB = targets.load("web")
ORIN = targets.load("jetson-orin")
JP60 = targets.load("jetson-orin-jp60")
JP51 = targets.load("jetson-orin-jp51")
RTX = targets.load("rtx-desktop")


def changed(target: Target, **onnx: Any) -> Target:
    return replace(target, onnx=replace(target.onnx, **onnx))


def small(text: str, opset: int = 17) -> ir.Model:
    """The graph of onnx's text form, its nodes named after their operators, with shapes and dtypes."""
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> small {text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(parsed))
    for node in model.graph.all_nodes():
        node.name = node.op_type
    return model


# What is exported


@pytest.mark.parametrize("method", always(["divprune", "hiprune"], "divprune"))
@pytest.mark.parametrize("name", always(targets.names(), "jetson-orin-jp51", "rtx-desktop", "web"))
def test_what_is_exported_for_a_target_fits_it(name: str, method: str, traced: Callable[..., ir.Model]) -> None:
    target = targets.load(name)
    form = target.onnx.greedy if method == "divprune" else "unrolled"  # hiprune has one form
    model = downgrade(traced(method, target.onnx.float, form).clone(), target)
    assert lint(model, target) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [CPU, pytest.param(JP51, marks=pytest.mark.slow)], ids=["cpu", "jetson-orin-jp51"])
def test_a_free_batch_fits(target: Target, traced: Callable[..., ir.Model]) -> None:
    model = traced("divprune", form=target.onnx.greedy, free=True).clone()
    assert lint(downgrade(model, target), target) == []


# What does not fit

LOOP = """(float[1, 8] x) => (float[1, 8] y) <int64 count = {3}, bool go = {1}>
{ y = Loop (count, go, x) <body = b (int64 at, bool on, float[1, 8] seen) => (bool off, float[1, 8] next)
  { off = Identity (on) next = Det (seen) }> }"""

CASES: list[tuple[str, Target, str]] = [
    ("(float[1, 8] x) => (int64[2, n] y) { y = NonZero (x) }", WEB, "NonZero, which the target forbids"),
    (
        "(float[1, 8] x) => (float[1, 8] y) { y = LayerNormalization (x, x) }",
        JP51,
        "LayerNormalization is LayerNormalization, which the target forbids; choose another --method or --target",
    ),
    (
        "(float[1, 8] x) => (float[1, 8] y) { y = com.microsoft.Gelu (x) }",
        JP60,
        "com.microsoft.Gelu, a plugin that TensorRT lacks",
    ),
    (
        '(float[1, 8] x, int64[1, 8] i) => (float[1, 8] y) { y = ScatterElements <reduction = "add"> (x, i, x) }',
        RTX,
        "ScatterElements is ScatterElements with reduction add, which TensorRT lacks",
    ),
    (
        "(float[1, 8] x) => (float[1, 2] y, int64[1, 2] i) <int64[1] k = {2}> { y, i = TopK <sorted = 0> (x, k) }",
        JP60,
        "TopK is TopK with sorted = 0, which TensorRT lacks",
    ),
    ("(double[1, 8] x) => (double[1, 8] y) { y = Relu (x) }", JP60, "x has float64, the target computes bool, float32"),
    (
        "(float16[1, 8] x) => (float16[1, 8] y) { y = Relu (x) }",
        JP60,
        "x has float16, the target computes bool, float32",
    ),
    (
        "(uint8[1, 8] x) => (float[8, 1] y) { t = Transpose (x) y = Cast <to = 1> (t) }",
        ORIN,
        "Transpose has uint8, the target computes bfloat16, bool, float16, float32, int32, int64; leave out --input",
    ),
    ("(float[8] x) => (int64[1] y) { y = ArgMax (x) }", RTX, "ArgMax is ArgMax of one dimension, TensorRT wants two"),
    (
        "(float[8] x) => (float[1, 1, 1, 1, 1, 1, 1, 1, 8] y) <int64[9] s = {1, 1, 1, 1, 1, 1, 1, 1, 8}>"
        "{ y = Reshape (x, s) }",
        ORIN,
        "Reshape has 9 dimensions, TensorRT takes up to 8",
    ),
    (
        "(float[1, 4000] x) => (float[1, 3841] y, int64[1, 3841] i) <int64[1] k = {3841}> { y, i = TopK (x, k) }",
        ORIN,
        "TopK is TopK of the largest 3841, the target takes up to 3840; choose a --keep and a --grid of at most 3840",
    ),
    (
        "(int64[1, 8] x) => (int64[1, 2] y, int64[1, 2] i) <int64[1] k = {2}> { y, i = TopK (x, k) }",
        JP51,
        "TopK is TopK of int64, which the target computes for floats alone; export it for this --target",
    ),
    (
        "(float[1, 8] x, int64[1] k) => (float[1, n] y, int64[1, n] i) { y, i = TopK (x, k) }",
        ORIN,
        "TopK is TopK with computed k, TensorRT wants a constant",
    ),
    (
        "(float[1, n] x) => (float[1, n] y) { y = Relu (x) }",
        CPU,
        "x has the dynamic dimension n, only the batch may be",
    ),
    (
        "(float[1, 8] x) => (float[1, 8] y) <float s = {1}, int8 z = {0}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        WEB,
        "QuantizeLinear is QuantizeLinear of int8, the target has products of floats alone; give another --precision",
    ),
    (
        "(float[1, 8] x) => (float[1, 8] y) <float s = {1}, uint8 z = {0}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        ORIN,
        "QuantizeLinear is QuantizeLinear of uint8, TensorRT takes int8 alone; export it for this --target",
    ),
    (
        "(float[1, 8] x) => (float[1, 8] y) <float s = {1}, int8 z = {3}> "
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        ORIN,
        "QuantizeLinear is QuantizeLinear with a zero point, TensorRT takes 0 alone; quantise it around 0",
    ),
    (
        "(float[1, 8] x) => (uint8[1, 8] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear (x) }",
        ORIN,
        "DynamicQuantizeLinear is DynamicQuantizeLinear of int8-dynamic, the target has products of int8; give another",
    ),
    (
        "(float[1, 577, 8] x) => (float[1, 577, 577] y) <float s = {1}, int8 z = {0}> "
        "{ q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) b = Transpose <perm = [0, 2, 1]> (a)"
        "  r = QuantizeLinear (b, s, z) c = DequantizeLinear (r, s, z) y = MatMul (a, c) }",
        ORIN,
        "MatMul is attention in int8 of 577 tokens, which TensorRT fuses up to 512; leave the products of attention in",
    ),
    (LOOP, ORIN, "Det is Det, which the target forbids"),
    (LOOP, JP60, "Loop is Loop, which the target wants unrolled"),
    (
        "(float[1, 40000, 30000] x) => (float[1, 40000, 30000] y) { y = Relu (x) }",
        ORIN,
        "x needs about 8.9 GiB with the weights, 0.0 GiB; the smallest board of the target has 4 GiB; choose",
    ),
]


@pytest.mark.parametrize(("text", "target", "said"), CASES, ids=[said for _, _, said in CASES])
def test_what_does_not_fit_is_found_by_name(text: str, target: Target, said: str) -> None:
    findings = [str(one) for one in lint(small(text), target)]
    assert any(said in one for one in findings), findings
    assert all("\n" not in one for one in findings)


def test_the_same_is_no_finding_where_the_target_takes_it() -> None:
    sort = small("(int64[1, 8] x) => (int64[1, 2] y, int64[1, 2] i) <int64[1] k = {2}> { y, i = TopK (x, k) }")
    assert lint(sort, JP60) == lint(sort, CPU) == []
    pixels = small("(uint8[1, 8] x) => (float[1, 8] y) { y = Cast <to = 1> (x) }")
    assert lint(pixels, ORIN) == []
    assert lint(small("(float[batch, 8] x) => (float[batch, 8] y) { y = Relu (x) }"), ORIN) == []


@pytest.mark.parametrize("precision", QUANTISED_PRECISIONS)
@pytest.mark.parametrize("name", targets.names())
def test_a_precision_is_taken_where_the_target_says_that_it_has_such_products(name: str, precision: str) -> None:
    """Before anything is read; the graph is looked at again when it is written."""
    target = targets.load(name)
    if precision in target.engine.quantised:
        scheme = scheme_of(precision, target)
        assert scheme is not None
        assert scheme.opset <= target.onnx.newest_quantised
    else:
        with pytest.raises(RequestError, match=f"--precision {precision} "):
            scheme_of(precision, target)


QUANTISED = """(float[1, 8] x, int8[8, 4] w) => (float[1, 4] y) <float s = {1}, int8 z = {0}>
{ q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) b = DequantizeLinear (w, s, z) y = MatMul (a, b) }"""


def test_products_of_a_type_that_the_device_has_fit_and_may_need_a_later_opset() -> None:
    for target in (ORIN, JP60, RTX, CPU):
        model = small(QUANTISED, 19 if target is ORIN else 17)
        model.graph.initializers["w"] = weight = (
            model.graph.inputs.pop()
        )  # a weight, which the text form has no way to fill
        weight.const_value = ir.tensor(np.ones((8, 4), np.int8), name="w")
        assert lint(model, target) == []
    plain = small("(float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }", 19)
    assert [str(one) for one in lint(plain, ORIN)] == [
        "the graph has opset 19, the target reads up to 18; export it for this --target"
    ]


def test_a_newer_opset_or_file_is_found() -> None:
    model = small("(float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }", opset=18)
    model.ir_version = 10
    assert [str(one) for one in lint(model, JP60)] == [
        "the graph has opset 18, the target reads up to 17; export it for this --target",
        "the file has IR 10, the target reads up to 8; export it for this --target",
    ]
    assert lint(model, ORIN) == []


def test_findings_are_one_line_that_names_the_first_and_counts_the_others() -> None:
    refuse([], ORIN)
    one, two = (Finding(name, "is odd", "drop it") for name in ("first", "second"))
    with pytest.raises(TargetError, match=r"^the graph must be fit for jetson-orin: first is odd; drop it$"):
        refuse([one], ORIN)
    with pytest.raises(TargetError, match=r"first is odd; drop it \(and 1 more\)$"):
        refuse([one, two], ORIN)


# In an export


def own_target(folder: Path, base: str, **fields: str) -> str:
    """A target of the user: that of a name, with lines of its file replaced."""
    lines = (Path(__file__).parents[2] / "targets" / f"{base}.toml").read_text(encoding="utf-8").splitlines()
    for field, value in fields.items():
        lines = [f"{field} = {value}" if line.split("=")[0].strip() == field else line for line in lines]
    (folder / "mine.toml").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "mine.toml")


@pytest.mark.slow
def test_a_budget_beyond_what_the_target_sorts_leaves_nothing(tmp_path: Path) -> None:
    target = own_target(tmp_path, "jetson-orin", topk_limit="32")
    with pytest.raises(TargetError) as caught:
        export_bundle(Request("fastervlm", target, keep=33, output=tmp_path / "out"))
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "the graph must be fit for jetson-orin: selection/TopK is TopK of the largest 33, the target takes up to 32; "
        "choose a --keep and a --grid of at most 32 patches (and 1 more)"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


@pytest.mark.slow
def test_a_graph_of_a_dtype_that_the_target_lacks_leaves_nothing(llava_folder: MakeFolder, tmp_path: Path) -> None:
    model, output = str(llava_folder(tmp_path / "llava")), tmp_path / "out"
    request = Request("fastervlm", "jetson-orin-jp60", keep=8, model=model, output=output, precision="float16")
    with pytest.raises(
        TargetError, match=r"pixel_values has float16, .*; export with --precision float32 \(and \d+ more"
    ):
        export_bundle(request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llava"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jetson-orin-jp51", "jetson-orin-jp60"])
def test_old_tensorrt_gets_a_bundle_in_opset_17(name: str, llava_folder: MakeFolder, tmp_path: Path) -> None:
    model = str(llava_folder(tmp_path / "llava"))
    done = export_bundle(Request("divprune", name, keep=4, model=model, output=tmp_path / "out"))
    assert done.reports[0].passed
    for path in sorted(done.folder.glob("*.onnx")):
        written = onnx.load(path)
        assert written.ir_version == 8
        assert [one.version for one in written.opset_import] == [17], path.name


# The parser itself


def test_without_the_package_the_parser_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert parse(b"") == []


def test_the_parser_names_the_node_that_it_refuses(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    fits = small("(float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }")
    odd = small("(float[1, 8, 8] x) => (float[1] y) { r = Relu (x) y = Det (r) }")
    assert parse(ir.to_proto(fits).SerializeToString()) == []
    ir.save(odd, tmp_path / "odd.onnx")
    (finding, *_) = parse(tmp_path / "odd.onnx")
    assert finding.node == "Det"
    assert finding.problem.startswith("is Det, which the parser of TensorRT-RTX refuses: ")
    (finding,) = parse(b"not a model")
    assert str(finding).startswith("the graph is what the parser of TensorRT-RTX refuses: ")


@pytest.mark.slow
def test_of_4200_patches_a_detector_keeps_up_to_3840_with_tensorrt(model_folder: MakeFolder, tmp_path: Path) -> None:
    """YOLOS at 800x1344, which is 50x84 patches; here of 2 pixels, and 4 wide."""
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1}
    shape = {"image_size": [100, 168], "patch_size": 2, "num_detection_tokens": 3, "num_labels": 2}
    processor = {"image_processor_type": "YolosImageProcessor"}
    folder = model_folder(tmp_path, "YolosForObjectDetection", processor, **sizes, **shape)
    encoder = encoders.load(open_checkpoint(str(folder)))
    method = build_method(pruners.get("received"), "received", encoder, 3841, {"layer": "1"})
    example, outputs = torch.zeros(1, 3, 100, 168), ("logits", "pred_boxes", "indices", "scores")
    model = to_onnx(PrunedEncoder(encoder, method), example, outputs, opset=18, ir_version=10)
    for target in (ORIN, RTX, JP60):
        found = [str(one) for one in lint(model, target) if "TopK" in str(one)]
        assert any("of the largest 3841, the target takes up to 3840" in one for one in found)
    for target in (CPU, changed(ORIN, topk_limit=3841)):
        assert not [one for one in lint(model, target) if "TopK" in str(one)]
