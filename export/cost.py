"""Multiply-adds: what the formula promises, and what the graph does.

    full layer            S*C*C*(4 + 2r) + 2*S*S*C
    last layer, pruned    S*C*C*2 (keys, values) + (K+q)*C*C (queries) + K*C*C*(1 + 2r) + 2*(K+q)*S*C
    projector             rows * (C*D + D*D)

Steps inside the encoder leave fewer rows to the layers behind them, hidden ones among them, and have a cost of their
own; what is only dropped moves up through the layer in front, as the last layer does.
Where the method drops tokens inside, the layers behind that place have K in place of N, and the scorer's own are
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
from edgeprune.ports import ALIGNED
from edgeprune.pruners import Method, depth_of

__all__ = ["by_layer", "formula", "graph_cost", "tokens_of"]


def formula(encoder: Encoder, method: Method) -> int:
    """Multiply-adds of one image under the method. The patch embedding, norms and the selection itself are left out."""
    if depth_of(method, encoder) is not None:
        rows = method.keep
        if encoder.head is not None:  # a classifier reads its rows side by side
            rows = _read(encoder, method) if encoder.kind == "detections" else 1
        own = method.multiply_adds(encoder.patches)
        return sum(by_layer(encoder, method)) + own + rows * _weights(encoder.projector)
    whole = method.traits.projects_all or method.traits.keeps_all
    tower, rows = encoder.tower, encoder.candidates if whole else method.keep
    if encoder.head is not None:
        rows = len(encoder.head.rows) + encoder.head.mean
    if encoder.pooling is not None:
        rows = prod(tower.grid)
    extras = method.keep * sum(_weights(projector) for _, projector in encoder.extras.values())
    joint, before = 0, tower.before_cost
    if encoder.aligner is not None and method.space == ALIGNED:
        joint = encoder.candidates * _weights(encoder.aligner)
    if encoder.keyer is not None:
        joint += encoder.candidates * _weights(encoder.keyer.k_proj)
    return before + sum(by_layer(encoder, method)) + rows * _weights(encoder.projector) + extras + joint


def by_layer(encoder: Encoder, method: Method) -> list[int]:
    """Of each layer in front of the features; a step inside the encoder, and what is computed for it, counts for the
    layer in front of it."""
    if (depth := depth_of(method, encoder)) is not None:
        return _inside(encoder, method, depth)
    tower = encoder.tower
    each = 1 if encoder.groups is None else encoder.groups.shape[1]
    width, mlp = tower.width, 2 * tower.width * tower.mlp_width
    counts = tokens_of(encoder, method)
    windows = [getattr(module, WINDOWS, [count]) for module, count in zip(tower.attention, counts, strict=False)]
    layers = [
        count * (4 * width * width + mlp) + 2 * sum(size * size for size in sizes) * width
        for count, sizes in zip(counts, windows, strict=True)
    ]
    layers, tokens = _stepped(encoder, layers, counts), counts[-1]
    moves = encoder.pooling is None and method.traits.early
    if moves and method.keep < encoder.candidates and len(windows[-1]) == 1:
        kept, asked = method.keep * each, method.traits.query_rows
        queries = tokens if asked is None else kept + asked
        layers[-1] = 2 * tokens * width * width + queries * width * width
        layers[-1] += 2 * (kept + (asked or 0)) * tokens * width + kept * (width * width + mlp)
    if method.traits.query_rows is None:
        for layer in method.layers(encoder.layer):
            layers[layer] += tokens * tokens * width  # the maps that it reads
    return layers


def tokens_of(encoder: Encoder, method: Method) -> list[int]:
    """How many each layer sees, special tokens and hidden rows among them."""
    tower, steps = encoder.tower, () if encoder.inside is None else encoder.inside.steps
    special, rows = tower.prefix + tower.suffix, [prod(tower.grid)] * encoder.layer
    for step in steps:
        assert encoder.inside is not None
        left = (step.keep + encoder.inside.reducer.hidden) * encoder.unit
        rows[step.layer :] = [left] * (encoder.layer - step.layer)
    if (depth := depth_of(method, encoder)) is not None:
        rows[depth:] = [method.keep] * (encoder.layer - depth)
    return [count + special for count in rows]


def _stepped(encoder: Encoder, layers: list[int], counts: list[int]) -> list[int]:
    """Multiply-adds by layer, with those of the steps added to the layer in front."""
    if (inside := encoder.inside) is None:
        return layers
    tower, width = encoder.tower, encoder.tower.width
    mlp = 2 * width * tower.mlp_width
    costs = list(layers)
    for step in inside.steps:
        at, count = step.layer - 1, counts[step.layer - 1]
        if inside.reducer.early:  # known before its queries, so that these and what follows are for few rows
            kept = counts[step.layer]
            asked = count if inside.reducer.reads_maps else kept
            costs[at] = (2 * count + asked + kept) * width * width + kept * mlp + 2 * kept * count * width
        rows = (count - tower.prefix - tower.suffix) // encoder.unit
        costs[at] += inside.reducer.multiply_adds(step, rows, width, tower.heads)
    return costs


def _inside(encoder: Encoder, method: Method, depth: int) -> list[int]:
    """Of each layer, of a method that drops behind `depth` of them."""
    tower, width = encoder.tower, encoder.tower.width
    mlp, special = 2 * width * tower.mlp_width, tower.prefix + tower.suffix
    tokens = tokens_of(encoder, method)
    layers = [each * (4 * width * width + mlp) + 2 * each * each * width for each in tokens]
    if encoder.head is not None:
        read, last = _read(encoder, method), tokens[-1]
        layers[-1] = 2 * last * width * width + read * (2 * width * width + mlp) + 2 * read * last * width
    for layer in method.layers(encoder.layer):
        if layer == depth - 1:  # its queries are known before the rest of it runs, so that this is for the kept alone
            every, kept = tokens[layer], method.keep + special
            layers[layer] = 3 * every * width * width + kept * (width * width + mlp) + 2 * kept * every * width
        layers[layer] += tokens[layer] ** 2 * width
    return layers


def _read(encoder: Encoder, method: Method) -> int:
    """Rows that the head reads of a method that drops inside."""
    assert encoder.head is not None
    return len(encoder.head.rows) + (method.keep if encoder.head.mean else 0)


def _weights(projector: nn.Module) -> int:
    """Multiply-adds of one row."""
    return sum(part.weight.numel() for part in projector.modules() if isinstance(part, nn.Linear))


def graph_cost(graph: ir.Graph) -> int:
    """Multiply-adds of the graph's matrix products and convolutions for one run (a free batch counts as 1).

    The body of a Scan counts as often as it runs. Raises EdgepruneError when an operator's cost is not known.
    """
    total = 0
    for node in graph:
        if node.op_type in ("MatMul", "MatMulInteger", "Gemm"):
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
