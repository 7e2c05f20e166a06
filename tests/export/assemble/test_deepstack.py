"""Inputs that are added behind the layers of a decoder, where its norm takes two sums."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgeprune.errors import ModelError
from edgeprune.export.assemble.deepstack import add_deepstack

WIDTH = 4


def decoder(norm: str = "SkipSimplifiedLayerNormalization") -> ir.Model:
    """Two layers that double what goes past, as the builder of onnxruntime-genai names their norms."""
    names = ("layers.1/input_layernorm", "layers.2/final_norm_layernorm")
    one = ir.val("one", ir.DataType.FLOAT, [WIDTH], const_value=ir.tensor(np.ones(WIDTH, np.float32), name="one"))
    inputs = [ir.val("inputs_embeds", ir.DataType.FLOAT, [1, "length", WIDTH])]
    nodes, past = [], inputs[0]
    for at, name in enumerate(names):
        mlp = ir.node("Identity", [past], name=f"/model/layers.{at}/mlp/down_proj/MatMul")
        skip = ir.node(
            norm, [past, mlp.outputs[0], one], domain="com.microsoft", num_outputs=4, name=f"/model/{name}/N"
        )
        nodes += [mlp, skip]
        past = skip.outputs[3]
    past.name, past.dtype, past.shape = "sum", ir.DataType.FLOAT, ir.Shape([1, "length", WIDTH])
    opsets = {"": 18, "com.microsoft": 1}
    graph = ir.Graph(inputs, [past], nodes=nodes, initializers=[one], opset_imports=opsets, name="decoder")
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["sum"], feeds)[0]
    return found


@pytest.mark.parametrize("length", [1, 3], ids=["of one for all", "of each"])
def test_each_is_added_behind_its_layer(length: int) -> None:
    random = np.random.default_rng(0)
    embeds = random.normal(size=(1, 3, WIDTH)).astype(np.float32)
    first, second = (random.normal(size=(1, length, WIDTH)).astype(np.float32) for _ in range(2))
    model = decoder()
    add_deepstack(model, 2)
    found = run(model, inputs_embeds=embeds, deepstack_0=first, deepstack_1=second)
    np.testing.assert_allclose(found, 2 * (2 * embeds + first) + second, rtol=1e-5)


def test_the_layers_behind_stay_as_they_are() -> None:
    model = decoder()
    add_deepstack(model, 1)
    assert [value.name for value in model.graph.inputs] == ["inputs_embeds", "deepstack_0"]


@pytest.mark.parametrize(
    ("norm", "layers", "at"), [("SkipSimplifiedLayerNormalization", 3, 2), ("SkipLayerNorm", 1, 0)]
)
def test_a_decoder_without_such_layers_is_refused(norm: str, layers: int, at: int) -> None:
    with pytest.raises(ModelError, match=f"layer {at} of the decoder must end in a SkipSimplifiedLayerNormalization"):
        add_deepstack(decoder(norm), layers)
