"""Inputs for DeepStack in a decoder of onnxruntime-genai's model builder, which leaves them out.

    Before    hidden + mlp ---------------> norm of the next layer
    After     hidden + (mlp + deepstack_0) -> norm of the next layer        behind the first layer, and so on

`deepstack_0` and on are [1, S, D], zero where no image is; or [1, 1, D] of zeros. transformers adds to the sum, which
differs by the rounding of one addition.

Source  transformers Qwen3VLTextModel._deepstack_process
"""

from __future__ import annotations

import onnx_ir as ir

from edgeprune.errors import ModelError
from edgeprune.runtime.generate.decoder import DEEPER

__all__ = ["add_deepstack"]

EMBEDS = "inputs_embeds"


def add_deepstack(decoder: ir.Model, layers: int) -> None:
    """Give a decoder an input behind each of its first `layers` layers.

    Raises ModelError when it has not the layers, or other ones than the builder of onnxruntime-genai 0.18 makes.
    """
    graph = decoder.graph
    embeds = next(value for value in graph.inputs if value.name == EMBEDS)
    width = embeds.shape[2] if embeds.shape else None
    for layer in range(layers):
        norm = _behind(graph, layer)
        if width is None or norm is None or norm.inputs[1] is None:
            raise ModelError(
                f"layer {layer} of the decoder must end in a SkipSimplifiedLayerNormalization of two sums, as "
                "onnxruntime-genai 0.18 builds it, for features that go behind it (DeepStack); use that release"
            )
        mlp = norm.inputs[1]
        dtype = mlp.dtype or embeds.dtype
        assert dtype is not None
        extra = ir.val(f"{DEEPER}{layer}", dtype, ir.Shape([1, "deepstack_length", width]))
        graph.inputs.append(extra)
        both = ir.node("Add", [mlp, extra], name=f"/model/layers.{layer}/deepstack/Add")
        both.outputs[0].name, both.outputs[0].dtype, both.outputs[0].shape = f"{both.name}/output_0", dtype, mlp.shape
        norm.replace_input_with(1, both.outputs[0])
        graph.insert_before(norm, both)


def _behind(graph: ir.Graph, layer: int) -> ir.Node | None:
    """The norm that adds what the layer's MLP gives to what went past it."""
    names = (f"/model/layers.{layer + 1}/input_layernorm/", f"/model/layers.{layer + 1}/final_norm_layernorm/")
    lists = [
        node
        for node in graph
        if node.op_type == "SkipSimplifiedLayerNormalization" and (node.name or "").startswith(names)
    ]
    return lists[0] if len(lists) == 1 else None
