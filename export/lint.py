"""The exported graph against its target, before anything is built: what the device would refuse, by the node's name.

    lint     reads the graph: opset, IR, operators, dtypes, ranks, TopK, constants, dynamic dimensions, loops, memory
    parse    asks the parser of TensorRT-RTX, where that is installed
    refuse   says what was found, in one line

A loop's body is read like the graph around it. What the rules know of TensorRT is what its parser says of itself:

Source  https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, and the branch of each release
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeprune.errors import TargetError
from edgeprune.export.downgrade import REDUCTIONS, floats_only, integers
from edgeprune.export.engine import open_parser
from edgeprune.targets import Target

__all__ = ["Finding", "lint", "parse", "refuse"]

MAX_RANK = 8
"""of a tensor in TensorRT, in every release: nvinfer1::Dims::MAX_DIMS"""

CONSTANT = {"CumSum": 1, "OneHot": 1, "TopK": 1} | dict.fromkeys(REDUCTIONS, 1)
"""operator -> the input that TensorRT wants as a constant"""

ANOTHER = "choose another --method or --target"

QUANTISING = ("QuantizeLinear", "DequantizeLinear")
DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger")
ATTENTION_IN_INT8 = 512
"""tokens up to which TensorRT fuses attention whose own products are quantised: docs.nvidia.com/deeplearning/tensorrt,
inference-library/work-with-transformers"""


@dataclass(frozen=True)
class Finding:
    """One thing that the target cannot do, and what to do about it."""

    node: str
    """the node, or the input, weight or graph, by name"""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node} {self.problem}; {self.remedy}"


Findings = Iterator[Finding]


def lint(model: ir.Model, target: Target) -> list[Finding]:
    """What the target cannot do of the graph; empty when it fits.

    model: with a shape and a dtype of every value
    """
    rules = (_version, _operators, _quantised, _dtypes, _ranks, _topk, _constants, _dimensions, _loops, _memory)
    return [finding for rule in rules for finding in rule(model, target)]


def parse(model: Path | bytes) -> list[Finding]:
    """What the parser of TensorRT-RTX refuses of a graph; empty when it takes all of it, or is not installed.

    model: the file, with its weights beside it, or the serialized model. No GPU is needed.
    """
    try:
        import tensorrt_rtx as trt
    except (ImportError, OSError):  # absent, or its libraries do not load on this machine
        return []

    _builder, _network, parser = open_parser(trt)  # the parser lives as long as they do
    parsed = parser.parse_from_file(str(model)) if isinstance(model, Path) else parser.parse(model)
    errors = [parser.get_error(at) for at in range(parser.num_errors)]
    if not parsed and not errors:
        return [Finding("the graph", "is not what the parser of TensorRT-RTX reads", "run onnx.checker on it")]
    return [Finding(error.node_name() or "the graph", _refused(error), ANOTHER) for error in errors]


def refuse(findings: Sequence[Finding], target: Target) -> None:
    """Raises TargetError with the first finding and the number of the others, when there are any."""
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise TargetError(f"the graph must be fit for {target.name}: {findings[0]}{more}")


def _refused(error: Any) -> str:
    said = " ".join(str(error.desc()).split()).partition(" [")[0]  # behind it: that there is no GPU
    what = f"is {error.node_operator()}, which" if error.node_operator() else "is what"
    return f"{what} the parser of TensorRT-RTX refuses: {str(error.code()).rpartition('.')[2]}: {said}"


# The rules. Each yields what it finds.


def _version(model: ir.Model, target: Target) -> Findings:
    opset = model.opset_imports.get("", 0)
    quantised = any(node.op_type in QUANTISING for node in model.graph.all_nodes())
    newest = target.onnx.newest_quantised if quantised else target.onnx.opset
    if opset > newest:
        yield Finding("the graph", f"has opset {opset}, the target reads up to {newest}", "export it for this --target")
    if (version := model.ir_version) > target.onnx.ir_version:
        most = target.onnx.ir_version
        yield Finding("the file", f"has IR {version}, the target reads up to {most}", "export it for this --target")


def _operators(model: ir.Model, target: Target) -> Findings:
    for node in model.graph.all_nodes():
        if node.domain and _tensorrt(target):
            yield Finding(str(node.name), f"is {node.domain}.{node.op_type}, a plugin that TensorRT lacks", ANOTHER)
        elif node.op_type in target.onnx.forbidden_ops:
            yield Finding(str(node.name), f"is {node.op_type}, which the target forbids", ANOTHER)
        elif _tensorrt(target) and (what := _attribute(node, target)):
            yield Finding(str(node.name), f"is {node.op_type} with {what}, which TensorRT lacks", ANOTHER)


def _attribute(node: ir.Node, target: Target) -> str | None:
    """What the node has that its operator may not have in TensorRT."""
    rtx = target.engine.kind == "tensorrt-rtx"
    if node.op_type == "ScatterND" or (node.op_type == "ScatterElements" and rtx):
        reduction = node.attributes.get_string("reduction", "none")
        return None if reduction == "none" else f"reduction {reduction}"
    if node.op_type == "TopK" and not rtx and node.attributes.get_int("sorted", 1) == 0:
        return "sorted = 0"
    if node.op_type == "Resize" and node.attributes.get_int("antialias", 0) != 0:
        return "antialias"
    if node.op_type == "LayerNormalization" and any(value.uses() for value in node.outputs[1:]):
        return "more than one output"
    return None


def _quantised(model: ir.Model, target: Target) -> Findings:
    """Only types that the device has; explicit and symmetric for TensorRT, whose release 11 has no other."""
    have = target.engine.quantised
    takes = f"products of {' and '.join(have)}" if have else "products of floats alone"
    for node in model.graph.all_nodes():
        name = str(node.name)
        if (kind := _kind(node)) and kind not in have:
            yield Finding(name, f"is {node.op_type} of {kind}, the target has {takes}", "give another --precision")
        elif node.op_type in QUANTISING and _tensorrt(target):
            side = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
            zero = _constant(node, 2) if len(node.inputs) > 2 else None
            if side is not None and side.dtype == ir.DataType.UINT8:
                yield Finding(
                    name, f"is {node.op_type} of uint8, TensorRT takes int8 alone", "export it for this --target"
                )
            elif zero is not None and zero.numpy().astype("float32").any():
                yield Finding(
                    name, f"is {node.op_type} with a zero point, TensorRT takes 0 alone", "quantise it around 0"
                )
        elif node.op_type == "MatMul" and _tensorrt(target) and (tokens := _attending(node)) > ATTENTION_IN_INT8:
            problem = f"is attention in int8 of {tokens} tokens, which TensorRT fuses up to {ATTENTION_IN_INT8}"
            yield Finding(name, problem, "leave the products of attention in float")


def _kind(node: ir.Node) -> str:
    """What of `engine.quantised` a node needs; empty where it quantises nothing."""
    if node.op_type in DYNAMIC:
        return "int8-dynamic"
    if node.op_type not in QUANTISING:
        return ""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    return "fp8" if value is not None and str(value.dtype).startswith("FLOAT8") else "int8"


def _attending(node: ir.Node) -> int:
    """The keys that a product of two quantised activations reads; 0 of any other product."""
    back = [None if value is None else value.producer() for value in node.inputs]
    if any(one is None or one.op_type != "DequantizeLinear" or _constant(one, 0) is not None for one in back):
        return 0
    sizes = [size for value in node.inputs for size in _sizes(value)[-2:] if isinstance(size, int)]
    return max(sizes, default=0)


def _dtypes(model: ir.Model, target: Target) -> Findings:
    if not _tensorrt(target):
        return
    types = ir.DataType
    weak = target.engine.typing == "weak_fp16"
    allowed = {types.FLOAT, types.INT32, types.INT64, types.BOOL}
    if not weak:
        allowed |= {types.FLOAT16, types.BFLOAT16}
    inside = {"int8": types.INT8, "fp8": types.FLOAT8E4M3FN}  # between a QuantizeLinear and a DequantizeLinear
    passing = allowed | {inside[kind] for kind in target.engine.quantised if kind in inside}
    float32 = "export with --precision float32" if weak else ANOTHER
    for name, value in _values(model.graph):
        raw = value.dtype == types.UINT8 and value in model.graph.inputs  # pixels, which a Cast may read
        if value.dtype not in passing and not raw:
            takes = ", ".join(sorted(map(_named, allowed)))
            remedy = "leave out --input uint8" if value.dtype == types.UINT8 else float32
            yield Finding(name, f"has {_named(value.dtype)}, the target computes {takes}", remedy)
    for node in model.graph.all_nodes():
        if node.op_type in ("MatMul", "Gemm") and not target.onnx.float32_matmul and _float32(node.inputs[0]):
            yield Finding(str(node.name), f"is {node.op_type} of float32, which the target cannot compute", ANOTHER)
        if node.op_type in floats_only(target) and (dtype := integers(node)):
            problem = f"is {node.op_type} of {_named(dtype)}, which the target computes for floats alone"
            yield Finding(str(node.name), problem, "export it for this --target, which casts it")


def _float32(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _ranks(model: ir.Model, target: Target) -> Findings:
    if not _tensorrt(target):
        return
    for node in model.graph.all_nodes():
        if node.op_type in ("ArgMax", "ArgMin") and len(_sizes(node.inputs[0])) < 2:
            yield Finding(
                str(node.name), f"is {node.op_type} of one dimension, TensorRT wants two or more", "give it [1, N]"
            )
    for name, value in _values(model.graph):
        if (rank := len(_sizes(value))) > MAX_RANK:
            yield Finding(name, f"has {rank} dimensions, TensorRT takes up to {MAX_RANK}", ANOTHER)


def _topk(model: ir.Model, target: Target) -> Findings:
    limit = target.onnx.topk_limit
    if limit is None:
        return
    for node in model.graph.all_nodes():
        kept = _constant(node, 1) if node.op_type == "TopK" else None
        if kept is not None and int(kept.numpy().item()) > limit:
            problem = f"is TopK of the largest {kept.numpy().item()}, the target takes up to {limit}"
            yield Finding(str(node.name), problem, f"choose a --keep and a --grid of at most {limit} patches")


def _constants(model: ir.Model, target: Target) -> Findings:
    if not _tensorrt(target):
        return
    for node in model.graph.all_nodes():
        at = CONSTANT.get(node.op_type, len(node.inputs))
        value = node.inputs[at] if at < len(node.inputs) else None
        if value is not None and _constant(node, at) is None:
            problem = f"is {node.op_type} with computed {value.name}, TensorRT wants a constant"
            yield Finding(str(node.name), problem, ANOTHER)


def _dimensions(model: ir.Model, target: Target) -> Findings:
    """Only the batch may be free, and what is computed from it."""
    batch = {str(value.shape[0]) for value in model.graph.inputs if value.shape and not value.shape.is_static(0)}
    ends = {*model.graph.inputs, *model.graph.outputs}
    for name, value in _values(model.graph):
        if value.shape is None:
            yield Finding(name, "has no known shape, every shape must be known", ANOTHER)
            continue
        sizes = list(value.shape)[1 if batch and value in ends else 0 :]
        free = [str(size) for size in sizes if not isinstance(size, int)]
        if free and (value in ends or not batch):
            yield Finding(name, f"has the dynamic dimension {free[0]}, only the batch may be", ANOTHER)


def _loops(model: ir.Model, target: Target) -> Findings:
    for node in model.graph.all_nodes():
        if node.op_type not in ("Loop", "Scan", "If"):
            continue
        if target.onnx.greedy == "unrolled":
            yield Finding(str(node.name), f"is {node.op_type}, which the target wants unrolled", ANOTHER)
        elif node.op_type == "Loop" and _tensorrt(target) and _constant(node, 0) is None:
            yield Finding(str(node.name), "is Loop with a computed trip count, TensorRT wants a constant", ANOTHER)
        elif node.op_type == "Scan" and not all(isinstance(size, int) for size in _steps(node)):
            yield Finding(str(node.name), "is Scan over a dynamic dimension, TensorRT wants a static one", ANOTHER)


def _steps(scan: ir.Node) -> list[Any]:
    """The lengths of what a Scan runs over, which are its last inputs."""
    count = scan.attributes["num_scan_inputs"].as_int()
    axes = scan.attributes.get_ints("scan_input_axes", [0] * count)
    over = scan.inputs[len(scan.inputs) - count :]
    return [_sizes(value)[axis] for value, axis in zip(over, axes, strict=True)]


def _memory(model: ir.Model, target: Target) -> Findings:
    """The weights, and twice the largest activation: an operator's input and its output."""
    if target.gpu is None:
        return
    weights, largest, where = 0, 0, "the graph"
    for name, value in _values(model.graph):
        if value.const_value is not None and value.is_initializer():
            weights += value.const_value.nbytes
        elif (size := _nbytes(value)) > largest:
            largest, where = size, name
    need, have = weights + 2 * largest, target.gpu.memory_gib << 30
    if need > have:
        problem = (
            f"needs about {need / 2**30:.1f} GiB with the weights, {weights / 2**30:.1f} GiB; "
            f"the smallest board of the target has {target.gpu.memory_gib} GiB"
        )
        remedy = "choose --precision float16, a smaller --grid or fewer --tiles, or name the larger board in a target"
        yield Finding(where, problem, remedy)


# The graph


def _tensorrt(target: Target) -> bool:
    return target.engine.kind != "onnxruntime"


def _values(graph: ir.Graph) -> Iterator[tuple[str, ir.Value]]:
    """The inputs, weights and all that nodes compute, also in the bodies of loops, by the name of the node."""
    for part in (graph, *graph.subgraphs()):
        for value in (*part.inputs, *part.initializers.values()):
            yield str(value.name), value
    for node in graph.all_nodes():
        for value in node.outputs:
            yield str(node.name), value


def _named(dtype: ir.DataType | None) -> str:
    return "no dtype" if dtype is None else str(dtype.numpy().name)


def _sizes(value: ir.Value | None) -> list[Any]:
    return [] if value is None or value.shape is None else list(value.shape)


def _nbytes(value: ir.Value) -> int:
    """A free batch counts as 1."""
    if value.dtype is None:
        return 0
    return int(prod(size if isinstance(size, int) else 1 for size in _sizes(value)) * value.dtype.itemsize)


def _constant(node: ir.Node, at: int) -> ir.TensorProtocol | None:
    value = node.inputs[at] if at < len(node.inputs) else None
    return None if value is None else ir.convenience.get_const_tensor(value)
