"""An int8 bundle made by hand of one in float32: QuantizeLinear and DequantizeLinear around the products with weights.

    x -> Q(s, z) -> DQ(s, z) -> MatMul <- DQ(scales, axis 1) <- int8 weight

Activations have the range that they take on the bundle's own probes; weights are symmetric, a scale for each output
channel. A fault is planted in what stands in the graph, as a wrong export or a hand would leave it.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune import bundle as bundles
from edgeprune.bundle import ENCODER, MANIFEST, describe_files
from edgeprune.runtime.backends.ort import Session
from edgeprune.runtime.parity.stored import stored_probes

BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
SESSION = {"cpu": {"disable": ["MatMulAddFusion"]}}
FLOATS = (".fc2", "projector.")
"""of the embedded model, those whose share of the error is the largest: with them its tokens are 7 % off"""
KINDS = {"u8": (TensorProto.UINT8, 0, 255), "s8": (TensorProto.INT8, -127, 127)}


@dataclass
class Product:
    """A product with a weight, as it is quantised; a fault changes it."""

    name: str
    weight: NDArray[np.int8]
    """[in, out]"""
    scales: NDArray[np.float32]
    """[out], or [] of the whole weight"""
    scale: np.float32
    zero: int
    """of the activation that goes in"""


Fault = Callable[[list[Product]], None]


def rounded(
    weight: NDArray[np.float32], per_tensor: bool = False, most: int = 127
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight [in, out] and its scales."""
    scales = np.maximum(np.abs(weight).max(axis=None if per_tensor else 0), 1e-12) / np.float32(most)
    return np.rint(weight / scales).clip(-most, most).astype(np.int8), scales.astype(np.float32)


def quantised(
    folder: Path, output: Path, kind: str = "s8", fault: Fault | None = None, floats: tuple[str, ...] = FLOATS
) -> Path:
    """The bundle in `folder` as an int8 one in `output`.

    kind: of the activations, u8 with a zero point, or s8 around 0; floats: parts of the names of what stays float
    """
    opened = bundles.load(folder)
    shutil.copytree(folder, output)
    model = onnx.load(opened.graph(ENCODER))
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    products_of = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    nodes = [node for node in products_of if not any(part in node.name for part in floats)]
    ranges = _ranges(folder, tuple(sorted({node.input[0] for node in products_of})))
    products = [_product(node.name, weights[node.input[1]], ranges[node.input[0]], kind) for node in nodes]
    if fault is not None:
        fault(products)
    _rewrite(model, nodes, products, KINDS[kind][0])
    onnx.save(model, output / opened.manifest.encoder.file)
    said: dict[str, Any] = {"scheme": "int8", "activations": kind, "bounds": BOUNDS, "session": SESSION}
    manifest = dataclasses.replace(opened.manifest, precision="int8", quantised=said, files=describe_files(output))
    (output / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return output


@functools.cache
def _ranges(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Of each tensor of the bundle's graph, on all probes."""
    opened = bundles.load(folder)
    watched = onnx.load(opened.graph(ENCODER))
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = Session(onnxruntime.InferenceSession(watched.SerializeToString()), "cpu", folder.name)
    found = {name: (0.0, 0.0) for name in names}
    with stored_probes(opened) as (probes, read):
        for probe in probes:
            for name, value in session.run(read(probe).inputs).items():
                low, high = found[name]
                found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found


def _product(name: str, weight: NDArray[np.float32], range_: tuple[float, float], kind: str) -> Product:
    low, high = range_
    _, least, most = KINDS[kind]
    if kind == "s8":
        return Product(name, *rounded(weight), np.float32(max(high, -low) / most), 0)
    scale = np.float32((high - low) / (most - least))
    # 7 bits: without VNNI an x86 adds two products in 16 bits, which overflow with 8
    return Product(name, *rounded(weight, most=64), scale, int(np.rint(-low / scale).clip(least, most)))


def _rewrite(model: onnx.ModelProto, nodes: list[Any], products: list[Product], dtype: int) -> None:
    made: list[Any] = []
    done: dict[tuple[str, float, int], str] = {}
    before: dict[str, list[Any]] = {}

    def constant(name: str, value: NDArray[Any]) -> str:
        made.append(numpy_helper.from_array(value, name))
        return name

    for node, one in zip(nodes, products, strict=True):
        front, key = before.setdefault(node.name, []), (node.input[0], float(one.scale), one.zero)
        if key not in done:  # q, k and v read the same
            scale = constant(f"{node.name}.scale", np.array(one.scale, np.float32))
            zero = helper.make_tensor(f"{node.name}.zero", dtype, [], [one.zero])
            made.append(zero)
            names = [f"{node.name}.quantised", f"{node.name}.input"]
            front.append(
                helper.make_node("QuantizeLinear", [node.input[0], scale, zero.name], names[:1], f"{node.name}/Q")
            )
            front.append(
                helper.make_node("DequantizeLinear", [names[0], scale, zero.name], names[1:], f"{node.name}/DQ")
            )
            done[key] = names[1]
        weight = constant(f"{node.name}.int8", one.weight)
        scales = constant(f"{node.name}.scales", one.scales)
        zeros = constant(f"{node.name}.zeros", np.zeros(one.scales.shape, np.int8))
        axis: dict[str, Any] = {"axis": 1} if one.scales.ndim else {}
        front.append(
            helper.make_node(
                "DequantizeLinear", [weight, scales, zeros], [f"{node.name}.weight"], f"{node.name}/DQW", **axis
            )
        )
        node.input[0], node.input[1] = done[key], f"{node.name}.weight"
    ordered = [one for node in model.graph.node for one in (*before.get(node.name, ()), node)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    model.graph.initializer.extend(made)
    used = {name for node in model.graph.node for name in node.input}
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
