"""Where values leave float16, which ends at 65504: found on the probes, before a device hands out infinities.

a graph of float16                   `check_range` refuses it, by the largest value of each module of the reference
a float32 graph, whose builder       `beyond_float16` names the nodes that take or give too much; build.sh and
chooses float16 by itself            `edgeprune build` leave these in float32
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgeprune.encoders import Tower
from edgeprune.errors import ModelError
from edgeprune.runtime.backends.ort import open_session
from edgeprune.targets import Target

__all__ = ["beyond_float16", "block_of", "check_range", "range_warnings", "watching"]

LARGEST = float(np.finfo(np.float16).max)
NEAR = LARGEST / 2
"""other images than the probes may give more"""


@contextlib.contextmanager
def watching(module: nn.Module, tower: Tower, layer: int, largest: dict[str, float]) -> Iterator[None]:
    """While it runs, the largest |value| that each module takes or gives is kept in `largest`, by the module's name.

    The names are those of the graph's nodes. What stands behind the feature layer does not count: it is not exported.
    """
    named = {part: name for name, part in module.named_modules()}
    behind = tuple(f"{block_of(named[part])}." for part in tower.attention[layer:])

    def keep(name: str, values: Any) -> None:
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if isinstance(value, Tensor) and value.is_floating_point():
                size = float(torch.linalg.vector_norm(value, math.inf))
                largest[name] = max(size, largest.get(name, 0.0))

    hooks = []
    for part, name in named.items():
        block = block_of(name)
        if f"{name}.".startswith(behind) or (not block and any(True for _ in part.children())):
            continue

        def seen(_: nn.Module, given: Any, gave: Any, name: str = name, inside: bool = bool(block)) -> None:
            if inside:  # sums in front of a norm are nobody's output
                keep(name, given)
            keep(name, gave)

        hooks.append(part.register_forward_hook(seen))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_range(largest: Mapping[str, float], precision: str, target: Target, id: str) -> None:
    """Raises ModelError when a module of a float16 graph would take or give what float16 has no number for."""
    if precision != "float16":
        return
    for name, size in largest.items():
        if not size <= LARGEST:
            remedy = "export with --precision float32" if target.onnx.float32_matmul else "choose another --target"
            raise ModelError(
                f"{id}: values at {name} must stay within float16, which ends at {LARGEST:.0f}; on the probes they "
                f"reach {size:.3g}; {remedy}"
            )


def range_warnings(
    largest: Mapping[str, float], precision: str, nodes: tuple[str, ...], target: Target
) -> tuple[str, ...]:
    """In one line each: what comes near the end of float16, and what is kept out of it."""
    if nodes:
        return (
            f"{len(nodes)} nodes of the graph, the first of them {nodes[0]}, take or give values near or beyond the "
            f"end of float16 ({LARGEST:.0f}), which TensorRT chooses by itself for {target.name}: its build keeps "
            "them in float32; compare the plan with the reference before you rely on it",
        )
    if precision != "float16" or not largest:
        return ()
    name = max(largest, key=lambda one: largest[one])
    if largest[name] <= NEAR:
        return ()
    return (
        f"values at {name} reach {largest[name]:.3g} on the probes and float16 ends at {LARGEST:.0f}: on other images "
        "they may overflow; --probes with images of yours shows it, --precision float32 avoids it",
    )


def beyond_float16(path: Path, reference: Path) -> tuple[str, ...]:
    """The nodes of a float32 graph that take or give more than NEAR on a probe, in the graph's order.

    path: of the .onnx; reference: of the probes. Infinities count for nothing: float16 has them, too.
    """
    model = ir.load(path)
    graph, nodes = model.graph, [*model.graph]
    zero = ir.Value(name="ranges/zero", const_value=ir.tensor(np.float32(0)))
    graph.register_initializer(zero)
    computed = [value for node in nodes for value in node.outputs if value.name and value.dtype == ir.DataType.FLOAT]
    for value in computed:
        size = _add(graph, "Abs", value)
        finite = _add(graph, "Where", _add(graph, "IsInf", size), zero, size)
        largest = _add(graph, "ReduceMax", finite, keepdims=0)
        largest.name, largest.shape, largest.dtype = f"ranges/{value.name}", ir.Shape([]), ir.DataType.FLOAT
        graph.outputs.append(largest)
    measured = path.with_name(f".{path.name}")  # beside it, where the weights lie
    try:
        ir.save(model, measured)
        sizes = _run(measured, reference, [f"ranges/{value.name}" for value in computed])
    finally:
        measured.unlink(missing_ok=True)
    large = {value for value in computed if not sizes[f"ranges/{value.name}"] <= NEAR}
    large |= {value for value in graph.initializers.values() if _is_large(value)}
    return tuple(str(node.name) for node in nodes if not large.isdisjoint((*node.inputs, *node.outputs)))


def _is_large(value: ir.Value) -> bool:
    """A constant that float16 would make infinite."""
    if value.dtype != ir.DataType.FLOAT or value.const_value is None:
        return False
    sizes = np.abs(value.const_value.numpy())
    return bool((sizes[np.isfinite(sizes)] > NEAR).any())


def _add(graph: ir.Graph, operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
    node = ir.node(operator, inputs, attributes)
    graph.append(node)
    return node.outputs[0]


def _run(graph: Path, reference: Path, names: Sequence[str]) -> dict[str, float]:
    session = open_session(graph, outputs=names)
    sizes = dict.fromkeys(names, 0.0)
    with safe_open(reference, framework="numpy") as file:
        for probe in sorted({key.rpartition("/")[0] for key in file.keys()}):  # noqa: SIM118 - it is no dict
            for name, size in session.run({one: file.get_tensor(f"{probe}/{one}") for one in session.inputs}).items():
                sizes[name] = max(sizes[name], float(size))
    session.close()
    return sizes


def block_of(name: str) -> str:
    """The layer that a module is in, by the last number in its name; empty without one.

    >>> block_of("encoder.layers.3.mlp.fc2"), block_of("encoder.pre_layrnorm")
    ('encoder.layers.3', '')
    """
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1]) if numbers else ""
