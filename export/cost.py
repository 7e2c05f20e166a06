"""Multiply-adds: what the formula promises, and what the graph does.

    full layer            S*C*C*(4 + 2r) + 2*S*S*C
    last layer, pruned    S*C*C*2 (keys, values) + (K+q)*C*C (queries) + K*C*C*(1 + 2r) + 2*(K+q)*S*C
    projector             rows * (C*D + D*D)

Where tokens are dropped inside the encoder, the layers behind that place have K in place of N, and the scorer's own are
added; the last layer in front of a head has the queries of the rows that it reads alone.
A layer that attends in windows has the sum of their squares in place of S*S, and is not pruned; a method that reads
whole maps has S*S*C for each. C encoder width, r its MLP ratio, S tokens with the special ones, K kept, q query rows
the score needs beside them.
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir
from torch import nn

from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import WINDOWS
from edgeprune.errors import EdgepruneError
from edgeprune.pruners import Method, depth_of

__all__ = ["formula", "graph_cost"]


def formula(encoder: Encoder, method: Method) -> int:
    """Multiply-adds of one image under the method. The patch embedding, norms and the selection itself are left out."""
    if (depth := depth_of(method, encoder.layer, encoder.headed)) is not None:
        return _inside(encoder, method, depth)
    tower = encoder.tower
    patches, each = prod(tower.grid), 1 if encoder.groups is None else encoder.groups.shape[1]
    tokens, width = patches + tower.prefix, tower.width
    mlp = 2 * width * tower.mlp_width
    windows = [getattr(module, WINDOWS, [tokens]) for module in tower.attention[: encoder.layer]]
    layers = [tokens * (4 * width * width + mlp) + 2 * sum(size * size for size in sizes) * width for sizes in windows]
    rows = encoder.patches if method.traits.projects_all else method.keep
    if encoder.pooling is not None:
        rows = patches
    elif method.traits.early and method.keep < encoder.patches and len(windows[-1]) == 1:
        kept, asked = method.keep * each, method.traits.query_rows
        queries = tokens if asked is None else kept + asked
        layers[-1] = 2 * tokens * width * width + queries * width * width
        layers[-1] += 2 * (kept + (asked or 0)) * tokens * width + kept * (width * width + mlp)
    if method.traits.query_rows is None:
        layers += [tokens * tokens * width for _ in method.layers(encoder.layer)]  # the maps that it reads
    extras = method.keep * sum(_weights(projector) for _, projector in encoder.extras.values())
    total: int = sum(layers) + rows * _weights(encoder.projector) + extras
    return total


def _inside(encoder: Encoder, method: Method, depth: int) -> int:
    tower, width = encoder.tower, encoder.tower.width
    mlp, special = 2 * width * tower.mlp_width, tower.prefix + tower.suffix
    tokens = [(encoder.patches if layer < depth else method.keep) + special for layer in range(encoder.layer)]
    layers = [each * (4 * width * width + mlp) + 2 * each * each * width for each in tokens]
    rows = method.keep
    if encoder.head is not None:
        read, last = len(encoder.head.rows) + (method.keep if encoder.head.mean else 0), tokens[-1]
        layers[-1] = 2 * last * width * width + read * (2 * width * width + mlp) + 2 * read * last * width
        rows = read if encoder.kind == "detections" else 1  # a classifier reads its rows side by side
    maps = 0
    for layer in method.layers(encoder.layer):
        maps += tokens[layer] ** 2 * width
        if layer == depth - 1:  # its queries are known before the rest of it runs, so that this is for the kept alone
            every, kept = tokens[layer], method.keep + special
            layers[layer] = 3 * every * width * width + kept * (width * width + mlp) + 2 * kept * every * width
    return sum(layers) + maps + method.multiply_adds(encoder.patches) + rows * _weights(encoder.projector)


def _weights(projector: nn.Module) -> int:
    """Multiply-adds of one row."""
    return sum(part.weight.numel() for part in projector.modules() if isinstance(part, nn.Linear))


def graph_cost(graph: ir.Graph) -> int:
    """Multiply-adds of the graph's matrix products and convolutions for one run (a free batch counts as 1).

    The body of a Scan counts as often as it runs. Raises EdgepruneError when an operator's cost is not known.
    """
    total = 0
    for node in graph:
        if node.op_type in ("MatMul", "Gemm"):
            left = _sizes(node.inputs[0])
            inner = left[-2] if node.op_type == "Gemm" and node.attributes.get_int("transA", False) else left[-1]
            total += prod(_sizes(node.outputs[0])) * inner
        elif node.op_type == "Conv":
            total += prod(_sizes(node.outputs[0])) * prod(_sizes(node.inputs[1])[1:])
        elif node.op_type == "Scan":
            total += _steps(node) * graph_cost(node.attributes["body"].as_graph())
        elif node.op_type in ("Einsum", "ConvTranspose", "If", "Loop"):
            raise EdgepruneError(f"the cost of {node.op_type} ({node.name}) is not known")
    return total


def _steps(scan: ir.Node) -> int:
    """How often the body runs: the length of what it runs over, which are the last inputs."""
    axes = scan.attributes.get_ints("scan_input_axes", [0])
    first = len(scan.inputs) - scan.attributes["num_scan_inputs"].as_int()
    shape = None if (value := scan.inputs[first]) is None else value.shape
    steps = None if shape is None else shape[axes[0]]
    if not isinstance(steps, int):
        raise EdgepruneError(f"the cost of Scan ({scan.name}) is not known: it must run over a static dimension")
    return steps


def _sizes(value: ir.Value | None) -> list[int]:
    assert value is not None
    assert value.shape is not None
    return [size if isinstance(size, int) else 1 for size in value.shape]
