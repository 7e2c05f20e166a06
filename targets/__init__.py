"""The devices that edgeprune exports for, one TOML each (standard library only).

    name         the name on the command line, and in `encoder.<name>.plan`
    description  one line for `edgeprune targets`
    tier         1 built and timed on the device   2 engine built and audited here   3 ONNX checked here
    source       links that justify the values

    [gpu]        left out: runs on the CPU
    sm           compute capability without the dot; an array when one plan serves several
    memory_gib   of the smallest board of the family
    and, where they are known, of that same board, for estimates:
    bandwidth_gb_s   to its memory, 1e9 bytes per second
    tflops_fp16      of its tensor cores: dense, 1e12 float16 operations per second, two in a multiply-add

    [onnx]
    opset, ir_version, forbidden_ops
    quantised_opset  of a graph with quantised products, whose scales may be float16 from 19 on; left out: opset
    float        float16 | float32: the dtype that is written into the graph
    greedy       looped | unrolled: a greedy method's picks as one Scan, which is what is taken, or written out
    topk_limit   the largest K of a TopK; left out: any
    index_float  true: TopK takes floats only, so indices are sorted as float32, which is exact below 2^24
    float32_matmul  false: MatMul and Gemm take float16 only; left out: true

    [engine]
    kind         tensorrt | tensorrt-rtx | onnxruntime
    version      what the device has, ">=10.3,<10.4"
    quantised    what products with weights may be: int8, int8-dynamic, fp8, each where device and engine have kernels
                 for it; left out: floats alone
    and, unless the kind is onnxruntime:
    typing       strong: types stand in the graph    weak_fp16: a float32 graph, the builder chooses float16
    build        here | on-device
    build_flags  of trtexec, without file names
    workspace_mib

    [bench]      only for tensorrt
    flags        of trtexec at that version, without file names

    [jetson]     only for Jetson boards
    jetpack, l4t, python    versions of the board's software
    trtexec      where it lies on the board
    install      the commands, with && between them, that install edgeprune's runtime on the board, where {edgeprune} is
                 what pip is given for it; left out: the board's Python, for which its TensorRT is, is too old
    boards       those of the family, smallest first: each name, memory_gib, bandwidth_gb_s and tflops_fp16 as in [gpu]

Whatever reaches build.sh or a command line holds no character that a shell acts on; else the file is refused.

A new target is one file of this form: beside this module, or anywhere, given as a path that ends in .toml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from edgeprune import typed
from edgeprune.errors import TargetError, unknown_name
from edgeprune.targets._versions import accepts, span

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Bench", "Board", "Engine", "Gpu", "Jetson", "Onnx", "Target", "accepts", "check", "load", "names", "parse"]


@dataclass(frozen=True)
class Gpu:
    sm: tuple[int, ...]
    memory_gib: int
    bandwidth_gb_s: float | None = None
    tflops_fp16: float | None = None


@dataclass(frozen=True)
class Onnx:
    opset: int
    ir_version: int
    float: Literal["float16", "float32"]
    forbidden_ops: tuple[str, ...]
    greedy: Literal["looped", "unrolled"] = "looped"
    topk_limit: int | None = None
    index_float: bool = False
    float32_matmul: bool = True
    quantised_opset: int | None = None

    @property
    def newest_quantised(self) -> int:
        """The newest opset of a graph with quantised products."""
        return self.quantised_opset or self.opset


@dataclass(frozen=True)
class Engine:
    kind: Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
    version: str
    quantised: tuple[Literal["int8", "int8-dynamic", "fp8"], ...] = ()
    typing: Literal["strong", "weak_fp16"] | None = None
    build: Literal["here", "on-device"] | None = None
    build_flags: tuple[str, ...] = ()
    workspace_mib: int | None = None

    def accepts(self, version: str) -> bool:
        """Whether an installed version lies in the range.

        >>> orin = Engine("tensorrt", ">=10.3,<10.4")
        >>> orin.accepts("10.3.0"), orin.accepts("10.13.3.9.post1")
        (True, False)
        """
        return accepts(self.version, version)


@dataclass(frozen=True)
class Bench:
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    name: str
    memory_gib: int
    bandwidth_gb_s: float
    tflops_fp16: float


@dataclass(frozen=True)
class Jetson:
    jetpack: str
    l4t: str
    python: str
    trtexec: str
    install: str | None = None
    boards: tuple[Board, ...] = ()

    def installing(self, edgeprune: str = "edgeprune") -> list[str]:
        """The commands that install it, none where nothing can; edgeprune: what pip is given."""
        return self.install.replace("{edgeprune}", edgeprune).split(" && ") if self.install else []


@dataclass(frozen=True)
class Target:
    name: str
    description: str
    tier: int
    source: tuple[str, ...]
    onnx: Onnx
    engine: Engine
    gpu: Gpu | None = None
    bench: Bench = Bench()
    jetson: Jetson | None = None

    @property
    def provider(self) -> str | None:
        """The execution provider, by ONNX Runtime's name, of a target that runs on it."""
        if self.engine.kind != "onnxruntime":
            return None
        return "CUDAExecutionProvider" if self.gpu else "CPUExecutionProvider"


