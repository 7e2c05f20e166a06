"""Training a scorer: it learns, it goes on bit for bit after an interruption, and it refuses what does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune.errors import EdgepruneError, ImageError, MissingPackageError, ModelError, RequestError
from edgeprune.probes.drawn import Scenes
from edgeprune.pruners._scorer import load_scorer
from edgeprune.quality.ranking import read
from edgeprune.quality.trunk import Trunk, read_detector
from edgeprune.train.patches import Patches
from edgeprune.train.resume import NAME as CHECKPOINT
from edgeprune.train.resume import Interrupted
from edgeprune.train.scorer import SCENES, ScorerSettings, train
from tests.covering import always

SMALL = dataclasses.replace(SCENES, layers=1, width=32, heads=2, mlp_width=32, epochs=2, batch=16)
DATA, HELD_OUT = Scenes(72), Scenes(20, seed=1)
"""four steps of 16 in an epoch, and 8 images are left over"""


def small(output: Path, settings: ScorerSettings = SMALL, **options: Any) -> Any:
    return train(DATA, HELD_OUT, settings, output, threads=1, **options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "scorer.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(step: int, number: signal.Signals = signal.SIGINT) -> Callable[[int, int, str], None]:
    """A `show` that sends a real signal once."""
    sent: list[int] = []

    def show(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)

    return show


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "scorer"
    small(folder)
    return folder


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded detector in which no position is zero."""
    from transformers import YolosConfig, YolosForObjectDetection

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    }
    config = YolosConfig(**sizes, image_size=[80, 80], patch_size=8, num_detection_tokens=5)
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_()
    folder = tmp_path_factory.mktemp("yolos")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    return folder


@pytest.mark.slow
def test_a_scorer_learns_to_tell_foreground_from_background(tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, batch=4, epochs=3)
    report = train(Scenes(300), Scenes(100, seed=1), settings, tmp_path / "scorer", threads=1)
    assert report.auc > 0.95
    assert report.recall["0.5"] > 0.95
    assert report.accuracy > report.majority
    losses = report.training["loss"]
    assert losses == sorted(losses, reverse=True)


def test_the_folder_holds_what_was_trained_and_how(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"scorer.safetensors", "config.json", "report.json", "report.png"}
    config, report = (json.loads((whole / name).read_text()) for name in ("config.json", "report.json"))
    scorer = load_scorer(whole / "scorer.safetensors")
    assert scorer.config.grid == (10, 10)
    assert dict(scorer.config.foreground) == config["scorer"]["foreground"] == report["foreground"]
    assert report["images"] == len(HELD_OUT)
    assert {"seed", "threshold", "seconds", "loss", "versions", "classes"} <= config["training"].keys()
    assert (whole / "scorer.safetensors").stat().st_mode == (whole / "config.json").stat().st_mode


