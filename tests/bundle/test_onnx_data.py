"""Every place in a model where a tensor may stand is looked at for weights in other files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from edgeprune.bundle.onnx_data import external_files


def tensor(location: str = "w.data") -> TensorProto:
    weight = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="offset", value="location")
    weight.external_data.add(key="location", value=location)
    return weight


def of_graph(graph: GraphProto) -> ModelProto:
    return ModelProto(graph=graph, ir_version=10, producer_name="location")


def of_attribute(attribute: AttributeProto) -> ModelProto:
    return of_graph(GraphProto(node=[NodeProto(op_type="If", attribute=[attribute])]))


def inner() -> GraphProto:
    return GraphProto(node=[NodeProto(attribute=[AttributeProto(name="value", t=tensor())])])


PLACES: dict[str, Callable[[], ModelProto]] = {
    "initializer": lambda: of_graph(GraphProto(initializer=[tensor()])),
    "sparse initializer": lambda: of_graph(GraphProto(sparse_initializer=[SparseTensorProto(values=tensor())])),
    "sparse indices": lambda: of_graph(GraphProto(sparse_initializer=[SparseTensorProto(indices=tensor())])),
    "attribute": lambda: of_attribute(AttributeProto(name="value", t=tensor())),
    "attributes": lambda: of_attribute(AttributeProto(name="values", tensors=[TensorProto(), tensor()])),
    "sparse attribute": lambda: of_attribute(AttributeProto(sparse_tensor=SparseTensorProto(values=tensor()))),
    "sparse attributes": lambda: of_attribute(AttributeProto(sparse_tensors=[SparseTensorProto(values=tensor())])),
    "branch": lambda: of_attribute(AttributeProto(name="then_branch", g=inner())),
    "branches": lambda: of_attribute(AttributeProto(name="branches", graphs=[GraphProto(), inner()])),
    "function": lambda: ModelProto(functions=[FunctionProto(node=[NodeProto(attribute=[AttributeProto(g=inner())])])]),
    "default of a function": lambda: ModelProto(
        functions=[FunctionProto(attribute_proto=[AttributeProto(t=tensor())])]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_weight_is_seen_wherever_it_stands(tmp_path: Path, place: str) -> None:
    (tmp_path / "x.onnx").write_bytes(PLACES[place]().SerializeToString())
    assert external_files(tmp_path / "x.onnx") == {"w.data"}


def test_weights_within_the_file_name_no_other(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.arange(4), "location")
    (tmp_path / "x.onnx").write_bytes(of_graph(GraphProto(initializer=[weight])).SerializeToString())
    assert external_files(tmp_path / "x.onnx") == set()


def test_the_key_may_come_behind_the_value(tmp_path: Path) -> None:
    content = of_graph(GraphProto(initializer=[tensor()])).SerializeToString()
    key, value = b"\x0a\x08location", b"\x12\x06w.data"
    assert content.count(key + value) == 1
    (tmp_path / "x.onnx").write_bytes(content.replace(key + value, value + key))
    assert onnx.load(tmp_path / "x.onnx", load_external_data=False).graph.initializer[0].external_data[1].key
    assert external_files(tmp_path / "x.onnx") == {"w.data"}


@pytest.mark.parametrize(
    "content", [b"", b"\x3a", b"\x3a\x05\x0a", b"\x08" + b"\xff" * 11, b"\x0b", b"\x0d\x00", b"\x08"]
)
def test_what_is_cut_off_or_no_protobuf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"byte|empty"):
        external_files(tmp_path / "x.onnx")


def test_bytes_at_random_end_in_an_answer_or_a_refusal(tmp_path: Path) -> None:
    """What onnx can parse has no weight elsewhere that is not seen."""
    whole, dice = PLACES["branch"]().SerializeToString(), random.Random(0)
    parsed = 0
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        (tmp_path / "x.onnx").write_bytes(content)
        try:
            named = external_files(tmp_path / "x.onnx")
        except ValueError:
            named = None
        try:
            model = onnx.load_model_from_string(bytes(content))
        except Exception:
            continue
        parsed += 1
        entries = [entry for one in tensors(model) for entry in one.external_data if entry.key == "location"]
        assert named is None or {text(entry.value) for entry in entries} <= named
    assert parsed > 100


def text(value: str | bytes) -> str:
    """onnx hands out bytes where they are not UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def tensors(model: ModelProto) -> list[TensorProto]:
    attributes = [one for node in model.graph.node for one in node.attribute]
    return [one.t for outer in attributes for node in outer.g.node for one in node.attribute]