def names() -> list[str]:
    """The targets that come with edgeprune, sorted."""
    files = resources.files("edgeprune.targets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(name_or_path: str | Path) -> Target:
    """A target by its name, or from a file when the argument ends in .toml.

    Raises TargetError when there is no such target, or its file is not a complete and consistent one.
    """
    name = str(name_or_path)
    own = not name.endswith(".toml")
    if own and name not in names():
        raise TargetError(unknown_name("target", name, names()))
    file = resources.files("edgeprune.targets") / f"{name}.toml" if own else Path(name)
    where = f"{name}.toml" if own else name
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"{where} cannot be read: {error.strerror}; have {', '.join(names())}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise TargetError(f"{where} is not a TOML file: {str(error).splitlines()[0]}") from None
    return parse(given, where)


def parse(given: Mapping[str, Any], where: str) -> Target:
    """The target that a TOML file says, checked; `where` names the file in messages.

    Raises TargetError as `load` does.
    """
    try:
        target: Target = typed.read(Target, given, typed.TOML)
    except ValueError as error:
        raise TargetError(f"{where}: {error}") from None
    check(target, where)
    return target


def check(target: Target, where: str = "") -> None:
    """Raises TargetError when fields that are right alone contradict each other; `where` names the file."""
    for rules in (
        _head_rules, _gpu_rules, _onnx_rules, _engine_rules, _quantised_rules, _parser_rules, _trtexec_rules,
        _jetson_rules,
    ):  # fmt: skip
        for holds, field, rule, value in rules(target):
            if not holds:
                got = "" if value is None else f", got {value!r}"
                raise TargetError(f"{where or target.name}: {field} must {rule}{got}")


# What `check` asks, in order: (whether it holds, field, what it must, what was given).
Rules = Iterator[tuple[object, str, str, object]]


def _head_rules(target: Target) -> Rules:
    yield _NAME.fullmatch(target.name), "name", "consist of a-z, 0-9, '.' and '-'", target.name
    yield _line(target.description), "description", "be one line", target.description
    yield target.tier in (1, 2, 3), "tier", "be 1, 2 or 3", target.tier
    yield target.source, "source", "name at least one link", list(target.source)
    for link in target.source:
        yield _LINK.fullmatch(link) and link.isprintable(), "source", "hold https links", link


def _gpu_rules(target: Target) -> Rules:
    gpu, engine = target.gpu, target.engine
    if gpu is None:
        yield engine.kind == "onnxruntime", "gpu", f"be given for {engine.kind}", None
        yield target.jetson is None, "gpu", "be given for a Jetson", None
        return
    yield gpu.sm, "gpu.sm", "name at least one compute capability", list(gpu.sm)
    for sm in gpu.sm:
        yield 50 <= sm < 200, "gpu.sm", "be a compute capability without the dot, such as 87", sm
        no_rtx = engine.kind == "tensorrt-rtx" and sm in _NO_RTX
        yield not no_rtx, "gpu.sm", "be one that TensorRT-RTX builds for", sm
        yield target.jetson is None or sm in _JETSON, "gpu.sm", f"be one of {_JETSON} for a Jetson", sm
        needs_jetson = sm in _JETSON and engine.kind == "tensorrt"
        yield target.jetson or not needs_jetson, "jetson", f"be given for SM {sm}", None
    yield gpu.memory_gib > 0, "gpu.memory_gib", "be positive", gpu.memory_gib
    for name in ("bandwidth_gb_s", "tflops_fp16"):
        figure = getattr(gpu, name)
        yield figure is None or 0 < figure < float("inf"), f"gpu.{name}", "be a positive number", figure
    if engine.workspace_mib is not None:
        fits = 0 < engine.workspace_mib <= gpu.memory_gib * 1024 // 2
        yield fits, "engine.workspace_mib", f"be at most half of {gpu.memory_gib} GiB", engine.workspace_mib


def _onnx_rules(target: Target) -> Rules:
    onnx = target.onnx
    yield 17 <= onnx.opset <= 20, "onnx.opset", "be in 17..20", onnx.opset
    newest = onnx.newest_quantised
    yield onnx.opset <= newest <= 21, "onnx.quantised_opset", f"be in {onnx.opset}..21", newest
    yield 8 <= onnx.ir_version <= 10, "onnx.ir_version", "be in 8..10", onnx.ir_version
    # The operator keeps the scores to itself and fails in float32; decomposed attention is fused just as well.
    yield "Attention" in onnx.forbidden_ops, "onnx.forbidden_ops", "name Attention", list(onnx.forbidden_ops)
    for name in onnx.forbidden_ops:
        yield _OPERATOR.fullmatch(name), "onnx.forbidden_ops", "hold names of operators", name
    distinct = len(set(onnx.forbidden_ops)) == len(onnx.forbidden_ops)
    yield distinct, "onnx.forbidden_ops", "name each operator once", list(onnx.forbidden_ops)
    limit, ort = onnx.topk_limit, target.engine.kind == "onnxruntime"
    yield limit is None or limit > 0, "onnx.topk_limit", "be positive", limit
    yield limit is None or ort or limit <= _TOPK_LIMIT, "onnx.topk_limit", f"be at most {_TOPK_LIMIT}", limit


def _engine_rules(target: Target) -> Rules:
    engine = target.engine
    yield _VERSION.fullmatch(engine.version), "engine.version", "be a range such as '>=10.3,<10.4'", engine.version
    oldest, newest = span(engine.version)
    yield oldest <= newest, "engine.version", "hold at least one version", engine.version
    ort = engine.kind == "onnxruntime"
    for name in ("typing", "build", "workspace_mib"):
        value = getattr(engine, name)
        yield (value is None) == ort, f"engine.{name}", "be given for tensorrt and tensorrt-rtx, only there", value
    if engine.typing == "weak_fp16":
        yield engine.kind == "tensorrt", "engine.typing", "be 'strong' for tensorrt-rtx", engine.typing
        yield target.onnx.float == "float32", "onnx.float", "be float32 under weak_fp16", target.onnx.float


def _quantised_rules(target: Target) -> Rules:
    """Explicit QuantizeLinear and DequantizeLinear: symmetric, as TensorRT takes them; of the CPU, as kernels of ONNX
    Runtime are."""
    have, gpu, engine = target.engine.quantised, target.gpu, target.engine
    distinct = len(set(have)) == len(have)
    yield distinct, "engine.quantised", "name each type once", list(have)
    dynamic = engine.kind == "onnxruntime" and gpu is None
    yield (
        dynamic or "int8-dynamic" not in have,
        "engine.quantised",
        "leave int8-dynamic to ONNX Runtime's CPU",
        list(have),
    )
    if "fp8" in have:
        old = [sm for sm in (gpu.sm if gpu else ()) if sm < _FP8_SM]
        yield gpu and not old, "engine.quantised", f"leave fp8 to SM {_FP8_SM} and later", list(have)
        yield engine.kind != "onnxruntime", "engine.quantised", "leave fp8 to TensorRT", list(have)
        newest = target.onnx.newest_quantised
        yield newest >= 19, "onnx.quantised_opset", "be at least 19 for fp8", newest


def _parser_rules(target: Target) -> Rules:
    """What the ONNX parsers of TensorRT 8 and of TensorRT-RTX do not take."""
    onnx, engine, gpu = target.onnx, target.engine, target.gpu
    if engine.kind == "tensorrt-rtx" and gpu and 75 in gpu.sm:  # "FP32 GEMM is not supported", says its builder
        yield onnx.float == "float16", "onnx.float", "be float16 for TensorRT-RTX on SM 75", onnx.float
        refused = not onnx.float32_matmul
        yield refused, "onnx.float32_matmul", "be false for TensorRT-RTX on SM 75", onnx.float32_matmul
    if engine.kind != "tensorrt":
        return
    oldest, _ = span(engine.version)
    # https://github.com/onnx/onnx-tensorrt/blob/release/8.5-GA/docs/operators.md
    if oldest < (9,):
        yield onnx.opset <= 17, "onnx.opset", "be at most 17 for TensorRT 8", onnx.opset
        yield onnx.ir_version <= 8, "onnx.ir_version", "be at most 8 for TensorRT 8", onnx.ir_version
    if oldest < (8, 6):
        refused = "LayerNormalization" in onnx.forbidden_ops
        yield refused, "onnx.forbidden_ops", "name LayerNormalization before TensorRT 8.6", list(onnx.forbidden_ops)
        yield onnx.index_float, "onnx.index_float", "be true before TensorRT 8.6", onnx.index_float


def _trtexec_rules(target: Target) -> Rules:
    engine, bench = target.engine, target.bench
    if engine.kind != "tensorrt":
        yield not engine.build_flags, "engine.build_flags", "be left out: they are trtexec's", list(engine.build_flags)
        yield not bench.flags, "bench.flags", "be left out: they are trtexec's", list(bench.flags)
        return
    # It times kernels on the very GPU that it builds for.
    yield engine.build == "on-device", "engine.build", "be 'on-device' for tensorrt", engine.build
    for flag in engine.build_flags:
        yield _FLAG.fullmatch(flag), "engine.build_flags", _FLAG_RULE, flag
        # The ranges stand in the graph; implicit calibration went with TensorRT 11.
        implicit = flag.startswith(("--int8", "--fp8", "--best", "--calib"))
        yield not implicit, "engine.build_flags", "leave out what is quantised, the graph says it", flag
    yield bench.flags, "bench.flags", "be given for tensorrt", list(bench.flags)
    for flag in bench.flags:
        yield _FLAG.fullmatch(flag), "bench.flags", _FLAG_RULE, flag
    oldest, newest = span(engine.version)
    # Strong typing came with TensorRT 9, weak typing went with 11:
    # https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/api/migration/tensorrt-10x-to-11x-jetson.html
    if engine.typing == "weak_fp16":
        yield newest < (11,), "engine.typing", "be 'strong' from TensorRT 11 on", engine.typing
        yield "--fp16" in engine.build_flags, "engine.build_flags", "have --fp16", list(engine.build_flags)
    else:
        yield oldest >= (9,), "engine.typing", "be 'weak_fp16' before TensorRT 9", engine.typing
        yield "--fp16" not in engine.build_flags, "engine.build_flags", "not have --fp16", list(engine.build_flags)
        typed = oldest >= (11,) or "--stronglyTyped" in engine.build_flags
        yield typed, "engine.build_flags", "have --stronglyTyped before TensorRT 11", list(engine.build_flags)


def _jetson_rules(target: Target) -> Rules:
    """What build.sh runs and README.md prints to be run."""
    if (board := target.jetson) is None:
        return
    yield _PATH.fullmatch(board.trtexec), "jetson.trtexec", "be a path of A-Z, a-z, 0-9 and . _ + / -", board.trtexec
    yield _PYTHON.fullmatch(board.python), "jetson.python", "be a version such as 3.10", board.python
    for name in ("jetpack", "l4t"):
        value = getattr(board, name)
        yield _BETWEEN.fullmatch(value), f"jetson.{name}", "be versions such as 6.1-6.2.2", value
    shown = board.install is None or (_line(board.install) and "`" not in board.install)
    yield shown, "jetson.install", "be one line without backticks", board.install
    for one in board.boards:
        yield _line(one.name), "jetson.boards", "have names of one line", one.name
        for name in ("memory_gib", "bandwidth_gb_s", "tflops_fp16"):
            figure = getattr(one, name)
            yield 0 < figure < float("inf"), f"jetson.boards: {name} of {one.name}", "be a positive number", figure
    smallest, gpu = min((one.memory_gib for one in board.boards), default=None), target.gpu
    agrees = smallest is None or gpu is None or smallest == gpu.memory_gib
    yield agrees, "gpu.memory_gib", f"be that of the smallest of jetson.boards, {smallest}", gpu and gpu.memory_gib


def _line(text: str) -> bool:
    return bool(text) and text.isprintable()


_JETSON = (72, 87, 110)
_NO_RTX = (*_JETSON, 90, 100, 103)
_FP8_SM = 89  # Ada: the first that has products of float8
_TOPK_LIMIT = 3840  # of ITopKLayer, in every release from 8.5 to 11.1 and in TensorRT-RTX
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LINK = re.compile(r"https://\S+")
_VERSION = re.compile(r"(>=|==)[1-9]\d*(\.\d+)*(,<=?[1-9]\d*(\.\d+)*)?")
_OPERATOR = re.compile(r"[A-Za-z][A-Za-z0-9]*")
# Nothing that a shell reads as more than text; patterns of layers (`--layerPrecisions=*:fp32`) have a star.
_FLAG = re.compile(r"--[A-Za-z][A-Za-z0-9]*(=[A-Za-z0-9_.,:+*/=-]+)?")
_FLAG_RULE = "be --name or --name=value, without spaces or quotes"
_PATH = re.compile(r"(/|[A-Za-z0-9_.])[A-Za-z0-9_.+/-]*")
_PYTHON = re.compile(r"[1-9]\d*\.\d+")
_BETWEEN = re.compile(r"\d+(\.\d+)*(-\d+(\.\d+)*)?")
