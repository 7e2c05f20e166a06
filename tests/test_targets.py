"""Every target file is complete and consistent, and each way to get one wrong is refused in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgeprune import targets
from edgeprune.errors import TargetError

FOLDER = Path(__file__).parent.parent / "targets"

ORIN: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(targets.load("jetson-orin"))))
CPU: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(targets.load("cpu"))))


def changed(base: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    """A copy with fields set, by dotted name; `...` takes the field out."""
    given = copy.deepcopy(base)
    for field, value in changes:
        *path, last = field.split(".")
        table = given
        for name in path:
            table = table[name]
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return given


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_consistent_and_survives_the_round_trip(name: str) -> None:
    target = targets.load(name)
    targets.check(target)
    assert target.name == name, "the file's name is the name on the command line"
    assert targets.parse(json.loads(json.dumps(dataclasses.asdict(target))), name) == target
    assert targets.load(FOLDER / f"{name}.toml") == target


@pytest.mark.parametrize("name", targets.names())
def test_a_target_file_says_where_its_values_come_from(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# "), "a target file opens with what the device is"
    assert text.count("#") >= 4, "surprising values carry a comment"


def test_the_names_are_those_of_the_files() -> None:
    assert targets.names() == sorted(path.stem for path in FOLDER.glob("*.toml"))
    assert set(targets.names()) >= {
        *("cpu", "ort-cuda", "web"),
        *("rtx-desktop", "rtx-turing", "dgx-spark", "datacenter"),
        *("jetson-orin", "jetson-orin-jp51", "jetson-orin-jp60", "jetson-orin-jp72", "jetson-thor"),
    }


def test_an_unknown_target_gets_the_nearest_one() -> None:
    with pytest.raises(TargetError, match=r"^no target 'jetson-orim'; have .*\. Did you mean 'jetson-orin'\?$"):
        targets.load("jetson-orim")


def test_a_name_does_not_reach_files_elsewhere() -> None:
    with pytest.raises(TargetError, match="no target"):
        targets.load("../targets/cpu")


def test_a_file_of_the_user_is_a_target(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    file.write_text((FOLDER / "cpu.toml").read_text(encoding="utf-8").replace('"cpu"', '"my-board"'), encoding="utf-8")
    assert targets.load(file) == targets.load(str(file)) == dataclasses.replace(targets.load("cpu"), name="my-board")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"absent\.toml cannot be read: No such file or directory; have cpu"):
        targets.load(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name = 'a'\nname = 'b'"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.toml"
    file.write_bytes(content)
    with pytest.raises(TargetError, match=r"odd\.toml is not a TOML file: [^\n]+$"):
        targets.load(file)


def test_messages_of_a_file_name_the_file_as_given(tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_text("name = 3", encoding="utf-8")
    with pytest.raises(TargetError) as caught:
        targets.load(file)
    assert str(caught.value) == f"{file}: description must be given"


FORM = [  # what a single field gets wrong
    (("engine.kind", "trt"), "engine.kind must be one of tensorrt, tensorrt-rtx, onnxruntime; got 'trt'"),
    (("engine.kind", ...), "engine.kind must be given"),
    (("engine.typing", "weak"), "engine.typing must be one of strong, weak_fp16; got 'weak'"),
    (("engine.build", "there"), "engine.build must be one of here, on-device; got 'there'"),
    (("onnx.float", "bfloat16"), "onnx.float must be one of float16, float32; got 'bfloat16'"),
    (("onnx.opset", "18"), "onnx.opset must be an integer, got '18'"),
    (("onnx.opset", True), "onnx.opset must be an integer, got True"),
    (("onnx.forbidden_ops", [1]), "onnx.forbidden_ops must be a string, got 1"),
    (("onnx.topk_limit", 3840.0), "onnx.topk_limit must be an integer, got 3840.0"),
    (("onnx.index_float", 1), "onnx.index_float must be true or false, got 1"),
    (("onnx.float32_matmul", "no"), "onnx.float32_matmul must be true or false, got 'no'"),
    (
        ("engine.quantised", "int4"),
        "engine.quantised must be one of int8, int8-dynamic, fp8; got 'int4'",
    ),
    (("onnx.ir", 10), "onnx.ir: no field 'ir'; have "),
    (("onnx", 18), "onnx must be a table, got 18"),
    (("onnx", ...), "onnx must be given"),
    (
        ("gpu.memory", 4),
        "gpu.memory: no field 'memory'; have bandwidth_gb_s, memory_gib, sm, tflops_fp16. Did you mean",
    ),
    (("gpu.bandwidth_gb_s", "34 GB/s"), "gpu.bandwidth_gb_s must be a number, got '34 GB/s'"),
    (("gpu.tflops_fp16", True), "gpu.tflops_fp16 must be a number, got True"),
    (("gpu.sm", "87"), "gpu.sm must be an integer, got '87'"),
    (("tensorrt", {}), "tensorrt: no field 'tensorrt'; have "),
    (("name", ...), "name must be given"),
    (("source", ...), "source must be given"),
    (("jetson.l4t", ...), "jetson.l4t must be given"),
]

EIGHT = [("engine.version", ">=8.6,<9"), ("onnx.opset", 17), ("onnx.ir_version", 8)]
RTX = [("engine.kind", "tensorrt-rtx"), ("engine.build", "here"), ("engine.build_flags", []), ("bench.flags", [])]
DESKTOP = [("jetson", None), ("gpu.sm", 89), *RTX]

CONTRADICTIONS: list[tuple[list[tuple[str, Any]], str]] = [  # what only the whole file gets wrong
    ([("name", "Jetson Orin")], "name must consist of a-z, 0-9, '.' and '-', got 'Jetson Orin'"),
    ([("name", "../orin")], "name must consist of"),
    ([("description", "")], "description must be one line"),
    ([("description", "two\nlines")], "description must be one line"),
    ([("tier", 0)], "tier must be 1, 2 or 3, got 0"),
    ([("source", [])], "source must name at least one link"),
    ([("source", ["the manual"])], "source must hold https links, got 'the manual'"),
    ([("onnx.opset", 23)], "onnx.opset must be in 17..20, got 23"),
    ([("onnx.ir_version", 14)], "onnx.ir_version must be in 8..10, got 14"),
    ([("onnx.forbidden_ops", ["NonZero"])], "onnx.forbidden_ops must name Attention"),
    ([("onnx.forbidden_ops", ["Attention", "Attention"])], "onnx.forbidden_ops must name each operator once"),
    ([("gpu", None)], "gpu must be given for tensorrt"),
    ([("gpu.sm", [])], "gpu.sm must name at least one"),
    ([("gpu.sm", 8)], "gpu.sm must be a compute capability without the dot, such as 87, got 8"),
    ([("gpu.sm", 86)], "gpu.sm must be one of (72, 87, 110) for a Jetson, got 86"),
    ([("gpu.memory_gib", 0)], "gpu.memory_gib must be positive, got 0"),
    ([("gpu.bandwidth_gb_s", 0)], "gpu.bandwidth_gb_s must be a positive number, got 0"),
    ([("gpu.bandwidth_gb_s", math.nan)], "gpu.bandwidth_gb_s must be a positive number, got nan"),
    ([("gpu.tflops_fp16", -5.0)], "gpu.tflops_fp16 must be a positive number, got -5.0"),
    ([("gpu.tflops_fp16", math.inf)], "gpu.tflops_fp16 must be a positive number, got inf"),
    ([("onnx.topk_limit", 0)], "onnx.topk_limit must be positive, got 0"),
    ([("onnx.topk_limit", 3841)], "onnx.topk_limit must be at most 3840, got 3841"),
    ([("jetson", None)], "jetson must be given for SM 87"),
    ([("jetson.trtexec", "/usr/bin/tr texec")], "jetson.trtexec must be a path of A-Z, a-z, 0-9 and . _ + / -"),
    ([("jetson.python", "3.10; true")], "jetson.python must be a version such as 3.10"),
    ([("jetson.l4t", "36.4 `id`")], "jetson.l4t must be versions such as 6.1-6.2.2"),
    ([("jetson.jetpack", "")], "jetson.jetpack must be versions such as 6.1-6.2.2"),
    ([("jetson.install", "pip install x\n")], "jetson.install must be one line without backticks"),
    ([("jetson.install", "pip`id`")], "jetson.install must be one line without backticks"),
    ([("gpu.memory_gib", 8)], "gpu.memory_gib must be that of the smallest of jetson.boards, 4, got 8"),
    (
        [("jetson.boards", [{"name": "A", "memory_gib": 4, "bandwidth_gb_s": 0, "tflops_fp16": 5}])],
        "jetson.boards: bandwidth_gb_s of A must be a positive number, got 0",
    ),
    ([("source", ["https://a.b/\x1b[2J"])], "source must hold https links"),
    ([("onnx.forbidden_ops", ["Attention", "Non Zero"])], "onnx.forbidden_ops must hold names of operators"),
    ([("engine.version", "10.3")], "engine.version must be a range such as '>=10.3,<10.4', got '10.3'"),
    ([("engine.version", ">=10.3,<10.1")], "engine.version must hold at least one version"),
    ([("engine.typing", None)], "engine.typing must be given for tensorrt and tensorrt-rtx"),
    ([("engine.build", None)], "engine.build must be given"),
    ([("engine.build", "here")], "engine.build must be 'on-device' for tensorrt, got 'here'"),
    ([("engine.workspace_mib", None)], "engine.workspace_mib must be given"),
    ([("engine.workspace_mib", 0)], "engine.workspace_mib must be at most half of 4 GiB, got 0"),
    ([("engine.workspace_mib", 4096)], "engine.workspace_mib must be at most half of 4 GiB, got 4096"),
    ([("engine.typing", "weak_fp16")], "onnx.float must be float32 under weak_fp16, got 'float16'"),
    ([("engine.typing", "weak_fp16"), ("onnx.float", "float32")], "engine.build_flags must have --fp16"),
    (
        [("engine.typing", "weak_fp16"), ("onnx.float", "float32"), ("engine.version", ">=11.4")],
        "engine.typing must be 'strong' from TensorRT 11 on",
    ),
    ([("engine.version", ">=8.6,<9")], "onnx.opset must be at most 17 for TensorRT 8, got 18"),
    ([*EIGHT, ("onnx.ir_version", 10)], "onnx.ir_version must be at most 8 for TensorRT 8, got 10"),
    (EIGHT, "engine.typing must be 'weak_fp16' before TensorRT 9"),
    ([*EIGHT, ("engine.version", ">=8.5,<8.6")], "onnx.forbidden_ops must name LayerNormalization before TensorRT 8.6"),
    (
        [*EIGHT, ("engine.version", ">=8.5,<8.6"), ("onnx.forbidden_ops", ["Attention", "LayerNormalization"])],
        "onnx.index_float must be true before TensorRT 8.6, got False",
    ),
    ([("engine.build_flags", [])], "engine.build_flags must have --stronglyTyped before TensorRT 11"),
    ([("engine.build_flags", ["--stronglyTyped", "--fp16"])], "engine.build_flags must not have --fp16"),
    (
        [("engine.build_flags", ["stronglyTyped"])],
        "engine.build_flags must be --name or --name=value, without spaces",
    ),
    *(
        (
            [("engine.build_flags", ["--stronglyTyped", flag])],
            f"engine.build_flags must leave out what is quantised, the graph says it, got '{flag}'",
        )
        for flag in ("--int8", "--fp8", "--best", "--calib=ranges.cache")
    ),
    ([("engine.quantised", ["int8", "int8"])], "engine.quantised must name each type once"),
    ([("engine.quantised", ["fp8"])], "engine.quantised must leave fp8 to SM 89 and later, got ['fp8']"),
    ([("engine.quantised", ["int8-dynamic"])], "engine.quantised must leave int8-dynamic to ONNX Runtime's CPU"),
    ([("onnx.quantised_opset", 17)], "onnx.quantised_opset must be in 18..21, got 17"),
    (
        [*DESKTOP, ("engine.quantised", ["fp8"]), ("onnx.quantised_opset", 18)],
        "onnx.quantised_opset must be at least 19 for fp8, got 18",
    ),
    ([("bench.flags", [])], "bench.flags must be given for tensorrt"),
    (
        [("bench.flags", ["useCudaGraph"])],
        "bench.flags must be --name or --name=value, without spaces",
    ),
    (RTX, "gpu.sm must be one that TensorRT-RTX builds for, got 87"),
    ([*DESKTOP, ("gpu.sm", [89, 90])], "gpu.sm must be one that TensorRT-RTX builds for, got 90"),
    ([*DESKTOP, ("gpu.sm", 100)], "gpu.sm must be one that TensorRT-RTX builds for, got 100"),
    (
        [*DESKTOP, ("gpu.sm", [75, 86]), ("onnx.float", "float32")],
        "onnx.float must be float16 for TensorRT-RTX on SM 75, got 'float32'",
    ),
    ([*DESKTOP, ("gpu.sm", 75)], "onnx.float32_matmul must be false for TensorRT-RTX on SM 75, got True"),
    ([*DESKTOP, ("onnx.topk_limit", 3841)], "onnx.topk_limit must be at most 3840, got 3841"),
    (
        [*DESKTOP, ("engine.typing", "weak_fp16")],
        "engine.typing must be 'strong' for tensorrt-rtx, got 'weak_fp16'",
    ),
]

CONTRADICTIONS_WITHOUT_ENGINE = [
    ([("engine.typing", "strong")], "engine.typing must be given for tensorrt and tensorrt-rtx, only there"),
    ([("engine.workspace_mib", 512)], "engine.workspace_mib must be given for tensorrt and tensorrt-rtx, only there"),
    ([("engine.build_flags", ["--fp16"])], "engine.build_flags must be left out: they are trtexec's"),
    ([("bench.flags", ["--useCudaGraph"])], "bench.flags must be left out: they are trtexec's"),
    ([("jetson", ORIN["jetson"])], "gpu must be given for a Jetson"),
    ([("onnx.topk_limit", 0)], "onnx.topk_limit must be positive, got 0"),
]


@pytest.mark.parametrize(("change", "message"), FORM, ids=[message for _, message in FORM])
def test_a_wrong_field_is_refused(change: tuple[str, Any], message: str) -> None:
    refused(changed(ORIN, change), message)


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS, ids=[message for _, message in CONTRADICTIONS])
def test_a_contradiction_is_refused(changes: list[tuple[str, Any]], message: str) -> None:
    refused(changed(ORIN, *changes), message)


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS_WITHOUT_ENGINE)
def test_a_contradiction_without_an_engine_is_refused(changes: list[tuple[str, Any]], message: str) -> None:
    refused(changed(CPU, *changes), message)


def refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.parse(given, "board.toml")
    assert str(caught.value).startswith(f"board.toml: {message}")
    assert "\n" not in str(caught.value)


def test_weak_typing_is_right_for_tensorrt_8() -> None:
    given = changed(
        ORIN,
        *EIGHT,
        ("onnx.float", "float32"),
        ("engine.typing", "weak_fp16"),
        ("engine.build_flags", ["--fp16"]),
    )
    assert targets.parse(given, "").engine.typing == "weak_fp16"


def test_strong_typing_needs_no_flag_from_tensorrt_11_on() -> None:
    given = changed(ORIN, ("engine.version", ">=11.4.1"), ("engine.build_flags", []))
    assert targets.parse(given, "").engine.build_flags == ()


def test_one_plan_may_serve_several_gpus() -> None:
    given = changed(
        ORIN,
        *DESKTOP,
        ("gpu.sm", [86, 89, 120]),
    )
    target = targets.parse(given, "")
    assert target.gpu is not None
    assert target.gpu.sm == (86, 89, 120)


def test_a_figure_may_be_an_integer_and_may_be_left_out() -> None:
    gpu = targets.parse(changed(ORIN, ("gpu.bandwidth_gb_s", 51), ("gpu.tflops_fp16", ...)), "").gpu
    assert gpu is not None
    assert (gpu.bandwidth_gb_s, gpu.tflops_fp16) == (51.0, None)


def test_onnx_runtime_has_no_limit_of_its_own_for_topk() -> None:
    assert targets.parse(changed(CPU, ("onnx.topk_limit", 4000)), "").onnx.topk_limit == 4000


def test_onnx_runtime_takes_the_provider_of_the_gpu_where_there_is_one() -> None:
    providers = {name: targets.load(name).provider for name in ("cpu", "ort-cuda", "jetson-orin")}
    assert providers == {"cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider", "jetson-orin": None}


PAYLOADS = (
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "&& touch pwned", "| touch pwned", "\ntouch pwned",
    "'; touch pwned'", '"; touch pwned; "', "${IFS}touch", "$(touch${IFS}pwned)", ">pwned", "\\\ntouch pwned",
    "}; touch pwned", "~", "*(x)", "a b",
)  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    ("field", "form"),
    [("bench.flags", "--a=%s"), ("bench.flags", "--a%s"), ("engine.build_flags", "--a=%s"), ("name", "a%s"),
     ("jetson.trtexec", "%s"), ("jetson.trtexec", "/usr/bin/trtexec%s"), ("jetson.python", "3.10%s"),
     ("jetson.jetpack", "6.1%s"), ("jetson.l4t", "36.4%s"), ("engine.version", ">=10.3%s")],
)  # fmt: skip
def test_nothing_that_a_shell_would_act_on_is_taken(field: str, form: str, payload: str) -> None:
    value = form % payload
    with pytest.raises(TargetError):
        targets.parse(changed(ORIN, (field, [value] if field.endswith("flags") else value)), "board.toml")
