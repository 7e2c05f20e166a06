"""Qwen's towers at one grid: tokens, windows, positions and DeepStack are transformers' own, in raster order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import WINDOWS
from edgeprune.errors import MethodError, ModelError, RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.export.processor import read_processor
from edgeprune.fit import build_method
from edgeprune.pruners import Eager, Selection, Traits, divprune, none, uniform
from edgeprune.pruners._select import top_in_order
from edgeprune.reference import OfficialEncoder
from edgeprune.taps import Taps
from edgeprune.trace import PrunedEncoder, outputs
from tests.encoders.kinds import LANGUAGE, Kind, processor

PROCESSOR = processor(
    "Qwen2VL",
    min_pixels=3136,
    max_pixels=12845056,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
)
"""as the hub has it: no size, it goes by the image"""
TOWER: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
WIDTHS: dict[str, Any] = {"hidden_size": 32, "out_hidden_size": 48}


def declare(stem: str, family: str, exported: str, **vision: Any) -> Kind:
    """12x12 patches, 6x6 tokens"""
    tokens = {name: at for at, name in enumerate(("image_token_id", "video_token_id", "vision_start_token_id"), 3)}
    text = {**LANGUAGE, "head_dim": 24, "bos_token_id": None, "eos_token_id": None}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
    config = {"vision_config": {**TOWER, **vision}, "text_config": text, **tokens}
    architecture = f"{stem}ForConditionalGeneration"
    return Kind(architecture, PROCESSOR, prefix=0, config=config, grid=(12, 12), family=family, exported=exported)


WINDOWED: dict[str, Any] = {"window_size": 24, "fullatt_block_indexes": [1]}
"""windows of 3x3 tokens"""
DEEP: dict[str, Any] = {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}
KINDS = {
    "qwen2 vl": declare("Qwen2VL", "qwen2_vl", "random divprune", embed_dim=32, hidden_size=48, mlp_ratio=2),
    "qwen2.5 vl": declare("Qwen2_5_VL", "qwen2_5_vl", "hiprune pool", **WIDTHS, intermediate_size=48, **WINDOWED),
    "qwen3 vl": declare("Qwen3VL", "qwen3_vl", "hiprune aim", **WIDTHS, intermediate_size=64, **DEEP),
}
Made = Callable[[str], tuple[Path, Encoder]]
QWEN = tuple(KINDS)
UNEVEN = (6, 10)
"""3x5 tokens: windows of 3x3 and of 3x2"""
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@dataclass(frozen=True)
class ColumnMean(pruners.Method):
    """The attention that each token receives in a layer."""

    keep: int
    layer: int = 1
    traits: ClassVar[Traits] = Traits(query_rows=None, emits=())

    def layers(self, depth: int) -> tuple[int, ...]:
        return (self.layer,)

    def select(self, taps: Taps) -> Selection:
        scores = taps.column_mean(self.layer)
        return Selection(top_in_order(scores, self.keep), scores)

    def official(self, eager: Eager) -> Selection:
        scores = eager.attentions[self.layer][..., eager.prefix :].mean(dim=(1, 2))
        return Selection(scores.argsort(dim=1, descending=True)[:, : self.keep].sort(dim=1).values, scores)


@pytest.fixture(scope="module")
def load(made: Made) -> Callable[..., Encoder]:
    return lambda name, grid=UNEVEN, layer=None: encoders.load(open_checkpoint(str(made(name)[0])), layer, grid=grid)


@pytest.fixture(scope="module")
def model(made: Made) -> Callable[[str], Any]:
    """(name) -> transformers' own model, without its language-modelling head"""
    found: dict[str, Any] = {}

    def make(name: str) -> Any:
        import transformers

        if name not in found:
            folder = made(name)[0]
            architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
            found[name] = getattr(transformers, architecture).from_pretrained(folder).eval().model
        return found[name]

    return make


def pixels(grid: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, 4 * grid[0], 4 * grid[1], generator=torch.Generator().manual_seed(0))


def flattened(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """As the image processor hands patches over: 2x2 by 2x2, each (channel, two equal frames, row, column)."""
    squares = image[0].reshape(3, grid[0] // 2, 2, 4, grid[1] // 2, 2, 4).permute(1, 4, 2, 5, 0, 3, 6)
    return squares.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(grid[0] * grid[1], -1)


@pytest.mark.parametrize("grid", [UNEVEN, (12, 12)], ids=["uneven windows", "equal windows"])
@pytest.mark.parametrize("name", QWEN)
def test_unpruned_tokens_are_the_models_own(
    load: Callable[..., Encoder], model: Callable[[str], Any], name: str, grid: tuple[int, int]
) -> None:
    encoder, image = load(name, grid), pixels(grid)
    assert encoder.grid == (grid[0] // 2, grid[1] // 2)
    with torch.inference_mode():
        own = model(name).get_image_features(flattened(image, grid), torch.tensor([[1, *grid]]))
        expected = [own.pooler_output[0], *(level[0] for level in getattr(own, "deepstack_features", None) or ())]
        assert len(expected) == (3 if name == "qwen3 vl" else 1)
        for path in (PrunedEncoder, OfficialEncoder):
            tokens, _, _, _, *levels = path(encoder, none.Method(encoder.patches))(image)
            for found, wanted in zip((tokens, *levels), expected, strict=True):
                torch.testing.assert_close(found[0], wanted, **CLOSE)


def test_windows_are_of_the_sizes_that_the_grid_leaves_and_change_the_tokens(load: Callable[..., Encoder]) -> None:
    encoder, equal, image = load("qwen2.5 vl"), load("qwen2.5 vl", (12, 12)), pixels(UNEVEN)
    first, last = encoder.tower.attention
    assert getattr(first, WINDOWS) == [36, 24]
    assert getattr(equal.tower.attention[0], WINDOWS) == [36, 36, 36, 36]
    assert not hasattr(last, WINDOWS)
    with torch.inference_mode():
        windowed = PrunedEncoder(encoder, none.Method(15))(image)[0]
        delattr(first, WINDOWS)
        whole = PrunedEncoder(encoder, none.Method(15))(image)[0]
    assert not torch.allclose(windowed, whole, atol=0.01)


@pytest.mark.parametrize("name", QWEN)
def test_both_paths_agree(load: Callable[..., Encoder], name: str) -> None:
    encoder, image = load(name), pixels(UNEVEN)
    methods: tuple[pruners.Method, ...] = (uniform.Method(5), divprune.Method(4), ColumnMean(5))
    for method in methods:
        with torch.inference_mode():
            found, expected = PrunedEncoder(encoder, method)(image), OfficialEncoder(encoder, method)(image)
        assert len(found) == len(outputs(encoder, method))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def column_means(qkv: NDArray[np.float64], grid: tuple[int, int], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """[N] in raster order, of two heads of 16 channels, by the formulas.

    order: the token of the raster of each four rows of qkv [P, 96]
    """
    rows, columns = np.repeat(order // (grid[1] // 2), 4) * 2, np.repeat(order % (grid[1] // 2), 4) * 2
    rows, columns = rows + np.tile([0, 0, 1, 1], len(order)), columns + np.tile([0, 1, 0, 1], len(order))
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    half = np.concatenate((rows[:, None] * frequencies, columns[:, None] * frequencies), axis=1)
    angles = np.concatenate((half, half), axis=1)

    def rotated(x: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = np.concatenate((-x[..., 8:], x[..., :8]), axis=-1)
        return np.asarray(x * np.cos(angles) + turned * np.sin(angles))

    query, key = (rotated(part.reshape(-1, 2, 16).swapaxes(0, 1)) for part in (qkv[:, :32], qkv[:, 32:64]))
    weights = np.exp(query @ key.swapaxes(1, 2) / 4)
    received = (weights / weights.sum(axis=-1, keepdims=True)).mean(axis=(0, 1))
    found: NDArray[np.float64] = np.empty(len(order))
    found[order] = received.reshape(-1, 4).mean(axis=1)
    return found


@pytest.mark.parametrize("name", QWEN)
def test_a_token_is_scored_by_the_mean_of_its_patches_in_raster_order(
    load: Callable[..., Encoder], model: Callable[[str], Any], name: str
) -> None:
    seen: list[Tensor] = []
    last = model(name).visual.blocks[1].attn.qkv
    hook = last.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.inference_mode():
        model(name).get_image_features(flattened(pixels(UNEVEN), UNEVEN), torch.tensor([[1, *UNEVEN]]))
        scores = PrunedEncoder(load(name), ColumnMean(5))(pixels(UNEVEN))[2]
    hook.remove()
    raster = np.arange(15).reshape(3, 5)
    windows = np.concatenate((raster[:, :3].ravel(), raster[:, 3:].ravel()))
    order = windows if name == "qwen2.5 vl" else raster.ravel()
    expected = column_means(seen[0].double().numpy(), UNEVEN, order)
    np.testing.assert_allclose(scores[0].numpy(), expected, rtol=1e-4)
    assert np.ptp(expected) > 0.1 * expected.mean()


@pytest.mark.parametrize("name", QWEN)
def test_kept_tokens_keep_their_rotary_positions(
    load: Callable[..., Encoder], model: Callable[[str], Any], name: str
) -> None:
    encoder = load(name)
    ids, kinds = torch.full((1, 15), 3), torch.ones(1, 15, dtype=torch.int32)  # nothing but an image
    own, _ = model(name).get_rope_index(ids, kinds, image_grid_thw=torch.tensor([[1, *UNEVEN]]))
    with torch.inference_mode():
        _, indices, _, positions, *_ = PrunedEncoder(encoder, uniform.Method(4))(pixels(UNEVEN))
    assert positions.dtype == torch.int32
    assert torch.equal(positions.long(), own[:, 0, indices[0].long()])


def test_a_layer_that_is_asked_for_goes_through_the_merger_too(
    load: Callable[..., Encoder], model: Callable[[str], Any]
) -> None:
    own, image = model("qwen2 vl").visual, pixels(UNEVEN)
    with torch.inference_mode():
        out = own(flattened(image, UNEVEN), torch.tensor([[1, *UNEVEN]]), output_hidden_states=True)
        found = PrunedEncoder(load("qwen2 vl", layer=1), none.Method(15))(image)[0]
        torch.testing.assert_close(found[0], own.merger(out.hidden_states[1]), **CLOSE)


def test_a_layer_that_attends_in_windows_is_not_read(load: Callable[..., Encoder]) -> None:
    with pytest.raises(MethodError, match="layer 1 attends in windows; whole are 2, counted from 1"):
        build_method(ColumnMean, "columns", load("qwen2.5 vl"), 5, {"layer": "0"})


@pytest.mark.parametrize("prefix", ["visual.", "model.visual."])
def test_the_names_of_older_and_newer_checkpoints_are_read(
    made: Made, load: Callable[..., Encoder], tmp_path: Path, prefix: str
) -> None:
    folder, _ = made("qwen2.5 vl")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(folder / "model.safetensors")
    kept = {name.split("visual.")[1]: value for name, value in tensors.items() if "visual." in name}
    save_file({prefix + name: value for name, value in kept.items()}, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)), grid=UNEVEN)
    with torch.inference_mode():
        found, expected = (
            PrunedEncoder(one, none.Method(15))(pixels(UNEVEN))[0] for one in (encoder, load("qwen2.5 vl"))
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (None, r"--grid must say .* such as 32x32 for 128x128 pixels; it is missing"),
        ((31, 32), r"a multiple of 2x2 patches, which are merged to one token, got 31x32; 30x32 or 32x32 would be"),
        ((1, 1), r"got 1x1; 2x2 would be"),
    ],
)
def test_a_grid_is_asked_for_that_can_be_merged(
    load: Callable[..., Encoder], name: str, grid: tuple[int, int] | None, says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        load(name, grid)


def test_several_images_at_a_time_are_refused(made: Made, tmp_path: Path) -> None:
    request = Request(
        "uniform", "cpu", keep=4, model=str(made("qwen2 vl")[0]), grid="6x10", tiles=2, output=tmp_path / "bundle"
    )
    with pytest.raises(RequestError, match="qwen2_vl takes one image at a time, got --tiles 2"):
        export_bundle(request)


def test_images_are_resized_to_the_grid_as_the_processor_resizes_to_its_own(made: Made) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    checkpoint = open_checkpoint(str(made("qwen2 vl")[0]))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 99, 3), dtype=np.uint8))
    own = Qwen2VLImageProcessorPil(**checkpoint.processor)(image, return_tensors="pt")
    rows, columns = own["image_grid_thw"][0, 1:].tolist()
    assert (rows, columns) == (18, 24)
    found = read_processor(checkpoint.processor, (4 * rows, 4 * columns))(image)
    expected = own["pixel_values"]
    torch.testing.assert_close(flattened(torch.from_numpy(found)[None], (rows, columns)), expected, rtol=0, atol=1e-6)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("qwen2.5 vl", "float32", True), id="qwen2.5 vl"),
        pytest.param(("qwen3 vl", "float16", False), id="qwen3 vl", marks=pytest.mark.slow),
    ],
)
def exported(
    made: Made, load: Callable[..., Encoder], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, Exported]:
    name, precision, uint8 = request.param
    output = tmp_path_factory.mktemp("bundles") / "bundle"
    how: dict[str, Any] = {"precision": precision, "uint8": uint8, "baselines": False}
    return load(name), export_bundle(
        Request("uniform", "cpu", 4, model=str(made(name)[0]), grid="6x10", output=output, **how)
    )


