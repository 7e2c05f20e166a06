"""float16 ends at 65504: a graph that goes beyond is refused, and a builder that chooses it is told where not to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch_file

from edgeprune import bundle, targets
from edgeprune.errors import ModelError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.engine import load_rtx, open_parser
from edgeprune.export.ranges import beyond_float16, check_range, range_warnings
from tests.covering import always

MakeFolder = Callable[..., Path]
WHERE = "encoder.encoder.layers.2"


@pytest.fixture(scope="module")
def loud(clip_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every weight fits float16; the residual of two layers together does not, as SigLIP 2's and InternViT's."""
    folder = clip_folder(tmp_path_factory.mktemp("models") / "loud")
    tensors = load_file(folder / "model.safetensors")
    for layer in (0, 2):
        name = next(one for one in tensors if one.endswith(f"layers.{layer}.mlp.fc2.bias"))
        tensors[name] = torch.zeros(32).index_fill_(0, torch.tensor([3]), 6e4)
    save_torch_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def requested(model: Path, target: str, output: Path, **options: str) -> Request:
    return Request("divprune", target, keep=9, model=str(model), output=output, baselines=False, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_case_weak_fp16_a_graph_of_float16_is_refused_with_the_layer_and_the_way_out(
    loud: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=rf"values at {WHERE} must stay .* reach 1\.2e\+05; .* --precision float32"):
        export_bundle(requested(loud, "jetson-orin", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert export_bundle(requested(loud, "jetson-orin", tmp_path / "out", precision="float32")).reports[0].passed


@pytest.fixture(scope="module", params=always(["jetson-orin-jp60", "jetson-orin-jp51"]))
def weak(loud: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Exported:
    return export_bundle(requested(loud, request.param, tmp_path_factory.mktemp("weak") / "out"))


def test_case_weak_fp16_a_builder_that_chooses_float16_is_kept_from_these_layers(weak: Exported) -> None:
    done, nodes = weak, weak.manifest.float32_nodes
    graph = [str(node.name) for node in ir.load(done.folder / "encoder.onnx").graph]
    assert [name for name in graph if name in nodes] == list(nodes)  # once each, as they stand in the ONNX
    assert "encoder.encoder.layers.0.mlp.fc2/Add" in nodes  # gives the first large value
    assert any(name.startswith("encoder.encoder.layers.3.layer_norm1/LayerNormalization") for name in nodes)  # reads it
    assert not any("self_attn" in name or "fc1" in name for name in nodes)  # behind a norm all is well
    assert any(f"{len(nodes)} nodes of the graph, the first of them {nodes[0]}" in one for one in done.warnings)
    script = (done.folder / "build.sh").read_text()
    assert f"{nodes[0]}:fp32,{nodes[1]}:fp32" in script
    assert f"float16 ends at 65504: {len(nodes)}." in (done.folder / "README.md").read_text()
    assert bundle.load(done.folder).manifest.float32_nodes == nodes
    assert not [path.name for path in done.folder.iterdir() if path.name.startswith(".")]


def test_layers_of_nvidias_parser_are_called_like_the_nodes_of_the_graph(weak: Exported) -> None:
    """As far as the parser of TensorRT-RTX stands for that of TensorRT 8."""
    pytest.importorskip("tensorrt_rtx")
    _, network, parser = open_parser(load_rtx())
    assert parser.parse_from_file(str(weak.folder / "encoder.onnx"))
    layers = {network.get_layer(at).name for at in range(network.num_layers)}
    assert set(weak.manifest.float32_nodes) <= layers


def test_what_comes_near_the_end_is_a_warning() -> None:
    orin, turing = targets.load("jetson-orin"), targets.load("rtx-turing")
    near = {"encoder.layers.1": 4e4, "encoder.layers.0": 3.0}
    check_range(near, "float16", orin, "model")
    (warning,) = range_warnings(near, "float16", (), orin)
    assert "values at encoder.layers.1 reach 4e+04" in warning
    assert range_warnings(near, "float32", (), orin) == ()
    assert range_warnings({"encoder.layers.0": 3.0}, "float16", (), orin) == ()
    for beyond in (7e4, float("inf"), float("nan")):
        with pytest.raises(ModelError, match=r"model: values at a must .*; choose another --target"):
            check_range({"a": beyond}, "float16", turing, "model")
        check_range({"a": beyond}, "float32", turing, "model")


def test_squares_and_constants_count_and_infinities_do_not(tmp_path: Path) -> None:
    x = ir.Value(name="pixel_values", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    low = ir.Value(name="low", const_value=ir.tensor(np.array([-3e38, -np.inf], np.float32)))
    far = ir.Value(name="far", const_value=ir.tensor(np.array([-np.inf, np.inf], np.float32)))
    nodes = [
        ir.node("Mul", [x, x], name="square"),
        ir.node("Add", [x, low], name="masked"),
        ir.node("Add", [x, far], name="infinite"),
        ir.node("Neg", [x], name="small"),
    ]
    for node in nodes:
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = node.name, x.shape, ir.DataType.FLOAT
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=[low, far], opset_imports={"": 17}, name="graph")
    ir.save(ir.Model(graph, ir_version=8), tmp_path / "encoder.onnx")
    save_file(
        {f"{probe}/pixel_values": np.array([high, 1], np.float32) for probe, high in (("a", 200), ("b", 1))},
        tmp_path / "reference",
    )
    assert beyond_float16(tmp_path / "encoder.onnx", tmp_path / "reference") == ("square", "masked")
