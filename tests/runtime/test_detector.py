"""Boxes and labels from a bundle: those of transformers' own image processor and model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgeprune.errors import ImageError
from edgeprune.export import Request, export_bundle
from edgeprune.runtime import TokenEncoder, load
from edgeprune.runtime.detections import Detections
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.show import draw

SIZE, CLASSES, TOKENS = (48, 64), 3, 9
Found = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def checkpoint(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOS whose classes are more likely than no object, some of them by more than a half."""
    from transformers import YolosForObjectDetection

    size = {"height": SIZE[0], "width": SIZE[1]}
    processor = {"image_processor_type": "YolosImageProcessor", "size": size, "do_pad": False}
    names = {str(at): name for at, name in enumerate(("cat", "dog", "fox"))}
    config = {"image_size": [*SIZE], "num_detection_tokens": TOKENS, "num_hidden_layers": 2, "id2label": names}
    folder = model_folder(tmp_path_factory.mktemp("yolos"), "YolosForObjectDetection", processor, **config)
    model: Any = YolosForObjectDetection.from_pretrained(folder)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in (*model.class_labels_classifier.layers, *model.bbox_predictor.layers):
            torch.nn.init.normal_(layer.weight, std=0.25, generator=random)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundle") / "bundle"
    return export_bundle(Request("none", "cpu", model=str(checkpoint), output=output, baselines=False)).folder


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    found = load(bundle)
    assert isinstance(found, Detector)
    return found


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """[150, 90, 3], of another aspect ratio than the encoder's images"""
    slope = np.add.outer(np.arange(150), np.arange(90))[..., None]
    noise = np.random.default_rng(0).integers(0, 90, (150, 90, 3))
    return (noise + 0.6 * slope * [1.0, 0.5, 0.2]).clip(0, 255).astype(np.uint8)


def theirs(checkpoint: Path, image: Image.Image, threshold: float) -> tuple[NDArray[np.float32], Found]:
    """pixel_values and detections by transformers' own processor and model."""
    from transformers import AutoImageProcessor, YolosForObjectDetection

    processor = cast(Any, AutoImageProcessor).from_pretrained(checkpoint, backend="pil")
    assert type(processor).__name__ == "YolosImageProcessorPil"
    inputs = processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        out = cast(Any, YolosForObjectDetection).from_pretrained(checkpoint).eval()(pixel_values=inputs["pixel_values"])
    sizes = [(image.height, image.width)]
    found = processor.post_process_object_detection(out, threshold=threshold, target_sizes=sizes)
    return inputs["pixel_values"].numpy(), found


def assert_same(got: Detections, wanted: dict[str, Tensor]) -> None:
    assert [array.dtype.name for array in got] == ["float32", "int64", "float32"]
    np.testing.assert_array_equal(got.labels, wanted["labels"].numpy())
    np.testing.assert_allclose(got.scores, wanted["scores"].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.boxes, wanted["boxes"].numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.6])
def test_a_file_gives_what_transformers_finds_in_it(
    detector: Detector, checkpoint: Path, photo: NDArray[np.uint8], tmp_path: Path, threshold: float
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    pixel_values, (wanted,) = theirs(checkpoint, Image.open(tmp_path / "photo.png"), threshold)
    np.testing.assert_array_equal(detector.prepare(tmp_path / "photo.png"), pixel_values)
    assert 0 < len(wanted["scores"]) <= TOKENS
    assert (len(wanted["scores"]) < TOKENS) == (threshold > 0)
    (got,) = detector(tmp_path / "photo.png", threshold)
    assert_same(got, wanted)
    assert got.boxes[:, 2].max() > SIZE[1]  # pixels of the photo, not of the encoder's image


def test_boxes_are_in_pixels_of_the_image_however_it_is_given(
    detector: Detector, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    path, picture = tmp_path / "photo.png", Image.fromarray(photo)
    (expected,) = detector(photo, 0.2)
    assert len(expected.scores)
    every: list[Any] = [path, str(path), picture, [path], (picture,), [photo], photo[None]]
    for given in every:
        (got,) = detector(given, 0.2)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_boxes_are_those_of_the_upright_image(detector: Detector, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """A camera held on its side: the file's pixels are turned, and EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(photo).copy()).save(tmp_path / "turned.png", exif=exif)
    (got,), (expected,) = detector(tmp_path / "turned.png", 0.2), detector(photo, 0.2)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_grey_picture_is_found_in_as_its_colours(detector: Detector, photo: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(photo).convert("L").convert("RGB")
    (got,), (expected,) = detector(picture, 0.2), detector(np.asarray(picture), 0.2)
    np.testing.assert_array_equal(got.boxes, expected.boxes)


def test_several_pictures_are_run_one_after_the_other(detector: Detector, photo: NDArray[np.uint8]) -> None:
    several, alone = detector([photo, photo[::-1].copy(), photo], 0.2), detector(photo, 0.2)
    assert len(several) == 3
    for got in (several[0], several[2]):
        np.testing.assert_array_equal(got.boxes, alone[0].boxes)


def test_pixel_values_give_boxes_in_their_own_pixels(detector: Detector, photo: NDArray[np.uint8]) -> None:
    (got,), (of_photo,) = detector(detector.prepare(photo), 0.2), detector(photo, 0.2)
    scale = np.array([64 / 90, 48 / 150, 64 / 90, 48 / 150], np.float32)
    np.testing.assert_array_equal(got.labels, of_photo.labels)
    np.testing.assert_allclose(got.boxes, of_photo.boxes * scale, rtol=1e-5, atol=1e-4)


def test_labels_have_the_names_of_the_config(detector: Detector) -> None:
    assert detector.labels == ("cat", "dog", "fox")


def test_everything_the_graph_hands_out_is_there_by_name(detector: Detector, photo: NDArray[np.uint8]) -> None:
    shapes = {name: value.shape for name, value in detector.outputs(photo).items()}
    assert shapes == {"logits": (1, 9, 4), "pred_boxes": (1, 9, 4), "indices": (1, 48), "scores": (1, 48)}


NOT_IMAGES = {
    "nothing": None,
    "a number": 7,
    "no image": [],
    "an image that is none": [None],
    "a matrix": np.zeros((2, 2)),
    "an empty batch": np.zeros((0, 48, 64, 3), np.uint8),
}


@pytest.mark.parametrize("given", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_what_does_not_fit_is_refused_as_by_every_encoder(detector: Detector, given: Any) -> None:
    with pytest.raises(ImageError):
        detector(given)


def test_a_bundle_of_tokens_still_gives_an_encoder(make_bundle: Callable[..., Path]) -> None:
    assert type(load(make_bundle())) is TokenEncoder


def test_the_picture_says_how_many_objects_are_found(bundle: Path, photo: NDArray[np.uint8]) -> None:
    pictures = {threshold: draw(bundle, photo, threshold=threshold) for threshold in (0.0, 1.0)}
    assert pictures[0.0].size == pictures[1.0].size
    assert pictures[0.0].tobytes() != pictures[1.0].tobytes()
