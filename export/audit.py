"""Is attention still one kernel? What the builder of TensorRT-RTX compiles a graph to, counted without a GPU.

A pruner that reads the attention matrix keeps the builder from fusing the layer that it reads. The builder lists its
kernels, each with the ONNX nodes that went into it; a layer is fused when its softmax sits in a fused attention kernel.
For targets of TensorRT proper, which compiles on the device only, this builder stands in: that is a proxy, no proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune import bundle
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.export.engine import VERBOSE, Compiler, check_batch, choose_sm, find_target, load_rtx

__all__ = ["FusionAudit", "GraphAudit", "Kernel", "Layer", "audit", "audit_bundle"]

PROXY_SM = 86
"""Ampere, as the GPU of Orin is; TensorRT-RTX knows no nearer one"""
CONTROL = {"add", "cjmp", "memset", "signal", "wait"}
"""types of what the builder lists beside its kernels: the counters and jumps of loops, and waits between streams"""
SELECTION = ("selection/", "selection.")
"""how `export/graph.py` names what is not of the encoder: no attention of these is expected to be fused"""


@dataclass(frozen=True)
class Kernel:
    name: str
    type: str
    nodes: tuple[str, ...]
    """names of the ONNX nodes that it computes"""

    @property
    def attends(self) -> bool:
        """Whether it is a fused attention: both products and the softmax between them."""
        return "mha" in self.name


@dataclass(frozen=True)
class Layer:
    """An attention of the encoder, named like its module."""

    name: str
    fused: bool
    why: str
    """what keeps it from being fused, as far as the graph shows it; empty when it is fused"""


@dataclass(frozen=True)
class GraphAudit:
    sm: int
    kernels: tuple[Kernel, ...]
    layers: tuple[Layer, ...]

    @property
    def fused(self) -> int:
        """Attention layers that are one kernel."""
        return sum(layer.fused for layer in self.layers)

    @property
    def unfused(self) -> list[Layer]:
        return [layer for layer in self.layers if not layer.fused]


@dataclass(frozen=True)
class FusionAudit:
    """The graphs of a bundle by name: `pruned`, and `unpruned` where the bundle has it."""

    target: str
    proxy: bool
    """whether TensorRT-RTX stands in for the builder of the target"""
    graphs: dict[str, GraphAudit]

    @property
    def lost(self) -> list[Layer]:
        """Layers of the pruned graph that are not fused and are in the unpruned one."""
        unpruned = self.graphs.get("unpruned")
        had = None if unpruned is None else {layer.name for layer in unpruned.layers if layer.fused}
        return [layer for layer in self.graphs["pruned"].unfused if had is None or layer.name in had]

    def check(self) -> None:
        """Raises EdgepruneError when a layer is lost."""
        if lost := self.lost:
            names = ", ".join(layer.name for layer in lost)
            raise EdgepruneError(f"pruning loses fused attention on SM {self.sm}: {names}; {lost[0].why}")

    @property
    def sm(self) -> int:
        return self.graphs["pruned"].sm

    def rows(self) -> Iterator[tuple[str, int, int, int]]:
        """(graph, kernels, fused attention layers, attention layers)"""
        for name, graph in self.graphs.items():
            yield name, len(graph.kernels), graph.fused, len(graph.layers)

    def verdict(self) -> str:
        """What it comes to, in one line."""
        pruned = self.graphs["pruned"]
        of = f"{pruned.fused} of {len(pruned.layers)} attention layers fused"
        if "unpruned" not in self.graphs:
            return f"{of}; the bundle has no unpruned graph to compare with"
        return f"{of}, {self.graphs['unpruned'].fused} without pruning: {len(self.lost) or 'none'} lost"

    def lines(self) -> list[str]:
        """What was asked, and a line for the layers of a graph that are not fused for the same reason."""
        proxy = f", a proxy for {self.target}" if self.proxy else ""
        reasons: dict[tuple[str, str], list[str]] = {}
        for name, graph in self.graphs.items():
            for layer in graph.unfused:
                reasons.setdefault((name, layer.why), []).append(layer.name)
        unfused = [f"{name}, not fused: {', '.join(layers)}; {why}" for (name, why), layers in reasons.items()]
        return [f"as TensorRT-RTX compiles it for SM {self.sm}{proxy}", *unfused]

    def to_json(self) -> dict[str, Any]:
        graphs = {
            name: {
                "kernels": [{"name": kernel.name, "type": kernel.type} for kernel in graph.kernels],
                "layers": [{"name": one.name, "fused": one.fused, "why": one.why} for one in graph.layers],
            }
            for name, graph in self.graphs.items()
        }
        return {"target": self.target, "sm": self.sm, "proxy": self.proxy, "passed": not self.lost, "graphs": graphs}


def audit_bundle(
    folder: Path,
    target: str | None = None,
    sm: int | None = None,
    show: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> FusionAudit:
    """GraphAudit the pruned graph of a bundle, and the unpruned one where it has that.

    target, sm: None takes the bundle's target, and of its SMs the one that TensorRT-RTX can speak for

    Raises RequestError when the target runs no TensorRT or the SM is unknown, MissingPackageError without the package.
    """
    opened = bundle.load(folder)
    device = find_target(opened, target)
    if device.engine.kind == "onnxruntime":
        raise RequestError(f"{device.name} runs ONNX Runtime, which has no such kernels; name a --target with TensorRT")
    check_batch(opened)
    proxy = device.engine.kind != "tensorrt-rtx"
    if sm is None:
        own = () if proxy or device.gpu is None else device.gpu.sm
        sm = PROXY_SM if proxy or PROXY_SM in own else own[0]
    paths = {"pruned": opened.graph(bundle.ENCODER)}
    if "unpruned" in opened.baselines:
        paths["unpruned"] = opened.baselines["unpruned"]
    graphs = {}
    for at, (name, path) in enumerate(paths.items()):
        show(at, len(paths), f"compile the {name} graph")
        graphs[name] = audit(path, sm)
    return FusionAudit(device.name, proxy, graphs)


def audit(path: Path, sm: int = PROXY_SM) -> GraphAudit:
    """What TensorRT-RTX compiles a graph to, for one SM.

    Raises RequestError when it does not know the SM, EdgepruneError when it cannot read or build the graph.
    """
    trt = load_rtx()
    choose_sm(trt, [sm])
    compiler = Compiler(trt, path, keep=VERBOSE)
    compiler.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    compiler.target_sm([sm])
    readers = _softmax_readers(trt, compiler.network)
    compiler.build()
    return read(compiler.messages, readers, sm)


def read(messages: list[str], attention: dict[str, str], sm: int) -> GraphAudit:
    """The audit that a builder's messages hold; `attention` is softmax node -> why it may not be fused.

    Raises EdgepruneError when they list no kernels.
    """
    listed = next((text for text in messages if text.startswith("Layers:")), None)
    kernels = tuple(_kernels(listed or ""))
    if not kernels:
        raise EdgepruneError("TensorRT-RTX listed no kernels, so there is nothing to audit; is it a release after 1.7?")
    inside = {node for kernel in kernels if kernel.attends for node in kernel.nodes}
    layers: dict[str, Layer] = {}
    for node, why in attention.items():
        name, fused = node.rpartition("/")[0], node in inside
        before = layers.get(name, Layer(name, True, ""))
        layers[name] = Layer(name, before.fused and fused, before.why or ("" if fused else why))
    return GraphAudit(sm, kernels, tuple(layers.values()))


def _kernels(text: str) -> Iterator[Kernel]:
    for line in text.splitlines():
        kernel = _KERNEL.match(line.removeprefix("Layers:").strip())
        if kernel and kernel[2] not in CONTROL:
            yield Kernel(kernel[1], kernel[2], tuple(_NODE.findall(line)))


_KERNEL = re.compile(r"Name: (.+?), LayerType: ([^,]+),")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def _softmax_readers(trt: Any, network: Any) -> dict[str, str]:
    """Softmax node of the encoder -> why it may not be fused."""
    layers = [network.get_layer(at) for at in range(network.num_layers)]
    readers: dict[str, list[Any]] = {}
    for layer in layers:
        for at in range(layer.num_inputs):
            if (tensor := layer.get_input(at)) is not None:
                readers.setdefault(tensor.name, []).append(layer)
    passing = {trt.LayerType.CAST, trt.LayerType.SHUFFLE, trt.LayerType.IDENTITY}

    def read_by(layer: Any) -> Iterator[Any]:
        """Whoever reads the values of a layer, seen through casts and reshapes."""
        for reader in readers.get(layer.get_output(0).name, []):
            if reader.type in passing:
                yield from read_by(reader)
            else:
                yield reader

    reasons = {}
    for layer in layers:
        if layer.type == trt.LayerType.SOFTMAX and not layer.name.startswith(SELECTION):
            name = layer.name.rpartition("/")[0]
            others = [reader.name for reader in read_by(layer) if reader.name.rpartition("/")[0] != name]
            if others:
                why = f"its map is read by {', '.join(others)} too"
            elif layer.get_output(0).dtype == trt.float32:
                why = "float32; the builder fuses 16-bit attention only"
            else:
                why = "the builder does not say why"
            reasons[layer.name] = why
    return reasons
