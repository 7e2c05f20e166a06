"""A real bundle, small enough to read: mean-pool the patches, rank them, keep the best.

pixel_values [B, 3, 32, 48] -> 4 x 6 patches of 8 pixels;  score = mean of the patch;  token = its mean colour @ W
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from edgeprune.bundle import MANIFEST, Graph, Manifest, Model, TensorSpec, describe_files

GRID, PATCH, KEEP, WIDTH = (4, 6), 8, 5, 7
SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHT = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
LABELS = ("tench", "grey whale", "Ä", "fox", "cat", "dog", "hen")
"""of a bundle that classifies, WIDTH of them"""
PREPROCESSING = {
    "size": list(SIZE),
    "resize": {"height": SIZE[0], "width": SIZE[1]},
    "resample": 3,
    "crop": None,
    "rescale": 1 / 255,
    "mean": list(MEAN),
    "std": list(STD),
    "convert_rgb": True,
}
MakeBundle = Callable[..., Path]


class Expected(NamedTuple):
    tokens: NDArray[np.float32]
    indices: NDArray[np.int32]
    scores: NDArray[np.float32]


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float32, written without the runtime."""
    unit = (images.astype(np.float64) / 255).astype(np.float32)
    values = (unit - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def expected(values: NDArray[Any]) -> Expected:
    """What the graph computes, in numpy: [B, 3, H, W] -> its outputs."""
    batch = len(values)
    patches = values.astype(np.float32).reshape(batch, 3, GRID[0], PATCH, GRID[1], PATCH).mean((3, 5))
    patches = patches.reshape(batch, 3, -1).transpose(0, 2, 1)
    scores = patches.mean(2)
    indices = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :KEEP], axis=1).astype(np.int32)
    return Expected(np.take_along_axis(patches, indices[..., None], 1) @ WEIGHT, indices, scores)


def graph(
    batch: int | str,
    dtype: str,
    shift: int,
    picks: bool | str = False,
    prior: bool = False,
    classes: bool = False,
    video: bool = False,
    early: bool = False,
) -> onnx.ModelProto:
    """dtype: of the input, float32, float16 or uint8; shift: added to every index (a wrong graph)

    picks: hand them out, too, "reversed" backwards; prior: take another input [B, N], which is added to the scores
    classes: give logits [B, WIDTH] in place of tokens, their mean
    video: add the scores of the frame before, state.1.scores [B, N], and hand these out as next.1.scores
    early: with a prior, hand out what is added to, too, as means [B, N]: an output that the pixels alone decide
    """
    added = "state.1.scores" if video else "prior"
    floats = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    kinds = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    shape = [batch, *SIZE, 3] if dtype == "uint8" else [batch, 3, *SIZE]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[Any]] = {
        "keep": np.array([KEEP]),
        "patches": np.array([0, 3, -1]),
        "last": np.array([-1]),
    }
    if dtype == "uint8":
        constants |= {
            "scale": np.array(1 / 255, np.float32),
            "mean": np.array(MEAN, np.float32),
            "std": np.array(STD, np.float32),
        }
        nodes += [
            helper.make_node("Cast", ["pixel_values"], ["raw"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["raw", "scale"], ["unit"]),
            helper.make_node("Sub", ["unit", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["last_channels"]),
            helper.make_node("Transpose", ["last_channels"], ["image"], perm=[0, 3, 1, 2]),
        ]
    else:
        nodes.append(helper.make_node("Cast", ["pixel_values"], ["image"], to=TensorProto.FLOAT))
    nodes += [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["pooled", "patches"], ["channels_first"]),
        helper.make_node("Transpose", ["channels_first"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["rows", "last"], ["means" if prior or video else "scores"], keepdims=0),
        *([helper.make_node("Add", ["means", added], ["scores"])] if prior or video else []),
        helper.make_node("TopK", ["scores", "keep"], ["best_scores", "best"], axis=1),
        helper.make_node("TopK", ["best", "keep"], ["ascending", "order"], axis=1, largest=0),
        helper.make_node("Unsqueeze", ["ascending", "last"], ["where"]),
        helper.make_node("GatherND", ["rows", "where"], ["kept"], batch_dims=1),
        helper.make_node("MatMul", ["kept", "weight"], ["projected"]),
        helper.make_node("Cast", ["projected"], ["tokens"], to=floats),
        helper.make_node("Cast", ["ascending"], ["short"], to=TensorProto.INT32),
        helper.make_node("Add", ["short", "shift"], ["indices"]),
    ]
    constants |= {"weight": WEIGHT, "shift": np.array(shift, np.int32)}
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, GRID[0] * GRID[1]]),
        helper.make_tensor_value_info("indices", TensorProto.INT32, [batch, KEEP]),
        helper.make_tensor_value_info("tokens", floats, [batch, KEEP, WIDTH]),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", kinds[dtype], shape)]
    if prior or video:
        inputs.append(helper.make_tensor_value_info(added, TensorProto.FLOAT, [batch, GRID[0] * GRID[1]]))
    if video:
        nodes.append(helper.make_node("Identity", ["scores"], ["next.1.scores"]))
        outputs.append(helper.make_tensor_value_info("next.1.scores", TensorProto.FLOAT, [batch, GRID[0] * GRID[1]]))
    if early:
        outputs.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, GRID[0] * GRID[1]]))
    if picks:
        constants["turned"] = np.arange(KEEP)[:: -1 if picks == "reversed" else 1].copy()
        nodes.append(helper.make_node("Gather", ["best", "turned"], ["chosen"], axis=1))
        nodes.append(helper.make_node("Cast", ["chosen"], ["picks"], to=TensorProto.INT32))
        outputs.append(helper.make_tensor_value_info("picks", TensorProto.INT32, [batch, KEEP]))
    if classes:
        constants["rows_of"] = np.array([1])
        nodes.append(helper.make_node("ReduceMean", ["projected", "rows_of"], ["said"], keepdims=0))
        nodes.append(helper.make_node("Cast", ["said"], ["logits"], to=floats))
        outputs[2] = helper.make_tensor_value_info("logits", floats, [batch, WIDTH])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "encoder", inputs, outputs, initializers), opset_imports=opset)
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def write_halves(folder: Path, whole: onnx.ModelProto) -> dict[str, Graph]:
    """The graph with a prior as two, as --split parts it: their files, and what the manifest says of them."""
    import onnx_ir as ir

    from edgeprune.export.manifest import specs
    from edgeprune.export.split import split

    graphs = {}
    known = onnx.shape_inference.infer_shapes(whole, data_prop=True)
    for name, half in split(ir.serde.deserialize_model(known), ["prior"]).items():
        ir.save(half, folder / f"{name}.onnx")
        graphs[name] = Graph(f"{name}.onnx", specs(half.graph.inputs), specs(half.graph.outputs))
    return graphs


