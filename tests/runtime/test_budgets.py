"""Any budget up to K from one bundle: opened, verified, measured and shown with the first of its picks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime import TokenEncoder, load
from edgeprune.runtime.budgets import Budgets, first_picks
from edgeprune.runtime.ledger.bench import bench
from edgeprune.runtime.parity.verify import verify
from edgeprune.runtime.show import draw
from edgeprune.runtime.tokens import Output

MakeBundle = Callable[..., Path]
KEEP, N = 5, 24
NESTED: dict[str, Any] = {"picks": True, "nested": True, "rule": {"name": "topk"}}
NO_BUDGET: dict[str, Callable[[Path], object]] = {
    "load": lambda folder: load(folder, keep=2),
    "verify": lambda folder: verify(folder, "cpu", keep=2),
    "bench": lambda folder: bench(folder, rounds=1, keep=2),
    "show": lambda folder: draw(folder, np.zeros((32, 48, 3), np.uint8), keep=2),
}


def test_positions_of_one_image_are_cut_along_their_last_dimension() -> None:
    run = {
        "picks": np.array([[4, 1, 5]]),
        "indices": np.array([[1, 4, 5]]),
        "positions": np.array([[0, 1, 2], [3, 4, 5]]),
    }
    assert first_picks(run, 2)["positions"].tolist() == [[0, 1], [3, 4]]


def test_an_origin_names_the_tokens_that_are_left() -> None:
    """Of patches 1, 4 and 5 the first two picks are 5 and 1."""
    run = {
        "picks": np.array([[5, 1, 4]]),
        "indices": np.array([[1, 4, 5]]),
        "origin": np.array([[0, 0, 1, -1, 1, 2, 9]], np.int32),
    }
    assert first_picks(run, 2)["origin"].tolist() == [[0, 0, -1, -1, -1, 1, 9]]


def test_shares_are_of_the_patches_that_have_a_score_behind_steps_inside_the_encoder() -> None:
    """.6 of 1.0 is reached by the second pick; another bundle has no reason to leave a score out."""
    tensors = {
        "tokens": np.zeros((1, 3, 2), np.float32),
        "indices": np.array([[1, 4, 5]]),
        "scores": np.array([[-np.inf, 0.4, -np.inf, 0.1, 0.3, 0.2]], np.float32),
        "picks": np.array([[1, 4, 5]]),
    }
    (some,) = Output.of(dict(tensors), Budgets("", stepped=True)).until(0.6)
    assert some.indices.tolist() == [[1, 4]]
    with pytest.raises(RequestError, match="scores that are finite"):
        Output.of(dict(tensors), Budgets("")).until(0.6)


def test_picks_that_are_no_patches_are_left_for_parity_to_find() -> None:
    run = {"picks": np.array([[4, 99, -7]]), "indices": np.array([[1, 4, 5]]), "scores": np.zeros((1, 6), np.float32)}
    assert first_picks(run, 1, greedy=True)["picks"].tolist() == [[4]]


def test_a_bundle_opens_with_any_budget_up_to_its_own(make_bundle: MakeBundle) -> None:
    """Everything that it says of itself is that of the smaller budget; the graph is the same."""
    folder = make_bundle(batch=2, **NESTED)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    with load(folder, "cpu", kind=TokenEncoder, keep=3) as few, load(folder, kind=TokenEncoder) as whole:
        assert (few.keep, whole.keep) == (3, KEEP)
        for name, value in few(images).tensors().items():
            np.testing.assert_array_equal(value, whole(images).cut(3).tensors()[name])
            assert few.session.outputs[name].shape == value.shape
        assert repr(few) == "<TokenEncoder: brightest keeps 5 of 24 tokens (21%), cut to 3, cpu>"


@pytest.mark.parametrize("keep", range(1, KEEP + 1))
def test_parity_holds_at_every_budget(make_bundle: MakeBundle, keep: int) -> None:
    (report,) = verify(make_bundle(batch=2, **NESTED), "cpu", keep=keep)
    assert report.passed, report.worst.reasons
    assert report.worst.decisions == 2 * 2 * keep  # of two probes with two images each
    assert report.worst.tokens == 2 * 2 * keep


def test_a_wrong_order_of_the_right_patches_is_found_at_every_budget(make_bundle: MakeBundle) -> None:
    folder = make_bundle(**{**NESTED, "picks": "reversed"})
    (whole,), (few,) = verify(folder, "cpu"), verify(folder, "cpu", keep=2)
    assert whole.worst.reasons[0] == "picks must run from the highest score down"
    assert few.worst.reasons[0] == "the kept patches must be those of the highest scores; they are not"


def test_the_time_of_a_smaller_budget_holds_the_cut(make_bundle: MakeBundle) -> None:
    assert bench(make_bundle(**NESTED, cost={"graph": 1, "formula": 1}), rounds=1, keep=2).to_json()["keep"] == 2


@pytest.mark.parametrize("verb", NO_BUDGET)
def test_a_budget_needs_kept_sets_that_nest(make_bundle: MakeBundle, verb: str) -> None:
    with pytest.raises(
        RequestError, match="a budget of 2 needs kept sets that nest: the kept sets of brightest do not"
    ):
        NO_BUDGET[verb](make_bundle())


@pytest.mark.parametrize("keep", [0, KEEP + 1])
def test_a_budget_that_is_not_there_is_refused(make_bundle: MakeBundle, keep: int) -> None:
    with pytest.raises(RequestError, match=rf"must be a whole one in 1\.\.{KEEP}, got {keep}"):
        load(make_bundle(**NESTED), keep=keep)


def test_fewer_patches_are_drawn(make_bundle: MakeBundle, photo: NDArray[np.uint8]) -> None:
    folder = make_bundle(**NESTED)
    whole, few = draw(folder, photo), draw(folder, photo, keep=2)
    assert draw(folder, photo, keep=KEEP).tobytes() == whole.tobytes() != few.tobytes()
    with pytest.raises(RequestError, match="needs kept sets that nest"):
        draw(make_bundle(), photo, keep=2)
