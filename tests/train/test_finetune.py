"""Sparse fine-tuning: drawn shares, a checkpoint that others read, a control that differs in nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import EdgepruneError, ModelError, RequestError
from edgeprune.probes.drawn import Scenes
from edgeprune.probes.sample import Sample
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.pruners._select import take
from edgeprune.quality.sparse import SparseDetector, numbered, open_sparse
from edgeprune.train import finetune as tuning
from edgeprune.train.finetune import RECORD, SCENES, TuningSettings, control_folder, finetune
from edgeprune.train.objects import Objects, mirrored
from edgeprune.train.resume import Interrupted
from tests.covering import always

SMALL = dataclasses.replace(SCENES, epochs=2, batch=8)
DATA = Scenes(26)
"""three steps of 8 in an epoch, and 2 images are left over"""
LAYERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """A tiny YOLOS for drawn scenes, with positions between its layers."""
    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 80, "width": 80}, "do_pad": False}
    return model_folder(
        tmp_path_factory.mktemp("yolos") / "tiny",
        "YolosForObjectDetection",
        processor,
        image_size=[80, 80],
        patch_size=8,
        num_hidden_layers=LAYERS,
        num_detection_tokens=6,
        use_mid_position_embeddings=True,
        id2label=dict(enumerate(DATA.classes)),
        label2id={name: at for at, name in enumerate(DATA.classes)},
    )


def scorer(kind: str = "front", layers: int = 1) -> Scorer:
    """Of random weights: which patches are kept is of no matter here."""
    torch.manual_seed(0)
    patch = 16 if kind == "coarse" else 8
    grid = (80 // patch, 80 // patch)
    return Scorer(ScorerConfig(kind, layers, 32, 2, 32, patch, grid, (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]


def small(folder: Path, output: Path, settings: TuningSettings = SMALL, **options: Any) -> list[dict[str, Any]]:
    detector = open_sparse(folder, options.pop("scorer", scorer()))
    return finetune(detector, DATA, output, settings, threads=1, **options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(step: int, of: str) -> Callable[[int, int, str], None]:
    """A `show` that sends a real signal once, in the training into a folder."""
    sent: list[int] = []

    def show(done: int, total: int, what: str) -> None:
        if what.startswith(f"{of}: epoch") and done == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGINT)

    return show


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    output = tmp_path_factory.mktemp("tuned") / "detector"
    small(folder, output, control=True, source="scenes")
    return output


@pytest.mark.slow
def test_a_number_of_patches_is_drawn_for_each_batch_by_the_seed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    select = SparseDetector.select

    def noted(self: SparseDetector, pixels: Any, patches: Any, keep: int) -> Any:
        kept.append(keep)
        chosen = select(self, pixels, patches, keep)
        assert chosen.indices.shape == (SMALL.batch, keep)
        assert not chosen.indices.requires_grad
        return chosen

    monkeypatch.setattr(SparseDetector, "select", noted)
    few = dataclasses.replace(SMALL, keep=(0.3, 0.8), epochs=1)
    for number, seed in enumerate((0, 0, 1)):
        small(folder, tmp_path / str(number), dataclasses.replace(few, seed=seed))
    first, again, other = kept[:3], kept[3:6], kept[6:]
    assert first == again
    assert first != other
    assert len(set(first)) == 3
    assert all(30 <= keep <= 80 for keep in kept)


def test_the_shares_reach_from_the_lowest_to_the_highest() -> None:
    _, _, shares = tuning._plan(40_000, dataclasses.replace(SMALL, keep=(0.3, 1.0)), 0)
    assert 0.3 <= shares.min() < 0.31
    assert 0.99 < shares.max() <= 1.0
    assert abs(float(shares.mean()) - 0.65) < 0.01


def test_transformers_and_the_export_read_what_was_fine_tuned(folder: Path, tuned: Path) -> None:
    from transformers import YolosForObjectDetection

    model: Any = YolosForObjectDetection.from_pretrained(tuned)
    assert (tuned / "config.json").read_text() == (folder / "config.json").read_text()
    assert (tuned / "preprocessor_config.json").read_bytes() == (folder / "preprocessor_config.json").read_bytes()
    encoder = encoders.load(open_checkpoint(str(tuned)))
    assert encoder.labels == DATA.classes
    pixels = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        hidden = encoder.tower.module(pixels).last_hidden_state[:, -encoder.tower.suffix :]
        logits, boxes = encoder.projector(hidden)
        whole = model(pixels)
    torch.testing.assert_close(logits, whole.logits)
    torch.testing.assert_close(boxes, whole.pred_boxes)


def test_everything_trains_and_the_loss_falls(folder: Path, tuned: Path) -> None:
    before, after = tensors(folder), tensors(tuned)
    assert before.keys() == after.keys()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged <= {name for name in before if name.endswith("key.bias")}  # a softmax does not see it
    first, last = json.loads((tuned / RECORD).read_text())["loss"]
    assert last < first


def test_the_control_differs_in_the_share_alone(tuned: Path, folder: Path, tmp_path: Path) -> None:
    sparse, dense = (json.loads((one / RECORD).read_text()) for one in (tuned, control_folder(tuned)))
    assert (sparse["keep"], dense["keep"]) == ([0.3, 1.0], [1.0, 1.0])
    own = {"keep", "loss", "seconds"}
    assert {name: sparse[name] for name in sparse.keys() - own} == {name: dense[name] for name in dense.keys() - own}
    for epoch in range(2):
        plans = [tuning._plan(26, dataclasses.replace(SMALL, keep=keep), epoch) for keep in ((0.3, 1.0), (1.0, 1.0))]
        assert all(np.array_equal(one, other) for one, other in zip(plans[0][:2], plans[1][:2], strict=True))
    small(folder, tmp_path / "whole", dataclasses.replace(SMALL, keep=(1.0, 1.0)))
    assert same(tensors(tmp_path / "whole"), tensors(control_folder(tuned)))
    assert not same(tensors(tuned), tensors(control_folder(tuned)))


@pytest.mark.slow
@pytest.mark.parametrize("of", always(["detector", "detector-control"], "detector"))
def test_an_interrupted_training_goes_on_to_the_same_weights(
    of: str, folder: Path, tuned: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"control": True, "source": "scenes"}
    with pytest.raises(Interrupted, match="--resume") as stopped:
        small(folder, tmp_path / "detector", show=interrupt_at(4, of), **given)
    assert stopped.value.exit_code == 130
    assert not (tmp_path / of / RECORD).exists()
    with pytest.raises(RequestError, match="--resume"):
        small(folder, tmp_path / "detector", **given)
    records = small(folder, tmp_path / "detector", resume=True, **given)
    assert [record["steps"] for record in records] == [6, 6]
    for name in ("detector", "detector-control"):
        assert same(tensors(tmp_path / name), tensors(tuned.parent / name))
        assert not list((tmp_path / name).glob("*checkpoint*"))


def test_a_training_goes_on_with_its_own_request_alone(folder: Path, tuned: Path) -> None:
    before = tensors(tuned)
    (record,) = small(folder, tuned, source="scenes", resume=True)  # complete: nothing is done
    assert record == json.loads((tuned / RECORD).read_text())
    with pytest.raises(ModelError, match="seed 0, not 3"):
        small(folder, tuned, dataclasses.replace(SMALL, seed=3), source="scenes", resume=True)
    with pytest.raises(ModelError, match="scorer"):
        small(folder, tuned, source="scenes", resume=True, scorer=scorer("coarse"))
    assert same(before, tensors(tuned))


def test_what_a_trunk_scorer_reads_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    head = scorer("trunk", layers=2)
    small(folder, tmp_path / "detector", scorer=head)
    pixels = torch.randn(2, 3, 80, 80)
    chosen = []
    for one in (folder, tmp_path / "detector"):
        detector = open_sparse(one, head)

        def choose(patches: torch.Tensor, detector: SparseDetector = detector) -> torch.Tensor:
            chosen.append(detector.select(pixels, patches, 50))
            return chosen[-1].indices

        with torch.no_grad():
            detector(pixels, choose)
    assert torch.equal(chosen[0].scores, chosen[1].scores)
    before, after = tensors(folder), tensors(tmp_path / "detector")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".layer.2." in name for name in changed)
    assert not any(".layer.0." in name or ".layer.1." in name or "embeddings." in name for name in changed)


def test_a_coarse_scorer_keeps_whole_blocks(folder: Path) -> None:
    detector = open_sparse(folder, scorer("coarse"))
    assert {detector.keep_of(share) % 4 for share in np.linspace(0.01, 1, 50)} == {0}
    assert (detector.keep_of(0.001), detector.keep_of(1.0)) == (4, 100)


@pytest.mark.parametrize(("shape", "dim", "images"), [((2, 5, 3), 1, 2), ((1, 5, 3), 1, 2), ((5, 3), 0, 2)])
def test_taking_rows_has_the_gradient_of_plain_gathers(shape: tuple[int, ...], dim: int, images: int) -> None:
    rows = torch.tensor([[0, 2, 4], [1, 2, 3]])[:images]
    if dim and shape[0] < images:
        rows = rows[:1]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: take(x, rows, dim), x)


def test_boxes_are_mirrored_with_their_images() -> None:
    objects = Objects(DATA, (80, 80), range(4))
    images, labels = next(objects.batches([[0, 1]]))
    turned, boxes = mirrored(images, labels, [True, False])
    assert torch.equal(turned[0], images[0].flip(-1))
    assert torch.equal(turned[1], images[1])
    assert torch.equal(boxes[1]["boxes"], labels[1]["boxes"])
    sample = DATA[0]
    flipped = np.stack([80 - sample.boxes[:, 2], 80 - sample.boxes[:, 0]], axis=1)
    centre, width = boxes[0]["boxes"][:, 0], boxes[0]["boxes"][:, 2]
    np.testing.assert_allclose(80 * torch.stack([centre - width / 2, centre + width / 2], 1), flipped, atol=1e-4)


def test_boxes_are_parts_of_the_image_whatever_its_size() -> None:
    sample = Sample(np.zeros((40, 100, 3), np.uint8), np.array([[10, 10, 30, 20]], np.float32), np.array([1]), None, "")

    class One:
        classes = ("a", "b")

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            return sample

    image, labels = Objects(One(), (80, 64), [5, 7])[0]
    assert image.shape == (3, 80, 64)
    torch.testing.assert_close(labels["boxes"], torch.tensor([[0.2, 0.375, 0.2, 0.25]]))
    assert labels["class_labels"].tolist() == [7]


def test_classes_go_by_their_names(folder: Path) -> None:
    assert numbered(("ring", "circle"), DATA.classes, "tiny") == [3, 0]
    with pytest.raises(ModelError, match=r"lacks 1, the first is 'hexagon'.*rename"):
        numbered(("ring", "hexagon"), DATA.classes, "tiny")


@pytest.mark.parametrize("keep", [(0.0, 1.0), (0.6, 0.5), (0.5, 1.5)])
def test_shares_that_make_no_sense_are_refused(keep: tuple[float, float], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="0 < LOW <= HIGH <= 1"):
        small(folder, tmp_path / "detector", dataclasses.replace(SMALL, keep=keep))


@pytest.mark.slow
def test_the_old_detector_stays_until_the_new_one_is_whole(folder: Path, tuned: Path, tmp_path: Path) -> None:
    copy, other = Path(shutil.copytree(tuned, tmp_path / "detector")), dataclasses.replace(SMALL, seed=1)
    with pytest.raises(Interrupted):
        small(folder, copy, other, force=True, show=interrupt_at(4, "detector"))
    assert all((copy / path.name).read_bytes() == path.read_bytes() for path in tuned.iterdir())
    (record,) = small(folder, copy, other, resume=True)
    assert record == json.loads((copy / RECORD).read_text())
    assert not same(tensors(tuned), tensors(copy))
    assert {path.name for path in copy.iterdir()} == {path.name for path in tuned.iterdir()}


def test_another_folder_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(RequestError, match="holds no fine-tuning"):
        small(folder, tmp_path / "mine", force=True)


def test_a_loss_that_is_not_finite_ends_the_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match="smaller --lr"):
        small(folder, tmp_path / "detector", dataclasses.replace(SMALL, lr=1e30))


def test_only_a_yolos_is_fine_tuned() -> None:
    with pytest.raises(ModelError, match="must be a YOLOS detector"):
        open_sparse("edgeprune/tiny", scorer())