def write_bundle(
    folder: Path,
    batch: int | str = 1,
    dtype: str = "float32",
    shift: int = 0,
    probes: int = 2,
    picks: bool | str = False,
    prior: bool = False,
    classes: bool = False,
    video: bool = False,
    split: bool = False,
    early: bool = False,
    **changes: Any,
) -> Path:
    folder.mkdir()
    model = graph(batch, dtype, shift, picks, prior, classes, video, early)
    onnx.save(model, folder / "encoder.onnx")
    halves = write_halves(folder, model) if split else {}
    tiles = batch if isinstance(batch, int) else 1
    tensors: dict[str, NDArray[Any]] = {}
    for probe in range(probes):
        images = np.random.default_rng(probe).integers(0, 256, (tiles, *SIZE, 3), np.uint8)
        tensors[f"scene{probe:02}/pixel_values"] = images if dtype == "uint8" else normalised(images)
        for name, value in expected(normalised(images))._asdict().items():
            tensors[f"scene{probe:02}/{name}"] = np.ascontiguousarray(value)
        if classes:
            tensors[f"scene{probe:02}/logits"] = tensors.pop(f"scene{probe:02}/tokens").mean(axis=1)
        scores = tensors[f"scene{probe:02}/scores"]
        if picks:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :KEEP]
            tensors[f"scene{probe:02}/picks"] = best.astype(np.int32)
        if prior:
            tensors[f"scene{probe:02}/prior"] = np.zeros_like(scores)
        if video:
            tensors[f"scene{probe:02}/state.1.scores"] = np.zeros_like(scores)
            tensors[f"scene{probe:02}/next.1.scores"] = scores.copy()
    save_file(tensors, folder / "reference.safetensors")
    floats = "float16" if dtype == "float16" else "float32"
    inputs = {"pixel_values": TensorSpec((batch, *SIZE, 3) if dtype == "uint8" else (batch, 3, *SIZE), dtype)}
    outputs = {
        "tokens": TensorSpec((batch, KEEP, WIDTH), floats),
        "indices": TensorSpec((batch, KEEP), "int32"),
        "scores": TensorSpec((batch, GRID[0] * GRID[1]), "float32"),
    }
    if classes:
        outputs = {"logits": TensorSpec((batch, WIDTH), floats), **outputs}
        del outputs["tokens"]
        changes = {"labels": LABELS, **changes}
    if picks:
        outputs["picks"] = TensorSpec((batch, KEEP), "int32")
    if prior:
        inputs["prior"] = TensorSpec((batch, GRID[0] * GRID[1]), "float32")
    if early:
        outputs["means"] = outputs["scores"]
    if video:
        inputs["state.1.scores"] = outputs["next.1.scores"] = outputs["scores"]
    fields: dict[str, Any] = {
        "method": "brightest",
        "options": {},
        "keep": KEEP,
        "grid": GRID,
        "tiles": tiles,
        "model": Model(id="none", revision="local", family="none", layer=0, features=""),
        "precision": floats,
        "graphs": {"encoder": Graph("encoder.onnx", inputs, outputs), **halves},
        "preprocessing": PREPROCESSING,
        "target": "cpu",
        "cost": {},
        "deviations": (),
        "versions": {},
    }
    manifest = Manifest(**(fields | changes), files=describe_files(folder))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder
