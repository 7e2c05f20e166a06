"""YOLOS: unpruned, its outputs are transformers' own at any size; what it cannot do is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder, family_of, yolos
from edgeprune.errors import MethodError, ModelError, RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.fit_inside import build_reducer
from edgeprune.pruners import none, random
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.trace import PrunedEncoder
from tests.covering import always
from tests.encoders.kinds import SQUARE, Kind, processor

KIND = Kind(
    "YolosForObjectDetection",
    processor("Yolos", **SQUARE, do_pad=False),
    config={"num_hidden_layers": 3, "image_size": [48, 48], "num_detection_tokens": 5, "num_labels": 3},
    family="yolos",
    exported="none bavit received",
)
Made = Callable[[str], tuple[Path, Encoder]]
ModelFolder = Callable[..., Path]
SIZE = (48, 64)
SHAPE: dict[str, Any] = {"image_size": [*SIZE], "patch_size": 8, "num_detection_tokens": 5, "num_labels": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "use_mid_position_embeddings": False},
    "small": {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 3},
    "small-dWr": {"hidden_size": 330, "num_attention_heads": 6, "num_hidden_layers": 4, "intermediate_size": 330},
    "base": {"hidden_size": 96, "num_attention_heads": 12, "num_hidden_layers": 3, "patch_size": 16},
}
"""shaped like the published ones; heads of dWr are 55 wide"""
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=always(VARIANTS, "small-dWr"))
def variant(
    request: pytest.FixtureRequest, model_folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 48, "width": 64}}
    folder = tmp_path_factory.mktemp("yolos")
    return model_folder(folder, "YolosForObjectDetection", processor, **{**SHAPE, **VARIANTS[request.param]})


def theirs(folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    from transformers import YolosForObjectDetection

    with torch.inference_mode():
        out = cast(Any, YolosForObjectDetection.from_pretrained(folder)).eval()(pixel_values=pixels)
    return out.logits, out.pred_boxes


@pytest.mark.parametrize("size", [None, SIZE, (64, 32), (96, 112)], ids=str)
def test_unpruned_outputs_are_transformers_own_at_every_size(variant: Path, size: tuple[int, int] | None) -> None:
    encoder = encoders.load(open_checkpoint(str(variant)), size=size)
    assert encoder.tower.image_size == (size or SIZE)
    pixels = torch.randn(2, 3, *encoder.tower.image_size)
    expected = theirs(variant, pixels)
    method = none.Method(encoder.patches)
    with torch.inference_mode():
        pruned, official = (path(encoder, method).eval()(pixels) for path in (PrunedEncoder, OfficialEncoder))
    for found in (pruned, official):
        torch.testing.assert_close(found[:2], expected, **CLOSE)
    assert expected[1].std(dim=1).max() > 0.01  # boxes that are all alike would tell nothing


def test_both_tables_of_positions_are_constants_of_the_one_size(made: Made) -> None:
    from transformers import YolosForObjectDetection

    folder, size = made("yolos")[0], (64, 32)
    own: Any = YolosForObjectDetection.from_pretrained(folder)
    tower = encoders.load(open_checkpoint(str(folder)), size=size).tower
    front, between = cast(Any, tower.module).embeddings.interpolation, tower.between
    assert torch.equal(front(), own.vit.embeddings.interpolation(own.vit.embeddings.position_embeddings, size))
    assert between is not None
    assert torch.equal(between(), own.vit.encoder.interpolation(size))
    names = {name for name, _ in tower.module.named_parameters() if "position" in name or "interpolation" in name}
    assert names == {"embeddings.interpolation.table", "encoder.interpolation.table"}


def test_every_layer_keeps_its_fused_attention(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, lengths, fused = made("yolos")[1], [], torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *given: Any, **options: Any) -> Tensor:
        lengths.append(query.shape[2])
        return fused(query, *given, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    with torch.inference_mode():
        PrunedEncoder(encoder, random.Method(12)).eval()(torch.randn(1, 3, 48, 48))
    assert lengths == [1 + 12 + 5] * 3


def test_the_sizes_come_from_the_image_processor_and_are_whole_patches(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 50, "width": 71}}
    folder = model_folder(tmp_path, "YolosForObjectDetection", processor, **SHAPE)
    assert encoders.load(open_checkpoint(str(folder))).tower.image_size == (48, 64)
    processor["size"] = {"shortest_edge": 800, "longest_edge": 1333}  # as on the hub: the config's size then
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert encoders.load(open_checkpoint(str(folder))).tower.image_size == SIZE


def test_steps_inside_are_refused_where_positions_are_added_in_front_of_each_layer(made: Made) -> None:
    with pytest.raises(MethodError, match=r"layers with nothing between them; .*; use --method bavit or received"):
        build_reducer(made("yolos")[1], "drop", none.Method(1), "none")


def test_its_labels_are_the_configs_in_order(made: Made) -> None:
    assert made("yolos")[1].labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("size", "near"), [((50, 64), "48x64 or 56x64"), ((48, 5), "48x8$"), ((47, 63), "40x56 or 48x64")]
)
def test_a_size_of_broken_patches_is_refused_with_the_nearest(made: Made, size: tuple[int, int], near: str) -> None:
    given = f"got {size[0]}x{size[1]}; {near}"
    with pytest.raises(RequestError, match=f"--size must be a multiple of the 8 pixels of a patch, {given}"):
        encoders.load(open_checkpoint(str(made("yolos")[0])), size=size)


@pytest.mark.parametrize("layer", [-1, 2, 3])
def test_a_layer_is_refused(made: Made, layer: int) -> None:
    with pytest.raises(RequestError, match=rf"detects with its last layer: --layer must be left out, got {layer}"):
        encoders.load(open_checkpoint(str(made("yolos")[0])), layer)


def test_it_takes_pixels_and_no_grid_and_those_of_a_grid_no_pixels(made: Made) -> None:
    with pytest.raises(RequestError, match="yolos takes no --grid: give --size, in pixels"):
        encoders.load(open_checkpoint(str(made("yolos")[0])), grid=(6, 6))
    with pytest.raises(RequestError, match="siglip2 takes no --size: give --grid, in patches"):
        encoders.load(open_checkpoint(str(made("siglip2")[0])), grid=(6, 6), size=(48, 48))


REASONS = {model_type: why for why, model_types in yolos.REFUSED.items() for model_type in model_types}


@pytest.mark.parametrize("model_type", REASONS)
def test_another_detector_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(ModelError) as error:
        family_of({"model_type": model_type}, "some/model")
    assert str(error.value) == f"some/model is a {model_type}: {REASONS[model_type]}; read is yolos"


def test_the_reasons_are_those_of_the_architectures() -> None:
    for model_type, word in {
        "detr": "ResNet",
        "deformable_detr": "samples",
        "rt_detr": "several scales",
        "rt_detr_v2": "several scales",
        "owlv2": "dropping patches drops boxes",
    }.items():
        assert word in REASONS[model_type]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"tiles": 2}, {"dynamic_batch": True}], ids=str)
def test_several_images_of_one_run_are_detected_each_by_itself(made: Made, tmp_path: Path, how: dict[str, Any]) -> None:
    """export_bundle compares with the reference, whose probes are two images each."""
    folder = made("yolos")[0]
    request = Request("random", "cpu", 12, model=str(folder), output=tmp_path / "a", baselines=False, **how)
    exported = export_bundle(request)
    assert exported.reports
    assert all(report.passed for report in exported.reports)
    assert "Resize" not in {node.op_type for node in ir.load(tmp_path / "a" / "encoder.onnx").graph}
    encoder, pixels = load(tmp_path / "a"), torch.randn(2, 3, 48, 48).numpy()
    there, back = (encoder.outputs(images)["pred_boxes"] for images in (pixels, pixels[::-1].copy()))
    torch.testing.assert_close(torch.from_numpy(there), torch.from_numpy(back[::-1].copy()), **CLOSE)