@pytest.mark.slow
def test_the_graph_equals_the_reference_on_onnx_runtime(exported: tuple[Encoder, Exported]) -> None:
    encoder, bundle = exported
    assert bundle.reports
    assert all(report.passed for report in bundle.reports)
    assert {name: spec.shape for name, spec in bundle.manifest.outputs.items()} == {
        "tokens": (1, 4, 48),
        "indices": (1, 4),
        "scores": (1, 15),
        "positions": (3, 4),
        **{name: (1, 4, 48) for name in encoder.extras},
    }


def test_the_graph_attends_in_windows_and_does_no_work_on_tokens_that_are_thrown_away(
    exported: tuple[Encoder, Exported],
) -> None:
    encoder, bundle = exported
    patches, kept, width, windows = 60, 16, 32, [36, 24] if encoder.family == "qwen2_5_vl" else [60]
    block: Any = encoder.tower.module.blocks[0]  # type: ignore[index]
    mlp = sum(part.weight.numel() for part in block.mlp.modules() if isinstance(part, torch.nn.Linear))
    first = patches * (4 * width * width + mlp) + 2 * sum(size * size for size in windows) * width
    last = patches * 2 * width * width + kept * (2 * width * width + mlp) + 2 * kept * patches * width
    mergers = (1 + len(encoder.extras)) * 4 * (128 * 128 + 128 * 48)
    embedding = patches * 3 * 4 * 4 * width
    assert bundle.manifest.cost["graph"] == embedding + first + last + mergers


