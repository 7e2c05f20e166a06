"""Multiply-adds: what the formula promises, and what the graph does.

    full layer            S*C*C*(4 + 2r) + 2*S*S*C
    last layer, pruned    S*C*C*2 (keys, values) + (K+q)*C*C (queries) + K*C*C*(1 + 2r) + 2*(K+q)*S*C
    projector             rows * (C*D + D*D)

C encoder width, r its MLP ratio, S tokens with the special ones, K kept, q query rows the score needs beside them.
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir
from torch import nn

from edgeprune.encoders import Encoder
from edgeprune.errors import EdgepruneError
from edgeprune.pruners import Method

__all__ = ["formula", "graph_cost"]


def formula(encoder: Encoder, method: Method) -> int:
    """Multiply-adds of one image under the method. The patch embedding, norms and the selection itself are left out."""
    tower = encoder.tower
    tokens, width = encoder.patches + tower.prefix, tower.width
    mlp = 2 * width * tower.mlp_width
    full_layer = tokens * (4 * width * width + mlp) + 2 * tokens * tokens * width
    last_layer, rows = full_layer, encoder.patches if method.traits.projects_all else method.keep
    if method.traits.early and method.keep < encoder.patches:
        queries = method.keep + method.traits.query_rows
        last_layer = 2 * tokens * width * width + queries * width * width + 2 * queries * tokens * width
        last_layer += method.keep * (width * width + mlp)
    projector = sum(part.weight.numel() for part in encoder.projector.modules() if isinstance(part, nn.Linear))
    return (encoder.layer - 1) * full_layer + last_layer + rows * projector


def graph_cost(graph: ir.Graph) -> int:
    """Multiply-adds of the graph's matrix products and convolutions for one run (a free batch counts as 1)."""
    total = 0
    for node in graph:
        if node.op_type in ("MatMul", "Gemm"):
            left = _sizes(node.inputs[0])
            inner = left[-2] if node.op_type == "Gemm" and node.attributes.get_int("transA", False) else left[-1]
            total += prod(_sizes(node.outputs[0])) * inner
        elif node.op_type == "Conv":
            total += prod(_sizes(node.outputs[0])) * prod(_sizes(node.inputs[1])[1:])
        elif node.op_type in ("Einsum", "ConvTranspose"):
            raise EdgepruneError(f"the cost of {node.op_type} ({node.name}) is not known")
    return total


def _sizes(value: ir.Value | None) -> list[int]:
    assert value is not None
    assert value.shape is not None
    return [size if isinstance(size, int) else 1 for size in value.shape]
