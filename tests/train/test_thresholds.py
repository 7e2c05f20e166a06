"""Thresholds of a reducer: trained with gates that drop as the graph does, frozen as counts, and bent to a cost."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.adapted import THRESHOLDS, made_of, thresholds_of
from edgeprune.errors import ModelError, RequestError
from edgeprune.export.opening import Opened, opened
from edgeprune.export.request import Request
from edgeprune.export.steps import bent_steps, share_of
from edgeprune.quality.sweep.items import drawn
from edgeprune.schedule import Step
from edgeprune.targets import load
from edgeprune.trace import Reducing, run_steps
from edgeprune.train.adapt import AdaptSettings, Pixels
from edgeprune.train.resume import Interrupted
from edgeprune.train.thresholds import SHUT, TAU, Gates, _Gating, _levels, _passing, train_thresholds

CPU = load("cpu")
REQUEST = Request("fastervlm", "cpu", keep=32, inside="adaptive_sparse", encoder_cost=0.6)
SHORT = AdaptSettings(epochs=2, batch=8, lr=0.05)
IMAGES = drawn(16, seed=5)


@pytest.fixture(scope="module")
def found() -> Opened:
    return opened(REQUEST, CPU)


@pytest.fixture(scope="module")
def pixels(found: Opened) -> Pixels:
    return Pixels(IMAGES, found.preprocessing, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thresholds")
    train_thresholds(REQUEST, IMAGES, folder, SHORT, data="drawn scenes", force=True)
    return folder


def gating(found: Opened, pixels: Pixels, layers: tuple[int, ...], thresholds: list[float]) -> tuple[_Gating, Gates]:
    own, gates = found.encoder.inside, Gates(layers)
    assert own is not None
    with torch.no_grad():
        gates.logarithms.copy_(torch.tensor(thresholds).log())
    share = share_of(found.encoder, own.reducer, own.name, found.method)
    return _Gating(found.encoder, own, gates, pixels, share, 0.6, SHORT), gates


class TestGates:
    def test_a_level_is_the_score_over_the_mean_of_what_is_left(self) -> None:
        scores, left = torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        torch.testing.assert_close(_levels(scores, left), torch.tensor([[0.5, 1.5, 4.0]]))

    def test_it_is_open_or_shut_and_learns_as_if_it_were_ajar(self) -> None:
        gates = Gates((2, 4))
        with torch.no_grad():
            gates.logarithms.copy_(torch.tensor([9.0, 0.5]).log())
        passed = gates.passed(4, torch.tensor([[0.4, 0.5 + TAU]]))
        torch.testing.assert_close(passed, torch.tensor([[0.0, 1.0]]))
        passed[0, 1].backward()  # type: ignore[no-untyped-call]
        slope = 1 / (1 + 2.718281828) * (1 - 1 / (1 + 2.718281828)) / TAU
        torch.testing.assert_close(gates.logarithms.grad, torch.tensor([0.0, -0.5 * slope]))

    def test_a_shut_one_is_as_good_as_a_drop(self, found: Opened, pixels: Pixels) -> None:
        """The rows that pass have the features that they have behind steps of as many rows."""
        encoder, image = found.encoder, pixels([3])
        task, _ = gating(found, pixels, (2, 4), [0.3, 0.6])
        with torch.inference_mode():
            out, rows, _ = run_steps(task._gated, Reducing(task._gated), image)
            gated = encoder.hidden(out, rows.fit)[:, 1:]
            sizes = [reduction.size for _, reduction in rows.taken if reduction.size is not None]
            counts = [int((size > 0.5).sum()) for size in sizes]
            assert encoder.patches > counts[0] > counts[1] > 1
            assert encoder.inside is not None
            steps = (Step(2, counts[0]), Step(4, counts[1]))
            cut = dataclasses.replace(encoder, inside=dataclasses.replace(encoder.inside, steps=steps))
            out, rows, _ = run_steps(cut, Reducing(cut), image)
        assert rows.names is not None
        assert rows.names[0].tolist() == (sizes[-1][0] > 0.5).nonzero()[:, 0].tolist()
        wanted = encoder.hidden(out, rows.fit)[0, 1:]
        assert (gated[0, rows.names[0]] - wanted).norm() < 100 * SHUT * wanted.norm()

    def test_open_ones_change_nothing_and_the_cost_draws_them_shut(self, found: Opened, pixels: Pixels) -> None:
        task, gates = gating(found, pixels, (2,), [1e-3])
        loss, said = task.loss(pixels(range(4)))
        share = share_of(found.encoder, found.encoder.inside.reducer, "adaptive_sparse", found.method)  # type: ignore[union-attr]
        assert said == pytest.approx(4 * (share([Step(2, 144)]) - 0.6), rel=1e-3)
        loss.backward()  # type: ignore[no-untyped-call]
        assert gates.logarithms.grad is not None
        assert gates.logarithms.grad[0] < 0  # the other way is up

    def test_the_cost_is_the_formula_s_and_between_whole_numbers_on_its_slope(
        self, found: Opened, pixels: Pixels
    ) -> None:
        task, _ = gating(found, pixels, (2, 4), [0.3, 0.6])
        share = share_of(found.encoder, found.encoder.inside.reducer, "adaptive_sparse", found.method)  # type: ignore[union-attr]
        counts = {2: torch.tensor(90.0), 4: torch.tensor(50.0)}
        assert float(task._cost(counts)) == pytest.approx(share([Step(2, 90), Step(4, 50)]), rel=1e-6)
        between = float(task._cost({**counts, 2: torch.tensor(90.4)}))
        ends = [share([Step(2, one), Step(4, 50)]) for one in (90, 91)]
        assert between == pytest.approx(0.6 * ends[0] + 0.4 * ends[1], rel=1e-4)


def test_counts_are_what_passes_in_the_mean_behind_those_in_front(found: Opened, pixels: Pixels) -> None:
    encoder, own = found.encoder, found.encoder.inside
    assert own is not None
    first, second = _passing(encoder, own, {2: 0.4, 4: 0.7}, pixels, 5)

    def passing(steps: tuple[Step, ...], threshold: float) -> float:
        within = dataclasses.replace(encoder, inside=dataclasses.replace(own, steps=steps))
        with torch.inference_mode():
            _, rows, _ = run_steps(within, Reducing(within), pixels(range(len(pixels))))
        scores = rows.taken[-1][1].scores
        return float((scores > threshold * scores.mean(dim=1, keepdim=True)).sum(dim=1).double().mean())

    assert first == Step(2, round(passing((Step(2, 9),), 0.4)))
    assert second == Step(4, round(passing((first, Step(4, 9)), 0.7)))


class TestSteps:
    def test_are_bent_to_any_cost_from_below(self, found: Opened) -> None:
        encoder = found.encoder
        reducer, passing = encoder.inside.reducer, (Step(1, 140), Step(2, 90), Step(4, 80))  # type: ignore[union-attr]
        share = share_of(encoder, reducer, "adaptive_sparse", found.method)
        for cost in (0.75, 0.6, 0.5):
            steps = bent_steps(encoder, reducer, "adaptive_sparse", found.method, cost, passing)  # type: ignore[arg-type]
            assert cost - 0.02 < share(steps) <= cost
            assert steps[-1].keep >= 32
        rounded = bent_steps(encoder, reducer, "adaptive_sparse", found.method, 0.6, passing, 8)  # type: ignore[arg-type]
        assert all((step.keep + encoder.tower.prefix) % 8 == 0 for step in rounded)
        with pytest.raises(RequestError, match=r"cannot be met .* the least is 0\.\d+"):
            bent_steps(encoder, reducer, "adaptive_sparse", found.method, 0.2, passing)  # type: ignore[arg-type]

    def test_of_an_export_are_those_of_the_thresholds_and_it_says_so(self, trained: Path) -> None:
        made = made_of(trained)
        one = opened(dataclasses.replace(REQUEST, adapted=trained), CPU)
        assert one.encoder.inside is not None
        passing = tuple(Step(int(layer), rows) for layer, rows in made["pass"].items())
        whole, reducer = dataclasses.replace(one.encoder, inside=None), one.encoder.inside.reducer
        assert one.encoder.inside.steps == bent_steps(whole, reducer, "adaptive_sparse", one.method, 0.6, passing)  # type: ignore[arg-type]
        said = one.learned["schedule"]
        assert (said["images"], said["data"], said["thresholds"]) == (16, "drawn scenes", made["thresholds"])
        assert "adapted" not in one.learned
        assert one.warnings == ()

    def test_of_the_reducer_by_itself_leave_as_many_as_the_cost_lets(self, trained: Path) -> None:
        one = opened(Request("adaptive-sparse", "cpu", encoder_cost=0.5, adapted=trained / THRESHOLDS), CPU)
        assert one.method.keep == one.encoder.candidates < 100


def test_training_goes_on_where_it_was(trained: Path, tmp_path: Path) -> None:

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="after step 2 of 4"):
        train_thresholds(REQUEST, IMAGES, tmp_path / "new", SHORT, data="drawn scenes", show=stop)
    assert not (tmp_path / "new" / THRESHOLDS).exists()
    made = train_thresholds(REQUEST, IMAGES, tmp_path / "new", SHORT, data="drawn scenes", resume=True)
    before = made_of(trained)
    assert {**made, "seconds": 0} == {**before, "seconds": 0}
    assert [one.name for one in (tmp_path / "new").iterdir()] == [THRESHOLDS]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"inside": "drop"}, "thresholds are of adaptive_sparse, got --inside drop"),
        ({"encoder_cost": None, "schedule": "2:70"}, "give --encoder-cost, such as 0.6, and no schedule"),
        ({"adapted": Path("gates")}, "leave --adapted out"),
        ({"encoder_cost": 0.2}, "cannot be met with --inside adaptive_sparse and 32 tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_no_folder(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        train_thresholds(dataclasses.replace(REQUEST, **fields), IMAGES, tmp_path / "a", SHORT)
    with pytest.raises(RequestError, match="8 or more, as many as a batch, got 2"):
        train_thresholds(REQUEST, IMAGES[:2], tmp_path / "a", SHORT)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"inside": "drop"}, "give --inside adaptive_sparse and --encoder-cost, such as 0.6"),
        ({"encoder_cost": None, "schedule": "2:70"}, "give --inside adaptive_sparse and --encoder-cost"),
        ({"layer": 4}, "with layer 5, not 4; train them on edgeprune/tiny as it is exported"),
        ({"options": {"bias": "true"}}, "were trained with options bias=false, this has bias=true"),
    ],
)
def test_thresholds_go_with_what_they_were_trained_for(trained: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises((RequestError, ModelError), match=said):
        opened(dataclasses.replace(REQUEST, adapted=trained, **fields), CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made.pop("pass"), "it has no pass"),
        (lambda made: made["pass"].update({"4": 145}), "its layers or what it was made for"),
        (lambda made: made["pass"].update({"1": 145}), "out of range"),
        (lambda made: made.pop("tower"), "what it was made for"),
    ],
)
def test_what_is_no_file_of_thresholds_is_refused(
    trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    made = json.loads((trained / THRESHOLDS).read_text())
    change(made)
    (tmp_path / THRESHOLDS).write_text(json.dumps(made))
    with pytest.raises(ModelError, match=f"must be what `edgeprune adapt` wrote; .* is not: .*{said}"):
        thresholds_of(tmp_path)


def test_those_of_other_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    made = json.loads((trained / THRESHOLDS).read_text())
    (tmp_path / THRESHOLDS).write_text(json.dumps({**made, "tower": "0" * 64}))
    with pytest.raises(ModelError, match="were trained on edgeprune/tiny with other weights"):
        opened(dataclasses.replace(REQUEST, adapted=tmp_path), CPU)