def test_the_graph_holds_the_grid_as_constants(exported: tuple[Encoder, Exported]) -> None:
    graph = ir.load(exported[1].folder / "encoder.onnx").graph
    assert not {node.op_type for node in graph} & {"Sin", "Cos", "Range", "Resize", "Loop", "If", "NonZero"}
    shapes = [value.shape for node in graph for value in node.outputs]
    assert all(isinstance(size, int) for shape in shapes if shape is not None for size in shape)


@pytest.mark.slow
def test_the_official_form_is_static_too_in_half_precision(load: Callable[..., Encoder]) -> None:
    encoder = load("qwen2.5 vl")
    encoder.tower.module.half()
    encoder.projector.half()
    with torch.no_grad():
        program = torch.export.export(OfficialEncoder(encoder, uniform.Method(4)), (pixels(UNEVEN).half(),))
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert len(values) > 100
    assert all(isinstance(size, int) for value in values for size in value.shape)


def test_deepstack_of_a_layer_that_is_not_there_is_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("qwen3 vl")[0]))
    checkpoint.config["vision_config"]["deepstack_visual_indexes"][-1] = 99
    with pytest.raises(ModelError, match=r"deepstack_visual_indexes of config\.json must be in 0\.\.\d+, got 99"):
        encoders.load(checkpoint, grid=(8, 8))
