"""What lies between an encoder and its decoder: the text's embedding, with the tokens of the images in their places.

    input_ids  [B, L] int64 ----> Gather(table) -> Cast -> (* scale) -------\\
               \\---> == image id -> NonZero -> Transpose [n, 2] -> Slice --> ScatterND -> inputs_embeds [B, L, D]
    image_features [b, n, D] ---> Reshape [n, D] -> Cast ------------------/

In raster order, as torch's masked_scatter. image_features are what an encoder gives, of one image or of several.
Behind the prompt it is empty: the image's id, should the decoder ever say it, is a word like others then (Slice), as it
is to transformers. Within a prompt, more ids than tokens fail. The table keeps the checkpoint's dtype, and what comes
out has the decoder's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgeprune.export.storage import save_graphs

__all__ = ["identity", "text_and_images", "write_graph"]

OPSET, IR_VERSION = 18, 10
ENDS = {"first": 0, "none": 0, "all": np.iinfo(np.int64).max}
"""constants of Slice"""
TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


def text_and_images(table: Tensor, image: int, scale: float, features: str, dtype: str) -> ir.Model:
    """The graph of embedding.onnx.

    table: [V, D]; image: id in whose places image_features go; scale: of the table's rows, not of the images'
    features, dtype: float32 or float16, of image_features and of inputs_embeds
    """
    width = table.shape[1]
    nodes: list[ir.Node] = []

    def node(op: str, *inputs: ir.Value | None, **attributes: int | list[int]) -> ir.Value:
        made = ir.node(op, list(inputs), attributes or None, name=f"{op}_{len(nodes)}")
        nodes.append(made)
        return made.outputs[0]

    def cast(value: ir.Value, given: ir.DataType) -> ir.Value:
        return value if given == TYPES[dtype] else node("Cast", value, to=int(TYPES[dtype]))

    ids = ir.val("input_ids", ir.DataType.INT64, ["batch", "length"])
    given = ir.val("image_features", TYPES[features], ["images", "tokens", width])
    weights = _initializer("embedding", table)
    assert weights.dtype is not None
    text = cast(node("Gather", weights, ids), weights.dtype)
    constants = [weights, image_id := _initializer("image_id", np.array(image, np.int64))]
    if scale != 1:
        constants.append(factor := _initializer("scale", np.array(scale, dtype)))
        text = node("Mul", text, factor)
    constants.append(rows := _initializer("rows", np.array([-1, width], np.int64)))
    places = node("Transpose", node("NonZero", node("Equal", ids, image_id)), perm=[1, 0])
    tokens = cast(node("Reshape", given, rows), TYPES[features])
    first, none, all_of_them = (_initializer(name, np.array([to], np.int64)) for name, to in ENDS.items())
    constants += [first, none, all_of_them]
    empty = node("Equal", node("Shape", tokens, start=0, end=1), none)
    places = node("Slice", places, first, node("Where", empty, none, all_of_them), first)
    out = node("ScatterND", text, places, tokens)
    out.name, out.dtype, out.shape = "inputs_embeds", TYPES[dtype], ir.Shape(["batch", "length", width])
    return _model("embedding", [ids, given], [out], nodes, constants)


def identity(width: int, features: str) -> ir.Model:
    """image_tokens [b, n, D] -> image_features [b, n, D]: for an engine that wants to run a vision model."""
    given = ir.val("image_tokens", TYPES[features], ["images", "tokens", width])
    made = ir.node("Identity", [given])
    out = made.outputs[0]
    out.name, out.dtype, out.shape = "image_features", TYPES[features], ir.Shape(["images", "tokens", width])
    return _model("tokens", [given], [out], [made], [])


def write_graph(model: ir.Model, path: Path) -> None:
    """Large weights go into a file beside it, `<path>.data`."""
    save_graphs(path.parent, {path.name.removesuffix(".onnx"): model})


def _initializer(name: str, values: Tensor | np.ndarray) -> ir.Value:
    if isinstance(values, Tensor):
        wide = values.to(torch.float32) if values.dtype not in (torch.float32, torch.float16) else values
        values = wide.numpy()
    return ir.Value(
        name=name, const_value=ir.tensor(values, name=name), type=ir.TensorType(ir.tensor(values).dtype),
        shape=ir.Shape(values.shape),
    )  # fmt: skip


def _model(
    name: str, inputs: list[ir.Value], outputs: list[ir.Value], nodes: list[ir.Node], constants: list[ir.Value]
) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports={"": OPSET}, name=name)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgeprune")
