"""The targets that come along: what surprises about each, and what those of a kind have in common."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest

from edgeprune import targets

FOLDER = Path(targets.__file__).parent


SURPRISES: list[tuple[str, str, object, str]] = [
    ("rtx-desktop", "gpu.sm", (86, 89, 120), "one plan serves three generations"),
    ("rtx-desktop", "engine.build", "here", "the builder needs no GPU"),
    ("rtx-desktop", "engine.version", ">=1.7,<1.8", "releases do not take each other's plans"),
    ("rtx-turing", "gpu.sm", (75,), "a plan for Turing stands alone"),
    ("rtx-turing", "onnx.float", "float16", "TensorRT-RTX has no float32 GEMM for Turing"),
    ("rtx-turing", "onnx.float32_matmul", False, "that of the scores is none either"),
    ("dgx-spark", "gpu.sm", (121,), "not the 120 of the RTX 50 cards"),
    ("dgx-spark", "engine.kind", "tensorrt-rtx", "it is no Jetson: a plan can be built elsewhere"),
    ("dgx-spark", "gpu.tflops_fp16", None, "NVIDIA gives sparse float4 only"),
    ("jetson-orin", "gpu.memory_gib", 4, "the smallest board, shared with the CPU"),
    ("jetson-orin-jp72", "engine.version", ">=10.16,<10.17", "TensorRT 11 is not for Orin NX and Nano"),
    ("jetson-orin-jp72", "jetson.python", "3.12", "Ubuntu 24.04"),
    ("jetson-orin-jp60", "onnx.opset", 17, "the last that TensorRT 8 reads"),
    ("jetson-orin-jp60", "onnx.ir_version", 8, "that of opset 17's time"),
    ("jetson-orin-jp60", "onnx.float", "float32", "the builder chooses float16 by itself"),
    ("jetson-orin-jp60", "engine.typing", "weak_fp16", "no strong typing before TensorRT 9"),
    ("jetson-orin-jp60", "onnx.greedy", "unrolled", "integers in a Scan are doubtful in TensorRT 8"),
    ("jetson-orin-jp60", "onnx.index_float", False, "TopK takes integers from 8.6 on"),
    ("jetson-orin-jp51", "onnx.opset", 17, "the last that TensorRT 8 reads"),
    ("jetson-orin-jp51", "onnx.ir_version", 8, "that of opset 17's time"),
    ("jetson-orin-jp51", "onnx.float", "float32", "the builder chooses float16 by itself"),
    ("jetson-orin-jp51", "engine.typing", "weak_fp16", "no strong typing before TensorRT 9"),
    ("jetson-orin-jp51", "onnx.greedy", "unrolled", "its Scan takes floats only"),
    ("jetson-orin-jp51", "onnx.index_float", True, "its TopK takes floats only"),
    ("jetson-orin-jp51", "jetson.python", "3.8", "older than edgeprune supports, and its TensorRT is for it alone"),
    ("jetson-orin-jp51", "jetson.install", None, "so nothing can be installed"),
    ("jetson-thor", "gpu.sm", (110,), "101 before CUDA 13"),
    ("jetson-thor", "gpu.memory_gib", 64, "the T4000"),
    ("jetson-thor", "engine.kind", "tensorrt", "TensorRT-RTX does not build for SM 110"),
    ("jetson-thor", "engine.version", ">=10.13,<10.17", "JetPack 7.0 to 7.2"),
    ("datacenter", "gpu.sm", (80, 86, 89, 90), "A100, A10, L4, H100 and H200"),
    ("datacenter", "engine.kind", "tensorrt", "TensorRT-RTX does not build for SM 90"),
    ("datacenter", "engine.version", ">=10.1,<12", "the flags of 10 are taken by 11"),
    ("datacenter", "gpu.tflops_fp16", 121.0, "242 are with sparsity"),
    ("ort-cuda", "onnx.greedy", "unrolled", "ONNX Runtime cannot capture a loop as a CUDA graph"),
    ("web", "onnx.float", "float32", "transformers.js copies the tokens of an image as float32"),
    ("cpu", "onnx.greedy", "looped", "what is taken unless something speaks against it"),
]


@pytest.mark.parametrize(
    ("name", "field", "value"), [case[:3] for case in SURPRISES], ids=[f"{c[0]}: {c[1]}, {c[3]}" for c in SURPRISES]
)
def test_what_surprises(name: str, field: str, value: object) -> None:
    assert reduce(getattr, field.split("."), targets.load(name)) == value


@pytest.mark.parametrize(
    ("version", "taken_by"),
    [
        ("8.5.2", "jetson-orin-jp51"),
        ("8.6.2", "jetson-orin-jp60"),
        ("10.3", "jetson-orin"),
        ("10.3.0.30", "jetson-orin"),
        ("10.16.2.10", "jetson-orin-jp72"),
        ("10.4.0", None),
        ("10.13.3.9.post1", None),
        ("11.4.1", None),
        ("", None),
    ],
)
def test_each_release_of_tensorrt_belongs_to_one_orin_target(version: str, taken_by: str | None) -> None:
    orins = [target for target in map(targets.load, targets.names()) if target.gpu and target.gpu.sm == (87,)]
    assert [one.name for one in orins if one.engine.accepts(version)] == ([taken_by] if taken_by else [])


@pytest.mark.parametrize(
    ("version", "accepted"), [("10.12", False), ("10.13.2", True), ("10.16.2", True), ("11.4", False)]
)
def test_thor_takes_the_releases_of_jetpack_7(version: str, accepted: bool) -> None:
    assert targets.load("jetson-thor").engine.accepts(version) is accepted


@pytest.mark.parametrize(("version", "accepted"), [("1.6", False), ("1.7.1.116", True), ("1.8", False)])
def test_a_plan_for_rtx_runs_on_its_own_release(version: str, accepted: bool) -> None:
    assert targets.load("rtx-desktop").engine.accepts(version) is accepted


def of_kind(*kinds: str) -> list[targets.Target]:
    return [target for target in map(targets.load, targets.names()) if target.engine.kind in kinds]


def test_every_tensorrt_has_the_limit_of_its_topk() -> None:
    assert {target.onnx.topk_limit for target in of_kind("tensorrt", "tensorrt-rtx")} == {3840}
    assert {target.onnx.topk_limit for target in of_kind("onnxruntime")} == {None}


def test_trtexec_is_asked_for_the_typing_of_its_release() -> None:
    for target in of_kind("tensorrt"):
        typing = "--stronglyTyped" if target.engine.typing == "strong" else "--fp16"
        assert target.engine.build_flags == (typing, "--profilingVerbosity=detailed", "--noTF32"), target.name


def test_trtexec_measures_the_same_on_every_release() -> None:
    """Before TensorRT 11 the first three have to be asked for; 11 takes them and does so anyway."""
    for target in of_kind("tensorrt"):
        assert target.bench.flags == (
            *("--useCudaGraph", "--useSpinWait", "--noDataTransfers"),
            *("--warmUp=500", "--duration=10", "--iterations=200", "--percentile=50,90,95,99"),
        ), target.name


def test_every_figure_says_where_it_is_from() -> None:
    """For an estimate, a number of an unknown source is worse than none."""
    for name in targets.names():
        text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        figures = re.findall(r"^(?:bandwidth_gb_s|tflops_fp16) .*$", text, flags=re.MULTILINE)
        assert [line for line in figures if "#" not in line] == [], name


def test_the_boards_of_one_family_have_the_same_figures() -> None:
    orins = {target.gpu for target in map(targets.load, targets.names()) if target.gpu and target.gpu.sm == (87,)}
    assert len(orins) == 1


ORINS = [name for name in targets.names() if name.startswith("jetson-orin")]


@pytest.mark.parametrize("name", [*ORINS, "jetson-thor"])
def test_the_smallest_board_is_the_gpu_of_the_target(name: str) -> None:
    device = targets.load(name)
    assert device.gpu is not None
    assert device.jetson is not None
    first, *_ = device.jetson.boards
    figures = (first.memory_gib, first.bandwidth_gb_s, first.tflops_fp16)
    assert figures == (device.gpu.memory_gib, device.gpu.bandwidth_gb_s, device.gpu.tflops_fp16)
    assert sorted(one.memory_gib for one in device.jetson.boards) == [one.memory_gib for one in device.jetson.boards]


def test_every_jetpack_runs_on_the_same_orins() -> None:
    assert len({targets.load(name).jetson.boards for name in ORINS}) == 1  # type: ignore[union-attr]


def test_the_commands_that_install_activate_their_environment_and_take_what_is_given() -> None:
    board = targets.load("jetson-orin").jetson
    assert board is not None
    assert board.installing("'./a.whl'") == [
        "python3 -m venv --system-site-packages ~/edgeprune-env",
        ". ~/edgeprune-env/bin/activate",
        "pip install './a.whl' 'cuda-bindings==12.*'",
    ]


def test_layer_normalization_is_refused_by_the_oldest_parser_alone() -> None:
    refusing = [t.name for t in map(targets.load, targets.names()) if "LayerNormalization" in t.onnx.forbidden_ops]
    assert refusing == ["jetson-orin-jp51"]


def test_an_engine_for_a_jetson_is_built_on_the_jetson() -> None:
    for target in map(targets.load, targets.names()):
        if target.jetson:
            assert target.engine.build == "on-device", target.name


def test_no_target_lets_an_operator_pass_whose_output_shape_depends_on_the_data() -> None:
    for target in map(targets.load, targets.names()):
        assert {"NonZero", "Unique", "Compress"} <= set(target.onnx.forbidden_ops), target.name