def test_the_report_is_that_of_the_scorer_in_the_file(whole: Path) -> None:
    scorer, report = load_scorer(whole / "scorer.safetensors"), json.loads((whole / "report.json").read_text())
    patches = Patches(HELD_OUT, (80, 80), 8, SMALL.threshold)
    images, labels = (torch.stack(parts) for parts in zip(*(patches[at] for at in range(20)), strict=True))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (scorer.config.mean, scorer.config.std))
    logits = scorer((images / 255 - mean) / std)
    called = (logits[..., 1] > logits[..., 0]).unflatten(1, (10, 10))
    assert report["accuracy"] == pytest.approx((called == labels).float().mean().item(), abs=2e-3)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scorer_and_another_one_another(whole: Path, tmp_path: Path) -> None:
    small(tmp_path / "again")
    small(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert same(tensors(whole), tensors(tmp_path / "again"))
    assert not same(tensors(whole), tensors(tmp_path / "other"))


@pytest.mark.parametrize(
    "step",
    always([1, 3, 4, 7, 8], 4),  # always at the end of an epoch
    ids=lambda step: f"after step {step} of 8",
)
def test_an_interrupted_training_goes_on_bit_for_bit(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Interrupted, match=rf"after step {step} of 8 for .*; nothing is lost: .* --resume") as caught:
        small(tmp_path / "scorer", show=interrupt_at(step))
    assert caught.value.exit_code == 128 + signal.SIGINT
    assert {path.name for path in (tmp_path / "scorer").iterdir()} == {"checkpoint.safetensors"}
    report = small(tmp_path / "scorer", resume=True)
    assert same(tensors(whole), tensors(tmp_path / "scorer"))
    assert report.training["loss"] == json.loads((whole / "report.json").read_text())["training"]["loss"]
    assert not (tmp_path / "scorer" / "checkpoint.safetensors").exists()


def test_termination_saves_too_and_the_handlers_are_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as caught:
        small(tmp_path / "scorer", show=interrupt_at(2, signal.SIGTERM))
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_a_kill_loses_no_more_than_what_came_after_the_checkpoint(whole: Path, tmp_path: Path) -> None:
    def fall(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == 6:
            raise MemoryError

    with pytest.raises(MemoryError):
        small(tmp_path / "scorer", show=fall)
    steps: list[int] = []
    small(tmp_path / "scorer", resume=True, show=lambda at, _, what: steps.append(at) if "epoch" in what else None)
    assert steps == [5, 6, 7, 8]  # the last checkpoint was that of the first epoch's end
    assert same(tensors(whole), tensors(tmp_path / "scorer"))


def test_a_complete_training_is_not_repeated(whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert small(whole, resume=True) == read(whole / "report.json")
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_a_training_only_goes_on_with_its_own_options_and_data(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small(tmp_path / "begun", show=interrupt_at(1))
    for folder in (whole, tmp_path / "begun"):
        with pytest.raises(ModelError, match=r"needs the options that .* was begun with: lr 0\.003, not 0\.1, seed 0"):
            small(folder, dataclasses.replace(SMALL, seed=5, lr=0.1), resume=True)
    with pytest.raises(ModelError, match=r"data , not other images"):
        small(tmp_path / "begun", source="other images", resume=True)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--resume needs a training that was begun; .* leave --resume out"):
        small(tmp_path / "nothing", resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small(tmp_path / "scorer", show=interrupt_at(5))
    path = tmp_path / "scorer" / "checkpoint.safetensors"
    whole_file = path.read_bytes()
    for damaged in (b"", whole_file[:-4], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"checkpoint\.safetensors is damaged: .*begin anew with --force"):
            small(tmp_path / "scorer", resume=True)
    save_file({"model.head.bias": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="is damaged"):
        small(tmp_path / "scorer", resume=True)


@pytest.mark.slow
def test_an_existing_scorer_is_replaced_only_by_force(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists; choose another --output, go on with --resume, or replace it"):
        small(whole)
    one_epoch = dataclasses.replace(SMALL, epochs=1)
    small(tmp_path / "scorer", one_epoch)
    small(tmp_path / "scorer", force=True)
    assert same(tensors(whole), tensors(tmp_path / "scorer"))


@pytest.mark.slow
def test_the_old_scorer_stays_until_the_new_one_is_whole(whole: Path, tmp_path: Path) -> None:
    folder, other = Path(shutil.copytree(whole, tmp_path / "scorer")), dataclasses.replace(SMALL, seed=1)
    with pytest.raises(Interrupted):
        small(folder, other, force=True, show=interrupt_at(3))
    assert {path.name for path in folder.iterdir()} - {path.name for path in whole.iterdir()} == {CHECKPOINT}
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())
    report = small(folder, other, resume=True)
    assert report.training["seed"] == 1
    assert not same(tensors(whole), tensors(folder))
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds no scorer, so it is not replaced; choose another --output"):
        small(tmp_path, force=force)
    with pytest.raises(RequestError, match=r"must be a folder, .* is a file"):
        small(tmp_path / "notes.txt", force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match=r"the loss of step \d is (nan|inf); take a smaller --lr than 1e\+30"):
        small(tmp_path / "scorer", dataclasses.replace(SMALL, lr=1e30))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (80, 84)}, "--size must be a multiple of 8 pixels, the patch, got 80x84; the nearest is 80x80"),
        ({"size": (72, 80), "kind": "coarse"}, "--size must be a multiple of 16 pixels, .*; the nearest is 64x80"),
        ({"heads": 5}, "--width must be a multiple of --heads, got 32 and 5"),
        ({"threshold": 2.0}, "--threshold must be a share of a patch"),
        (
            {"kind": "trunk", "model": "absent"},
            "--model must be a folder or a Hugging Face id .* there is no folder absent",
        ),
    ],
    ids=["size", "size of coarse", "heads", "threshold", "model"],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        small(tmp_path / "scorer", dataclasses.replace(SMALL, **changed))
    assert not (tmp_path / "scorer").exists()


@pytest.mark.slow
def test_a_coarse_scorer_has_patches_twice_as_wide_and_is_judged_on_those_of_the_model(tmp_path: Path) -> None:
    report = small(tmp_path / "scorer", dataclasses.replace(SMALL, kind="coarse"))
    config = load_scorer(tmp_path / "scorer" / "scorer.safetensors").config
    assert (config.kind, config.patch_size, config.grid) == ("coarse", 16, (5, 5))
    assert report.grid == (10, 10)
    assert report.ideal["0.5"] < 1  # 12 of 25 blocks


def test_a_trunk_reads_what_the_next_layer_of_the_detector_reads(yolos: Path) -> None:
    from transformers import YolosForObjectDetection

    model: Any = YolosForObjectDetection.from_pretrained(yolos)
    read: list[torch.Tensor] = []
    model.eval().vit.encoder.layer[2].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    pixels = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(pixels)
        found = Trunk(read_detector(str(yolos)), 2)(pixels)
    assert torch.equal(found, read[0][:, 1:101])


def test_a_trunk_scorer_is_a_norm_and_a_head_in_the_detectors_pixels(yolos: Path, tmp_path: Path) -> None:
    report = small(tmp_path / "scorer", dataclasses.replace(SMALL, kind="trunk", layers=2, model=str(yolos)))
    config = load_scorer(tmp_path / "scorer" / "scorer.safetensors").config
    assert (config.kind, config.layers, config.width, config.mlp_width) == ("trunk", 2, 32, 48)
    assert (config.mean, config.std) == ((0.4,) * 3, (0.3,) * 3)
    assert tensors(tmp_path / "scorer").keys() == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert report.training["loss"][1] < report.training["loss"][0]


def test_a_trunk_needs_a_layer_behind_it(yolos: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--layers must be in 1\.\.3 for a head on .*, which has 4 layers, got 4"):
        small(tmp_path / "scorer", dataclasses.replace(SMALL, kind="trunk", layers=4, model=str(yolos)))


def test_a_detector_without_one_of_its_tensors_is_refused(yolos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(yolos, tmp_path / "yolos")
    whole_file = load_file(folder / "model.safetensors")
    del whole_file["vit.embeddings.position_embeddings"]
    save_file(whole_file, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the tensor .*position_embeddings"):
        small(tmp_path / "scorer", dataclasses.replace(SMALL, kind="trunk", model=str(folder)))


def test_another_model_than_a_detector_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text("{}")
    save_file({"vit.layernorm.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"--model must be a YOLOS detector for --kind trunk, .* is vit"):
        read_detector(str(tmp_path))


@pytest.mark.slow
def test_a_batch_larger_than_the_set_is_the_set(tmp_path: Path) -> None:
    steps: list[int] = []
    small(tmp_path / "scorer", dataclasses.replace(SMALL, batch=1000), show=lambda _, total, __: steps.append(total))
    assert 2 in steps  # one in each of two epochs


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    def fill(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            EdgepruneError, match=r"checkpoint of step 8 cannot be written to .*; the one before it stays"
        ):
            small(tmp_path / "scorer", show=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "scorer").iterdir()] == ["checkpoint.safetensors"]
    steps: list[int] = []
    small(tmp_path / "scorer", resume=True, show=lambda at, _, what: steps.append(at) if "epoch" in what else None)
    assert steps == [5, 6, 7, 8]


def test_a_missing_package_is_said_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.quality.ranking.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"scipy, which is not installed; pip install 'edgeprune\[bavit\]'"):
        small(tmp_path / "scorer")
    assert not (tmp_path / "scorer").exists()


def test_images_of_another_size_are_stretched_with_their_labels() -> None:
    large = Patches(Scenes(3, size=(96, 128)), (80, 80), 8, 0.1)
    image, labels = large[0]
    assert (image.shape, image.dtype, labels.shape) == ((3, 80, 80), torch.uint8, (10, 10))
    assert labels.any()


def test_a_set_too_large_to_prepare_comes_in_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [[3, 1], [0, 2]]
    prepared = list(Patches(DATA, (80, 80), 8, 0.1).batches(batches))
    monkeypatch.setattr("edgeprune.train.patches.CACHE_NBYTES", 0)
    for workers in (0, 1):
        decoded = list(Patches(DATA, (80, 80), 8, 0.1).batches(batches, workers))
        for one, other in zip(prepared, decoded, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert np.array_equal(prepared[0][0][1].permute(1, 2, 0).numpy(), DATA[1].image)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_an_image_is_one_line_from_a_worker_too(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def broken(index: int) -> None:
        raise ImageError(f"image {index} must be an image: it is none")

    monkeypatch.setattr("edgeprune.train.patches.CACHE_NBYTES", 0)
    patches = Patches(DATA, (80, 80), 8, 0.1)
    monkeypatch.setattr(patches, "_prepare", broken)
    with pytest.raises(ImageError, match=r"^image 3 must be an image: it is none$"):
        list(patches.batches([[3]], workers))
