"""Checkpoints that tests make for themselves: real transformers classes, small or large, with seeded random weights."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from edgeprune.bundle import MANIFEST, Graph, Manifest, Model, TensorSpec, describe_files

if TYPE_CHECKING:
    from edgeprune.export import Exported

try:
    import torch
    from safetensors.torch import save_file as save_torch_file
except ModuleNotFoundError:  # .ci/lowest tests what a device needs, without it
    pass
else:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers are the threads
        torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts its background jobs so, and processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}
"""36 patches + [CLS]"""

LLAVA_7B_VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP ViT-L/14-336: 576 patches + [CLS]"""

QUERY_GAIN = 1.5
"""largest standard deviation of queries and keys made of normed features; those of TINY_VISION have 1.4"""


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """(method, target, **fields of a Request) -> that export of the embedded model; not to be changed.

    The first worker that asks makes it, and the others find it on disk.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def find(method: str, target: str, **fields: Any) -> Exported:
        from filelock import FileLock

        from edgeprune.export import Request, export_bundle

        name = "-".join(map(str, (method, target, *(f"{key}{value}" for key, value in fields.items()))))
        kept = shared / f"{name}.pickle"
        with FileLock(shared / f"{name}.lock"):
            if not kept.exists():
                done = export_bundle(Request(method, target, output=shared / name / "bundle", **fields))
                kept.write_bytes(pickle.dumps(done))
        found: Exported = pickle.loads(kept.read_bytes())
        return found

    return find


@pytest.fixture(scope="session")
def clip_folder() -> Callable[..., Path]:
    """(folder, architecture="CLIPVisionModel" | "CLIPModel", **vision config) -> a checkpoint by save_pretrained."""

    def make(folder: Path, architecture: str = "CLIPVisionModel", **vision: Any) -> Path:
        from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

        torch.manual_seed(0)
        sizes = {**TINY_VISION, **vision}
        if architecture == "CLIPVisionModel":
            model: Any = CLIPVisionModel(CLIPVisionConfig(**sizes))
        else:
            text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
            model = CLIPModel(CLIPConfig(vision_config=sizes, text_config={**text, "vocab_size": 64}))
        _spread(model)
        model.save_pretrained(folder)
        write_processor(folder, sizes["image_size"])
        return folder

    return make


@pytest.fixture(scope="session")
def llava_folder() -> Callable[..., Path]:
    """(folder, **vision config) -> LlavaForConditionalGeneration as save_pretrained writes it, in one file."""

    def make(folder: Path, max_shard_size: str = "50GB", **vision: Any) -> Path:
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        torch.manual_seed(0)
        sizes = {**TINY_VISION, **vision}
        text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **sizes},
            text_config={"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, **text},
            image_token_index=3,
        )
        model = LlavaForConditionalGeneration(config)
        _spread(model)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        write_processor(folder, sizes["image_size"])
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder() -> Callable[..., Path]:
    """(folder, class of transformers, image processor=None, **config) -> a checkpoint by save_pretrained.

    The sizes are those of TINY_VISION; of a class with a vision_config, all sizes come from the config given.
    """

    def make(folder: Path, architecture: str, processor: dict[str, Any] | None = None, **given: Any) -> Path:
        import transformers

        torch.manual_seed(0)
        cls: Any = getattr(transformers, architecture)
        fields = cls.config_class.__dataclass_fields__
        sizes = {} if "vision_config" in fields else {name: TINY_VISION[name] for name in TINY_VISION if name in fields}
        model = cls(cls.config_class(**{**sizes, **given}))
        _spread(model)
        model.save_pretrained(folder)
        write_processor(folder, TINY_VISION["image_size"])
        if processor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder

    return make


@pytest.fixture(scope="session")
def llava_7b_folder() -> Callable[[Path], Path]:
    """(folder) -> a checkpoint shaped like LLaVA-1.5-7B whose language model's shards are absent."""

    def make(folder: Path) -> Path:
        from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **LLAVA_7B_VISION},
            text_config={"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32},
        )
        tower = CLIPVisionModel(CLIPVisionConfig(**LLAVA_7B_VISION))
        projector = LlavaMultiModalProjector(config)
        tensors = {f"vision_tower.vision_model.{name}": value for name, value in tower.state_dict().items()}
        tensors |= {f"multi_modal_projector.{name}": value for name, value in projector.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        here, absent = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
        save_torch_file(tensors, folder / here, {"format": "pt"})
        names = {**dict.fromkeys(tensors, here), "language_model.model.embed_tokens.weight": absent}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        config.save_pretrained(folder)
        write_processor(folder, LLAVA_7B_VISION["image_size"])
        return folder

    return make


def write_processor(folder: Path, size: int) -> None:
    """CLIP's image processor, with old-style fields as the hub's checkpoints have them."""
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": size,
        "size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than the initial ones, so that attention is peaked and patches differ; nothing stays zero, and no
    special token or position stays small, so that a wrong one shows.

    Queries and keys stay below QUERY_GAIN. SigLIP's initial weights are large already: four times as large they made
    logits of 158, CLIP's of 25, and the rounding of float16 in front of them moved attention by more than its bound.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("_token", "_tokens", "position_embeddings")) or not value.any():
                value.normal_()
            elif value.dim() > 1:
                value.mul_(4)
                if name.endswith(("q_proj.weight", "k_proj.weight")):
                    value.mul_(min(1, QUERY_GAIN / float(value.std() * value.shape[1] ** 0.5)))
            else:
                value.add_(0.1 * torch.randn_like(value))


# A real bundle, small enough to read: mean-pool the patches, rank them, keep the best.
#
# pixel_values [B, 3, 32, 48] -> 4 x 6 patches of 8 pixels;  score = mean of the patch;  token = its mean colour @ W

GRID, PATCH, KEEP, WIDTH = (4, 6), 8, 5, 7
SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHT = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
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


def graph(batch: int | str, dtype: str, shift: int, picks: bool | str = False, prior: bool = False) -> onnx.ModelProto:
    """dtype: of the input, float32, float16 or uint8; shift: added to every index (a wrong graph)

    picks: hand them out, too, "reversed" backwards; prior: take another input [B, N], which is added to the scores
    """
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
        helper.make_node("ReduceMean", ["rows", "last"], ["means" if prior else "scores"], keepdims=0),
        *([helper.make_node("Add", ["means", "prior"], ["scores"])] if prior else []),
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
    if prior:
        inputs.append(helper.make_tensor_value_info("prior", TensorProto.FLOAT, [batch, GRID[0] * GRID[1]]))
    if picks:
        constants["turned"] = np.arange(KEEP)[:: -1 if picks == "reversed" else 1].copy()
        nodes.append(helper.make_node("Gather", ["best", "turned"], ["chosen"], axis=1))
        nodes.append(helper.make_node("Cast", ["chosen"], ["picks"], to=TensorProto.INT32))
        outputs.append(helper.make_tensor_value_info("picks", TensorProto.INT32, [batch, KEEP]))
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "encoder", inputs, outputs, initializers), opset_imports=opset)
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def write_bundle(
    folder: Path,
    batch: int | str = 1,
    dtype: str = "float32",
    shift: int = 0,
    probes: int = 2,
    picks: bool | str = False,
    prior: bool = False,
    **changes: Any,
) -> Path:
    folder.mkdir()
    onnx.save(graph(batch, dtype, shift, picks, prior), folder / "encoder.onnx")
    tiles = batch if isinstance(batch, int) else 1
    tensors: dict[str, NDArray[Any]] = {}
    for probe in range(probes):
        images = np.random.default_rng(probe).integers(0, 256, (tiles, *SIZE, 3), np.uint8)
        tensors[f"scene{probe:02}/pixel_values"] = images if dtype == "uint8" else normalised(images)
        for name, value in expected(normalised(images))._asdict().items():
            tensors[f"scene{probe:02}/{name}"] = np.ascontiguousarray(value)
        scores = tensors[f"scene{probe:02}/scores"]
        if picks:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :KEEP]
            tensors[f"scene{probe:02}/picks"] = best.astype(np.int32)
        if prior:
            tensors[f"scene{probe:02}/prior"] = np.zeros_like(scores)
    save_file(tensors, folder / "reference.safetensors")
    floats = "float16" if dtype == "float16" else "float32"
    inputs = {"pixel_values": TensorSpec((batch, *SIZE, 3) if dtype == "uint8" else (batch, 3, *SIZE), dtype)}
    outputs = {
        "tokens": TensorSpec((batch, KEEP, WIDTH), floats),
        "indices": TensorSpec((batch, KEEP), "int32"),
        "scores": TensorSpec((batch, GRID[0] * GRID[1]), "float32"),
    }
    if picks:
        outputs["picks"] = TensorSpec((batch, KEEP), "int32")
    if prior:
        inputs["prior"] = TensorSpec((batch, GRID[0] * GRID[1]), "float32")
    fields: dict[str, Any] = {
        "method": "brightest",
        "options": {},
        "keep": KEEP,
        "grid": GRID,
        "tiles": tiles,
        "model": Model(id="none", revision="local", family="none", layer=0, features=""),
        "precision": floats,
        "graphs": {"encoder": Graph("encoder.onnx", inputs, outputs)},
        "preprocessing": PREPROCESSING,
        "target": "cpu",
        "cost": {},
        "deviations": (),
        "versions": {},
    }
    manifest = Manifest(**(fields | changes), files=describe_files(folder))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """make_bundle(batch=1, dtype="float32", shift=0, probes=2, picks=False, prior=False, **fields) -> its folder."""
    made: list[Path] = []

    def make(**options: Any) -> Path:
        made.append(write_bundle(tmp_path / f"bundle{len(made)}", **options))
        return made[-1]

    return make


@pytest.fixture(name="normalised")
def normalised_fixture() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    return normalised


@pytest.fixture(name="expected")
def expected_fixture() -> Callable[[NDArray[Any]], Expected]:
    return expected


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """[64, 96, 3] uint8: noise, brighter to the lower right."""
    slope = np.add.outer(np.arange(64), np.arange(96))[..., None]
    return (slope + np.random.default_rng(7).integers(0, 90, (64, 96, 3))).astype(np.uint8)
