"""The training of the embedded vision-language model: its stages, and that an interruption changes no bit of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeprune.errors import ModelError, RequestError
from edgeprune.quality.scenes import HELD_OUT_SEED, draw
from edgeprune.train.drawings import Drawings, laid
from edgeprune.train.reading import FEWEST, dropped
from edgeprune.train.resume import Interrupted
from edgeprune.train.tiny import RECORD, STAGES, TinySettings, main, train_tiny
from tests.covering import always

SMALL = TinySettings(scenes=12, rounds=(2, 1, 1), per_round=2, batches=(4, 3, 3), seed=3)
TOTAL = 2 * 2 + 2 + 2


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train_tiny(folder, SMALL, judged=3)
    return folder


@pytest.mark.parametrize("stage", always(STAGES))
def test_an_interrupted_training_goes_on_to_the_same_bits(stage: str, straight: Path, tmp_path: Path) -> None:
    """Stopped behind the first step of the stage, which is in the middle of a round."""
    told: list[str] = []

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith(stage) and not told:
            told.append(what)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="--resume"):
        train_tiny(tmp_path, SMALL, judged=3, show=stop)
    assert not (tmp_path / RECORD).exists()
    with pytest.raises(RequestError, match="--resume"):
        train_tiny(tmp_path, SMALL)
    with pytest.raises(ModelError, match="lr"):
        train_tiny(tmp_path, dataclasses.replace(SMALL, lr=1e-3), resume=True)
    train_tiny(tmp_path, SMALL, judged=3, resume=True)
    found, expected = weights(tmp_path), weights(straight)
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]
    records = [json.loads((folder / RECORD).read_text()) for folder in (tmp_path, straight)]
    assert records[0]["accuracy"] == records[1]["accuracy"]
    assert [records[0][one]["loss"] for one in STAGES] == [records[1][one]["loss"] for one in STAGES]


@pytest.mark.slow
def test_what_is_written_is_a_checkpoint_that_answers(straight: Path) -> None:
    from edgeprune.quality.language import load_language

    language = load_language(str(straight))
    assert len(language.answers(np.zeros((1, 4, 128), np.float32), [["is there a red star?"]])[0]) == 1
    record = json.loads((straight / RECORD).read_text())
    assert (record["scenes"], len(record["sight"]["loss"]), len(record["dropping"]["loss"])) == (12, 2, 1)


@pytest.mark.slow
def test_the_tower_learns_in_the_first_stage_alone(straight: Path) -> None:
    own = load_file(straight / "sight" / "checkpoint.safetensors")
    read, drop = (load_file(straight / stage / "checkpoint.safetensors") for stage in STAGES[1:])
    tower = {name.removeprefix("model.tower."): value for name, value in own.items() if name.startswith("model.tower.")}
    for later in (read, drop):
        found = {name: value for name, value in later.items() if name.startswith("model.model.vision_tower.")}
        assert len(found) == len(tower)
        assert all(torch.equal(tower[name.removeprefix("model.model.vision_tower.")], found[name]) for name in found)
    assert any(not torch.equal(read[name], drop[name]) for name in read if name.startswith("model.lm_head"))


def test_what_is_learned_of_a_patch_turns_with_the_image() -> None:
    drawings, scene = Drawings(3, seed=5), draw(5, 2)
    plain, turned = drawings.sights([2], [0]), drawings.sights([2], [5])
    assert np.array_equal(turned.images[0], np.rot90(scene.image)[:, ::-1])
    for one, other in (
        (plain.shapes, turned.shapes),
        (plain.colors, turned.colors),
        (plain.distances, turned.distances),
    ):
        assert np.array_equal(laid(one.view(12, 12).numpy(), 5).ravel(), other[0].numpy())
    on = scene.labels >= 0
    assert ((plain.shapes[0].numpy() < 6) == on).all()
    assert (plain.distances[0].numpy()[on] * 96 < 19 + 6).all()
    assert int(plain.counts[0, -1]) == len(scene.things) == int(plain.counts[0, :-1].sum())


def test_tokens_are_dropped_in_raster_order_and_as_many_for_all() -> None:
    seen = torch.arange(144.0)[None, :, None].expand(2, -1, 5) * torch.tensor([1.0, -1.0])[:, None, None]
    counts = set()
    for lot in range(40):
        left = dropped(seen, np.random.default_rng(lot))
        assert (left[0].diff(dim=0) > 0).all()
        assert (left[1].diff(dim=0) < 0).all()
        counts.add(left.shape[1])
    assert FEWEST <= min(counts) < 30
    assert 100 < max(counts) <= 144


def test_what_cannot_be_trained_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(output), "--seed", str(HELD_OUT_SEED)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RequestError, match=r"8 or more, .* got 7"):
        train_tiny(output, dataclasses.replace(SMALL, scenes=7))
    assert not output.exists()
