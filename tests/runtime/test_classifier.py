"""Classes from a bundle: those of transformers' own image processor and model."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeprune import bundle as bundles
from edgeprune.errors import BundleError
from edgeprune.export import Request, export_bundle
from edgeprune.runtime import Classes, Classifier, TokenEncoder, load
from edgeprune.runtime.parity.verify import verify
from edgeprune.runtime.show import draw

LABELS = {0: "tench", 1: "grey whale", 2: "Ä"}


@pytest.fixture(scope="module")
def checkpoint(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 that classifies, with noise in every tensor."""
    size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}
    processor = {"image_processor_type": "BitImageProcessor", **size}
    config = {"num_hidden_layers": 2, "id2label": LABELS, "num_labels": len(LABELS)}
    folder = model_folder(tmp_path_factory.mktemp("model"), "Dinov2ForImageClassification", processor, **config)
    file, seeded = folder / "model.safetensors", torch.Generator().manual_seed(1)
    tensors = load_file(file)
    save_file({name: 0.2 * torch.randn(value.shape, generator=seeded) for name, value in tensors.items()}, file)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(method, **fields of a Request) -> that export, made once."""
    made: dict[str, Path] = {}

    def make(method: str, **fields: Any) -> Path:
        if (name := f"{method} {fields}") not in made:
            output = tmp_path_factory.mktemp("bundle") / "bundle"
            fields = {"model": str(checkpoint), "head": True, "baselines": False, **fields}
            made[name] = export_bundle(Request(method, "cpu", output=output, **fields)).folder
        return made[name]

    return make


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """[150, 90, 3]"""
    slope = np.add.outer(np.arange(150), np.arange(90))[..., None]
    noise = np.random.default_rng(0).integers(0, 90, (150, 90, 3))
    return (noise + 0.6 * slope * [1.0, 0.5, 0.2]).clip(0, 255).astype(np.uint8)


def test_a_photo_shows_what_transformers_sees_in_it(
    exported: Callable[..., Path], checkpoint: Path, photo: NDArray[np.uint8]
) -> None:
    from transformers import AutoImageProcessor, Dinov2ForImageClassification

    processor = cast(Any, AutoImageProcessor).from_pretrained(checkpoint, backend="pil")
    inputs = processor(images=Image.fromarray(photo), return_tensors="pt")
    with torch.inference_mode():
        logits = cast(Any, Dinov2ForImageClassification).from_pretrained(checkpoint).eval()(**inputs).logits[0]
    classifier = load(exported("none"))
    assert isinstance(classifier, Classifier)
    assert classifier.labels == (*LABELS.values(),)
    (found,) = classifier(photo)
    np.testing.assert_allclose(found.logits, logits.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probabilities, logits.softmax(0).numpy(), rtol=1e-4, atol=1e-5)
    order = logits.argsort(descending=True).tolist()
    assert [label for label, _ in found.top()] == [LABELS[at] for at in order]
    assert found.top(1) == [(LABELS[order[0]], found.probabilities.max())]


def test_of_classes_that_are_as_likely_the_first_one_comes_first() -> None:
    found = Classes(np.zeros(3, np.float16), ("a", "b", "c"))
    assert found.probabilities.dtype == np.float32
    assert [label for label, _ in found.top(2)] == ["a", "b"]


def test_large_logits_of_float16_overflow_nothing() -> None:
    found = Classes(np.array([60000, 59968, -60000], np.float16), ("a", "b", "c"))
    np.testing.assert_allclose(found.probabilities, [1, np.exp(-32.0), 0], rtol=1e-6)


@pytest.mark.slow
def test_several_images_are_classified_each_by_itself(exported: Callable[..., Path], photo: NDArray[np.uint8]) -> None:
    classifier, photos = load(exported("uniform", keep=12, tiles=2)), [photo, photo[::-1].copy(), photo[:, ::-1].copy()]
    together, alone = classifier(photos), [classifier([one, one])[0] for one in photos]
    assert len(together) == 3  # in pieces of two
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-4)
    assert np.abs(together[0].logits - together[1].logits).max() > 0.01


@pytest.mark.slow
def test_the_bundle_says_what_it_gives(exported: Callable[..., Path], photo: NDArray[np.uint8]) -> None:
    folder = exported("uniform", keep=12, precision="float16", dynamic_batch=True)
    manifest = bundles.load(folder).manifest
    assert (manifest.kind, manifest.labels, manifest.steps) == ("logits", (*LABELS.values(),), ((0, 12),))
    assert (manifest.outputs["logits"].shape, manifest.outputs["logits"].dtype) == (("batch", 3), "float16")
    assert [*manifest.outputs] == ["logits", "indices", "scores"]
    page = (folder / "README.md").read_text()
    assert "classifies with 12 of 36 tokens" in page
    assert "`logits`: of the 3 classes of `labels` in `manifest.json`" in page
    outputs = load(folder).outputs(photo)
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (1, 3), "indices": (1, 12), "scores": (1, 36)
    }  # fmt: skip


@pytest.mark.parametrize("fields", [pytest.param({}, marks=pytest.mark.slow), {"precision": "float16"}], ids=str)
def test_logits_are_verified_like_tokens(exported: Callable[..., Path], tmp_path: Path, fields: dict[str, str]) -> None:
    folder = exported("received", keep=12, options={"layer": "1"}, **fields)
    (report,) = verify(folder, "cpu")
    assert report.passed
    assert report.decided > 0.5
    assert all(one.tokens == one.images for one in report.probes.values())  # a row of logits for each image


def test_a_graph_whose_classifier_is_another_fails(exported: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported("none"), tmp_path / "bundle"))
    model = onnx.load(folder / "encoder.onnx")
    (bias,) = (one for one in model.graph.initializer if one.name.endswith("layers.0.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    onnx.save(model, folder / "encoder.onnx")
    manifest = bundles.Manifest.from_json((folder / "manifest.json").read_text())
    sealed = dataclasses.replace(manifest, files=bundles.describe_files(folder))
    (folder / "manifest.json").write_text(sealed.to_json())
    (report,) = verify(folder, "cpu")
    assert not report.passed
    assert "logits differ by up to" in report.worst.reasons[0]


def test_the_picture_says_the_likeliest_class(exported: Callable[..., Path], photo: NDArray[np.uint8]) -> None:
    folder = exported("received", keep=12, options={"layer": "1"}, precision="float16")
    picture = draw(folder, photo)
    assert picture.info["classes"] == load(folder)(photo)[0].top()


def test_what_asks_for_another_kind_is_refused(exported: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="must give tokens, indices, scores, it gives logits, indices, scores"):
        load(exported("none"), kind=TokenEncoder)


@pytest.mark.slow
def test_without_head_the_checkpoint_gives_tokens_as_before_and_export_says_so(
    checkpoint: Path, tmp_path: Path
) -> None:
    request = Request("none", "cpu", model=str(checkpoint), output=tmp_path / "bundle", baselines=False)
    done = export_bundle(request)
    assert done.manifest.kind == "tokens"
    assert done.warnings == (
        f"the bundle gives tokens, and {checkpoint.name} is a Dinov2ForImageClassification: --head gives its logits "
        "instead",
    )


@pytest.mark.parametrize("labels", [(), ("cat",), ("a", "b", "c", "d")], ids=len)
def test_a_manifest_with_other_labels_than_logits_is_refused(exported: Callable[..., Path], labels: Any) -> None:
    manifest = dataclasses.replace(bundles.load(exported("none")).manifest, labels=labels)
    with pytest.raises(BundleError, match=rf"logits must be \[1, {len(labels)}\], one for each of labels"):
        manifest.to_json()
