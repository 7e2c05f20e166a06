"""A tower is adapted to steps inside it, can be interrupted, and goes into no other tower."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgeprune import encoders
from edgeprune.adapted import FILE, put_adapted
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError, RequestError
from edgeprune.export.opening import opened
from edgeprune.export.request import Request
from edgeprune.pruners.inside import get
from edgeprune.quality.sweep.items import drawn
from edgeprune.schedule import Inside
from edgeprune.targets import load
from edgeprune.train.adapt import AdaptSettings, _Distilling, adapt, drawn_steps

REQUEST = Request("fastervlm", "cpu", keep=32, inside="drop", schedule="2:70,4:40")
SHORT = AdaptSettings(epochs=8, batch=8, lr=3e-4)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    adapt(REQUEST, drawn(24, seed=5), folder, SHORT, force=True)
    return folder


@pytest.fixture(scope="module")
def briefly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapted for an epoch, for what hangs on no loss."""
    folder = tmp_path_factory.mktemp("briefly")
    adapt(REQUEST, drawn(8, seed=5), folder, dataclasses.replace(SHORT, epochs=1), force=True)
    return folder


def left(adapted: Path | None) -> float:
    """The loss under the same steps on the same batches, which those of two epochs are not."""
    found = opened(REQUEST, load("cpu"))
    encoder, teacher = found.encoder, dataclasses.replace(copy.deepcopy(found.encoder), inside=None)
    if adapted is not None:
        put_adapted(encoder.tower.module, adapted)
    assert encoder.inside is not None
    items = drawn(24, seed=5)
    task = _Distilling(encoder, teacher, encoder.inside, found.method, items, found.preprocessing, SHORT, "cpu")
    with torch.inference_mode():
        return float(np.mean([task.loss(batch)[1] for epoch in range(4) for batch in task.batches(epoch, 0)]))


@pytest.mark.slow
def test_the_loss_falls_and_the_weights_go_into_the_tower_that_they_are_of(adapted: Path) -> None:
    tower = encoders.load(open_checkpoint()).tower.module
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    made = put_adapted(tower, adapted)
    assert len(made["loss"]) == SHORT.epochs
    assert left(adapted) < 0.9 * left(None)
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if "embed" in name]
    with pytest.raises(ModelError, match="whose weights are other ones"):  # which it is now
        put_adapted(tower, adapted)


@pytest.mark.parametrize(("reducer", "asked"), [("drop", None), ("cells", "those of cells"), (None, "no steps inside")])
def test_other_steps_than_it_was_trained_for_bring_a_warning(
    briefly: Path, reducer: str | None, asked: str | None
) -> None:
    schedule = None if reducer is None else REQUEST.schedule
    found = opened(dataclasses.replace(REQUEST, inside=reducer, schedule=schedule, adapted=briefly), load("cpu"))
    assert len(found.warnings) == (asked is not None)
    assert all(f"was trained for steps of drop, and this has {asked};" in one for one in found.warnings)


def test_what_is_no_adapted_tower_is_refused(briefly: Path, tmp_path: Path) -> None:
    tower = encoders.load(open_checkpoint()).tower.module
    with pytest.raises(ModelError, match="there is no"):
        put_adapted(tower, tmp_path)
    (tmp_path / FILE).write_bytes((briefly / FILE).read_bytes()[:100])
    with pytest.raises(ModelError, match="must be what `edgeprune adapt` wrote"):
        put_adapted(tower, tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(ModelError, match=r"is not: it has no edgeprune\.adapted"):
        put_adapted(tower, tmp_path)


def test_what_was_not_begun_does_not_go_on_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs a training that was begun"):
        adapt(REQUEST, drawn(8, seed=5), tmp_path / "none", SHORT, resume=True)
    assert not (tmp_path / "none").exists()


def test_without_a_reducer_or_enough_images_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="add --inside"):
        adapt(Request("fastervlm", "cpu", keep=32), drawn(8, seed=5), tmp_path / "a", SHORT)
    with pytest.raises(RequestError, match="8 or more, as many as a batch, got 2"):
        adapt(REQUEST, drawn(2, seed=5), tmp_path / "b", SHORT)


@pytest.mark.parametrize("reducer", ["drop", "tome"])
def test_drawn_steps_shorten_the_sequence_as_the_reducer_can(reducer: str) -> None:
    rng, inside = np.random.default_rng(0), Inside(reducer, get(reducer)(), ())
    for _ in range(100):
        rows, before = 144, 0
        for step in drawn_steps(rng, 5, 144, inside):
            assert before < step.layer < 5
            assert rows * (1 - inside.reducer.most) <= step.keep < rows  # type: ignore[attr-defined]
            rows, before = step.keep, step.layer
