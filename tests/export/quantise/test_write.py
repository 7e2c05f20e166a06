"""The graph that is written: what it computes is what torch's arithmetic says, and it is readable."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export.graph import to_onnx
from edgeprune.export.quantise.arithmetic import affine_of, fake, fake_weight
from edgeprune.export.quantise.plan import DISABLED
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.write import write_quantised
from edgeprune.runtime.backends.ort import open_session

RANGES = {"first": (-3.0, 4.0), "second": (-3.0, 4.0), "last": (0.0, 5.0)}
EXACT = 1e-5
"""of the largest: the same integers, summed in another order of floats"""
SCHEMES = [
    Scheme("int8", "u8", "float32"),
    Scheme("int8", "s8", "float32"),
    Scheme("int8", "s8", "float16"),
    Scheme("fp8", "f8e4m3", "float32"),
    Scheme("int8-dynamic", "u8", "float32"),
]


class Module(nn.Module):
    """Two products of one input, and a third of what they give."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 6), nn.Linear(8, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.last(torch.relu(self.first(x) + self.second(x)))
        return last


def graph_of(scheme: Scheme, shape: tuple[int, ...] = (1, 4, 8)) -> tuple[ir.Model, set[str], Module]:
    module = Module()
    dtype = getattr(torch, scheme.rest)
    model = to_onnx(module.to(dtype), torch.zeros(shape, dtype=dtype), ["y"], opset=18, ir_version=10)
    return model, write_quantised(model, RANGES, scheme), copy.deepcopy(module).float()


def by_hand(module: Module, x: Tensor, scheme: Scheme) -> Tensor:
    dtype = getattr(torch, scheme.rest)

    def product(part: nn.Linear, x: Tensor, name: str) -> Tensor:
        low, high = (float(x.min()), float(x.max())) if scheme.dynamic else RANGES[name]
        affine = affine_of(low, high, scheme.activations, dtype)
        return nn.functional.linear(fake(x, affine), fake_weight(part.weight, scheme.weights, dtype), part.bias)

    sum_ = product(module.first, x, "first") + product(module.second, x, "second")
    return product(module.last, torch.relu(sum_), "last")


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda one: f"{one.precision}-{one.activations}-{one.rest}")
def test_the_graph_computes_what_the_arithmetic_says(scheme: Scheme, tmp_path: Path) -> None:
    model, found, module = graph_of(scheme)
    assert found == set(RANGES)
    ir.save(model, tmp_path / "graph.onnx")
    session = open_session(tmp_path / "graph.onnx", disabled=DISABLED[scheme.activations])
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    (got,) = session.run({"pixel_values": x.numpy().astype(scheme.rest)}).values()
    with torch.inference_mode():
        wanted = by_hand(module, x, scheme).numpy()
    exact = EXACT if scheme.rest == "float32" else 2e-2  # of float16, and a rounding that it turns
    assert np.abs(got - wanted).max() <= exact * np.abs(wanted).max()


def test_seven_bit_weights_give_the_same_in_integers(tmp_path: Path) -> None:
    """As ONNX Runtime computes them on any processor, that of this machine among them."""
    model, _, _ = graph_of(SCHEMES[0], (1, 64, 8))
    ir.save(model, tmp_path / "graph.onnx")
    x = 40 * torch.ones(1, 64, 8)  # all at the end of their range, where sums are the largest
    names = {"integers": ["MatMulAddFusion"], "floats": ["QDQSelectorActionTransformer", "MatMulAddFusion"]}
    got = {
        name: open_session(tmp_path / "graph.onnx", disabled=disabled).run({"pixel_values": x.numpy()})["y"]
        for name, disabled in names.items()
    }
    assert np.abs(got["integers"] - got["floats"]).max() <= EXACT * np.abs(got["floats"]).max()


def test_products_of_one_tensor_share_its_quantisation() -> None:
    model, _, _ = graph_of(SCHEMES[0])
    kinds = Counter(node.op_type for node in model.graph)
    assert (kinds["QuantizeLinear"], kinds["MatMul"]) == (2, 3)
    assert kinds["DequantizeLinear"] == 2 + 3


def test_weights_are_stored_in_eight_bits_for_each_output_channel() -> None:
    model, _, _ = graph_of(SCHEMES[1])
    stored = {name: value for name, value in model.graph.initializers.items() if name.endswith(".s8")}
    assert sorted(stored) == ["first.weight.T.s8", "last.weight.T.s8", "second.weight.T.s8"]
    for name, value in stored.items():
        assert value.dtype == ir.DataType.INT8
        assert value.shape is not None
        scale = model.graph.initializers[name.replace(".s8", ".scale")]
        assert scale.shape == value.shape[1:]
        (reader,) = (use.node for use in value.uses())
        assert (reader.op_type, reader.attributes.get_int("axis", 0)) == ("DequantizeLinear", 1)
    assert not any(name.endswith(".weight.T") for name in model.graph.initializers)


def test_nodes_keep_their_names_and_every_value_its_shape_and_type() -> None:
    model, _, _ = graph_of(SCHEMES[0])
    names = [str(node.name) for node in model.graph]
    assert {"first/MatMul", "second/MatMul", "last/MatMul"} <= set(names)
    assert len(set(names)) == len(names)
    for node in model.graph:
        assert all(value.shape is not None and value.dtype is not None for value in node.outputs)


def test_a_product_of_two_dimensions_is_quantised_too(tmp_path: Path) -> None:
    model, found, module = graph_of(SCHEMES[0], (4, 8))
    assert found == set(RANGES)
    assert "Gemm" not in {node.op_type for node in model.graph}
    ir.save(model, tmp_path / "graph.onnx")
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    (got,) = (
        open_session(tmp_path / "graph.onnx", disabled=["MatMulAddFusion"]).run({"pixel_values": x.numpy()}).values()
    )
    with torch.inference_mode():
        wanted = by_hand(module, x, SCHEMES[0]).numpy()
    assert np.abs(got - wanted).max() <= EXACT * np.abs(wanted).max()


@pytest.mark.parametrize(("scheme", "opset"), [(SCHEMES[1], 18), (SCHEMES[2], 19), (SCHEMES[3], 19)])
def test_the_opset_rises_only_where_the_types_need_it(scheme: Scheme, opset: int) -> None:
    assert graph_of(scheme)[0].opset_imports[""] == opset


def test_what_is_no_product_of_these_names_stays_as_it_is() -> None:
    module = Module()
    model = to_onnx(module, torch.zeros(1, 4, 8), ["y"], opset=18, ir_version=10)
    assert write_quantised(model, {"last": (0.0, 5.0), "absent": (0.0, 1.0)}, SCHEMES[0]) == {"last"}
    assert {"first.weight.T", "second.weight.T"} <= set(model.graph.initializers)
