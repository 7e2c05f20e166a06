"""What a pruned encoder is measured against, as graphs that travel in the bundle.

unpruned   the same layers and projector, fused attention, all N tokens
official   the official code exported as it is written: eager attention, everything projected, selection last (not
           where it is made of what ONNX does not have, or steps inside the encoder shorten the sequence)
pool       features averaged over K cells, then projected: the plain way to K tokens
           (in front of a head, and for what drops tokens inside the encoder, neither of these two: the paper's own
           count of tokens is not static, and averaging behind the encoder changes nothing that a head reads)
matmul     one large matrix product: the most multiply-adds per second that this machine and backend reach
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import onnx_ir as ir
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.pruners import Method, depth_of, none, pool
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder, outputs

__all__ = ["MATMUL_SIDE", "baselines"]

MATMUL_SIDE = 2048
"""2048^3 multiply-adds: a tenth of a second on two CPU cores, far above any launch overhead on a GPU"""


class ToOnnx(Protocol):
    def __call__(
        self,
        module: nn.Module,
        names: Sequence[str],
        hoisted: bool = True,
        *,
        others: Mapping[str, Tensor] | None = None,
    ) -> ir.Model: ...


def baselines(
    encoder: Encoder, method: Method, pixels: nn.Module, to_onnx: ToOnnx, images: int = 1, pooled: int = 1
) -> dict[str, ir.Model]:
    """Name -> graph. `to_onnx(module, outputs, hoisted, others=)` exports with the settings of the bundle's own graph.

    images: of one run; pooled: how many tiles are one pool of candidates; average pooling keeps as many of each
    """
    within = encoder.inside is not None or depth_of(method, encoder) is not None
    whole, every = unpruned(encoder)
    graphs = {}
    if not within and method.traits.official_in_onnx:
        given = encoder.blank(encoder.ports(method.ports), images)
        official = OfficialEncoder(encoder, method, pixels)
        graphs["official"] = to_onnx(official, outputs(encoder, method), False, others=given)

    def pruned(other: Method) -> ir.Model:
        return to_onnx(PrunedEncoder(whole, other, pixels), outputs(whole, other), True)

    if not method.traits.keeps_all:
        graphs["unpruned"] = pruned(every)
        if not whole.headed and not method.traits.inside and not isinstance(method, pool.Method):
            graphs["pool"] = pruned(pool.Method(max(1, method.keep // pooled)))
    return graphs


def unpruned(encoder: Encoder) -> tuple[Encoder, Method]:
    """The encoder without steps inside, and what keeps all of its patches."""
    return dataclasses.replace(encoder, inside=None, prior=None), none.Method(encoder.patches)


def matmul(dtype: str, opset: int, ir_version: int) -> ir.Model:
    """product [M, M] = pixel_values [M, M] x weight [M, M]; the weight is a constant that takes no room on disk."""
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    side = [MATMUL_SIDE, MATMUL_SIDE]
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["side"], ["weight"], value=helper.make_tensor("value", element, [1], [0.5])
        ),
        helper.make_node("MatMul", ["pixel_values", "weight"], ["product"]),
    ]
    graph = helper.make_graph(
        nodes,
        "matmul",
        [helper.make_tensor_value_info("pixel_values", element, side)],
        [helper.make_tensor_value_info("product", element, side)],
        [helper.make_tensor("side", TensorProto.INT64, [2], side)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return ir.from_proto(model)
