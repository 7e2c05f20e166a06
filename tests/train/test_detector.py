"""The training of the small YOLOS, and the one that comes along: it finds the shapes, and by their patches."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune.errors import MissingPackageError, RequestError
from edgeprune.probes.drawn import CLASSES, Scenes
from edgeprune.quality.detections import corners, detect, pixel_values
from edgeprune.quality.precision import Truth
from edgeprune.train import detector
from edgeprune.train.detector import BY_PREDICTION, DetectorSettings, Targets, new_detector, train_detector

pytest.importorskip("scipy")
pytest.importorskip("pycocotools")

EMBEDDED = Path(detector.__file__).parents[1] / "models" / "scenes"
FOUND_MAP50 = 97.0
"""floor for 50 scenes; the card says what 600 give"""
LOST_MAP = 30.0
"""points that half of the patches must at least be worth, drawn at random"""
TINY = DetectorSettings(scenes=16, validation=4, steps=4, cooling=2, batch=2, save_every=2)


@pytest.fixture(scope="module")
def embedded() -> Any:
    from transformers import YolosForObjectDetection

    return YolosForObjectDetection.from_pretrained(EMBEDDED).eval()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def dense_map(embedded: Any) -> dict[str, float]:
    return _precision(embedded)


def test_the_embedded_detector_finds_shapes_it_was_not_trained_on(dense_map: dict[str, float]) -> None:
    assert dense_map["mAP50"] > FOUND_MAP50


def test_the_embedded_detector_needs_its_patches(embedded: Any, dense_map: dict[str, float]) -> None:
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:50].sort().values
    sparse = _precision(lambda pixels: _without(embedded, pixels, rows))
    assert sparse["mAP"] < dense_map["mAP"] - LOST_MAP


def test_every_patch_kept_is_the_detector_itself(embedded: Any) -> None:
    pixels = pixel_values(np.stack([Scenes(2)[i].image for i in range(2)]))
    with torch.no_grad():
        torch.testing.assert_close(_without(embedded, pixels, torch.arange(100)).logits, embedded(pixels).logits)


def test_the_embedded_detector_is_small_and_of_the_size_of_the_scenes(embedded: Any) -> None:
    assert (EMBEDDED / "model.safetensors").stat().st_size < 2_500_000
    assert list(embedded.config.image_size) == [80, 80]
    assert embedded.config.use_mid_position_embeddings
    assert tuple(embedded.config.id2label.values()) == CLASSES
    processor = json.loads((EMBEDDED / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 80, "width": 80}
    assert not processor["do_pad"]


def test_its_processor_makes_the_pixels_that_it_was_trained_on() -> None:
    from transformers import YolosImageProcessorPil

    image = Scenes(1)[0].image
    processed = YolosImageProcessorPil.from_pretrained(EMBEDDED)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, pixel_values(image[None]), atol=1e-5, rtol=0)


def test_detections_are_in_pixels_and_never_no_object() -> None:
    def model(pixels: Tensor) -> Any:
        logits = torch.tensor([[[0.0, 3, 0, 0, 9], [5, 0, 0, 0, 0]]]).expand(len(pixels), -1, -1)
        return SimpleNamespace(logits=logits, pred_boxes=torch.tensor([0.5, 0.25, 0.5, 0.1]).expand(len(pixels), 2, 4))

    found = detect(model, Scenes(3, size=(80, 160)), batch=2)
    assert len(found) == 3
    assert found[0][:, 5].tolist() == [1, 0]
    assert found[0][0, 4] < 0.01 < 0.9 < found[0][1, 4]
    assert found[2][0, :4].tolist() == pytest.approx([40, 16, 120, 24])


@pytest.mark.slow
def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    def stop(step: int, losses: dict[str, float]) -> None:
        raise KeyboardInterrupt

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads may differ in the last bit
    try:
        result = train_detector(whole, TINY)
        with pytest.raises(KeyboardInterrupt):
            train_detector(halves, dataclasses.replace(TINY, steps=9), stop)  # changed before it cools: all the same
        reported: list[int] = []
        assert train_detector(halves, TINY, lambda step, losses: reported.append(step)) == result
    finally:
        torch.set_num_threads(threads)
    assert reported == [4]
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()
    with pytest.raises(RequestError, match=r"has other settings: .*give a new folder"):
        train_detector(halves, dataclasses.replace(TINY, steps=6))


@pytest.mark.slow
def test_the_training_lowers_its_loss(tmp_path: Path) -> None:
    reported: list[dict[str, float]] = []
    settings = DetectorSettings(scenes=2, validation=1, steps=10, cooling=2, batch=2, lr=0.025, save_every=2)
    train_detector(tmp_path, settings, lambda step, losses: reported.append(losses))
    assert reported[-1]["dense"] < 0.8 * reported[0]["dense"]
    assert reported[-1]["set"] < 0.8 * reported[0]["set"]


def test_the_layers_are_run_as_the_model_runs_them() -> None:
    model, pixels = new_detector(0).eval(), torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        *_, last = detector._hidden_states(model, pixels)
        torch.testing.assert_close(model.vit.layernorm(last), model.vit(pixels).last_hidden_state)


def test_a_new_detector_looks_at_the_patches_near_a_det_token() -> None:
    model = new_detector(0).eval()
    model.set_attn_implementation("eager")  # the fused one keeps no map
    with torch.no_grad():
        attentions = model(torch.zeros(1, 3, 80, 80), output_attentions=True).attentions
    place = attentions[0][0].mean(0)[101 + 6, 1:101]  # of a token in the second row and column: patches 2, 3 of both
    assert int(place.argmax()) in {22, 23, 32, 33}


def test_a_turned_scene_keeps_its_patches_inside_their_boxes() -> None:
    images, targets = detector._targets(Scenes(12))
    torch.manual_seed(0)
    seen = set()
    for _ in range(24):
        pixels, turned = detector._turned(pixel_values(images), targets)
        assert pixels.shape == (12, 3, 80, 80)
        seen.add(tuple(turned.owners[0].flatten().tolist()))
        image, row, column = (turned.owners >= 0).nonzero(as_tuple=True)
        x0, y0, x1, y1 = (corners(turned.boxes[image, turned.owners[image, row, column]]) * 10).unbind(-1)
        assert bool(((x0 < column + 1) & (x1 > column) & (y0 < row + 1) & (y1 > row)).all())
    assert len(seen) == 8


def test_a_shape_belongs_to_the_nearest_place_at_first_and_to_the_best_prediction_at_last() -> None:
    boxes = torch.full((1, 25, 4), 0.1)
    boxes[0, 24] = torch.tensor([0.31, 0.1, 0.3, 0.2])
    targets = Targets(torch.full((1, 5, 4), torch.nan), torch.full((1, 5), -1), torch.full((1, 10, 10), -1))
    targets.boxes[0, 0], targets.labels[0, 0] = torch.tensor([0.31, 0.1, 0.3, 0.2]), 2
    logits = torch.zeros(1, 25, 5)
    assert detector._assigned(logits, boxes, targets, 0).tolist() == [[1, -1, -1, -1, -1]]
    assert detector._assigned(logits, boxes, targets, BY_PREDICTION).tolist() == [[24, -1, -1, -1, -1]]


def test_the_right_class_and_box_cost_less_than_a_wrong_one() -> None:
    boxes, logits = torch.rand(1, 25, 4) * 0.1 + 0.4, torch.zeros(1, 25, 5)
    targets = Targets(torch.full((1, 5, 4), torch.nan), torch.full((1, 5), -1), torch.full((1, 10, 10), -1))
    targets.boxes[0, 0], targets.labels[0, 0] = torch.tensor([0.5, 0.5, 0.2, 0.2]), 1
    boxes[0, 12], logits[0, :, 4], logits[0, 12, 1] = targets.boxes[0, 0], 4.0, 9.0
    right = detector._set_loss(logits, boxes, targets, BY_PREDICTION)
    other, moved = logits.clone(), boxes.clone()
    other[0, 12, 2] = 12.0
    moved[0, 12, 0] += 0.1
    assert right < detector._set_loss(other, boxes, targets, BY_PREDICTION)
    assert right < detector._set_loss(logits, moved, targets, BY_PREDICTION)


@pytest.mark.parametrize("package", ["scipy", "pycocotools"])
def test_a_missing_package_is_named_before_anything_is_trained(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"package {package}, .*edgeprune\[bavit\]"):
        train_detector(tmp_path / "none", TINY)
    assert not (tmp_path / "none").exists()


def _precision(model: Any) -> dict[str, float]:
    scenes = Scenes(50, seed=1)
    truth = Truth.of_samples([scenes[i] for i in range(len(scenes))], CLASSES)
    return truth.average_precision(detect(model, scenes), CLASSES)


def _without(model: Any, pixels: Tensor, rows: Tensor) -> Any:
    """What the detector finds when it has but these patches."""
    kept = torch.cat([torch.tensor([0]), 1 + rows, torch.arange(101, 126)])
    hidden = model.vit.embeddings(pixels)[:, kept]
    mids = model.vit.encoder.interpolation(pixels.shape[2:])[:, :, kept]
    for i, layer in enumerate(model.vit.encoder.layer):
        hidden = layer(hidden)
        if i < len(mids):
            hidden = hidden + mids[i]
    tokens = model.vit.layernorm(hidden[:, -25:])
    boxes = model.bbox_predictor(tokens).sigmoid()
    return SimpleNamespace(logits=model.class_labels_classifier(tokens), pred_boxes=boxes)
