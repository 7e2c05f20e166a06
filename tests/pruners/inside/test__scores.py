"""What rows are ranked by: each score as its source writes it, in loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import pruners
from edgeprune.errors import MethodError
from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside._scores import officially_ranked, ranked
from edgeprune.pruners.inside.drop import Reducer
from edgeprune.pruners.random import shuffled
from tests.pruners.inside.conftest import HEADS, PATCHES, PREFIX, SUFFIX, Cases, Rows, rows_at

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-6}


def by_hand(score: str, rows: Rows, image: int, prefix: int = PREFIX) -> NDArray[Any]:
    """[n], of one image."""
    last = rows.maps[rows.step.layer - 1][image]
    tokens = range(last.shape[1])
    found = []
    for at in range(prefix, prefix + rows.count):
        if score == "cls":
            found.append(sum(last[head, 0, at] for head in range(HEADS)) / HEADS)
        elif score == "column":
            found.append(sum(last[head, query, at] for head in range(HEADS) for query in tokens) / HEADS / len(tokens))
        else:
            key = sum(rows.keys[rows.step.layer - 1][image, head, at] for head in range(HEADS)) / HEADS
            found.append(-float(np.sqrt((key**2).sum())))
    return np.array(found)


def flow(rows: Rows, layer: int, image: int) -> NDArray[Any]:
    """s of one layer and image: hidden rows and special tokens behind the patches are no part of it."""
    seen = range(PREFIX + rows.count)
    patches = seen[PREFIX:]
    attention, values = rows.maps[layer][image], rows.values[layer][image]
    row = np.array([np.mean([attention[head, 0, at] for head in range(HEADS)]) for at in patches])
    semantic = np.zeros(rows.count)
    for head in range(HEADS):
        alike = np.exp([values[head, 0] @ values[head, at] for at in seen])
        semantic += (alike / alike.sum())[PREFIX:] / HEADS
    length = np.array([np.abs(sum(values[head, at] for head in range(HEADS)) / HEADS).sum() for at in patches])
    return np.asarray((row / row.sum() + semantic / semantic.sum()) * length)


@pytest.mark.parametrize("score", ["cls", "column", "keys"])
def test_the_score_is_its_formula(cases: Cases, score: str) -> None:
    for rows in cases(hidden=4):
        wanted = np.stack([by_hand(score, rows, image) for image in range(3)])
        for found, carried in (
            ranked(score, rows.step, rows.taps, {}),
            officially_ranked(score, rows.step, rows.eager, {}),
        ):
            np.testing.assert_allclose(found.numpy(), wanted, **CLOSE)
            assert found.dtype == torch.float32
            assert not carried


def test_flowcut_is_the_mean_of_the_two_layers_in_front_and_what_was_carried(cases: Cases) -> None:
    for rows in cases(hidden=4):
        layers = range(max(0, rows.step.layer - 2), rows.step.layer)
        before = torch.rand(3, rows.count, generator=torch.Generator().manual_seed(0))
        for carried in ({}, {"flow": before}):
            wanted: list[Any] = []
            for image in range(3):
                cumulative: Any = carried["flow"][image].numpy() if carried else None
                for layer in layers:
                    own = flow(rows, layer, image)
                    cumulative = own if cumulative is None else 0.5 * cumulative + 0.5 * own
                wanted.append(cumulative)
            for found, kept in (
                ranked("flowcut", rows.step, rows.taps, carried),
                officially_ranked("flowcut", rows.step, rows.eager, carried),
            ):
                np.testing.assert_allclose(found.numpy(), np.stack(wanted), **CLOSE)
                assert torch.equal(kept["flow"], found)


def test_flowcut_leaves_out_a_layer_in_front_of_another_step() -> None:
    """Of steps behind neighbouring layers the second reads one layer alone: in the other there were more rows."""
    longer, rows = rows_at(Step(4, 9), 16, 0), rows_at(Step(4, 9), 13, 0)
    rows.taps.attention[2] = longer.taps.attention[2]  # type: ignore[index]
    rows.eager.attentions[2] = longer.eager.attentions[2]  # type: ignore[index]
    wanted = np.stack([flow(rows, 3, image) for image in range(3)])
    for found, _ in (
        ranked("flowcut", rows.step, rows.taps, {}),
        officially_ranked("flowcut", rows.step, rows.eager, {}),
    ):
        np.testing.assert_allclose(found.numpy(), wanted, **CLOSE)


@pytest.mark.parametrize("has_cls", [True, False])
def test_auto_is_the_cls_row_where_there_is_one(has_cls: bool) -> None:
    rows = rows_at(Step(2, 11), PATCHES, 3, has_cls=has_cls)
    wanted = np.stack([by_hand("cls" if has_cls else "keys", rows, image, int(has_cls)) for image in range(3)])
    made = Reducer().prepared(has_cls, 4)
    assert made.options()["score"] == ("cls" if has_cls else "keys")
    for reducer in (Reducer(), made):
        np.testing.assert_allclose(reducer.select(rows.step, rows.taps, {}).scores.numpy(), wanted, **CLOSE)
        np.testing.assert_allclose(reducer.official(rows.step, rows.eager, {}).scores.numpy(), wanted, **CLOSE)


def test_a_score_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MethodError, match=r"no score 'colum'; have auto, cls, .* Did you mean 'column'"):
        Reducer(score="colum")


def leftover(x: NDArray[Any], rank: int = 4) -> NDArray[Any]:
    """[n], of one image: what the first directions of its rows leave of each."""
    centred = x - x.mean(axis=0)
    directions = np.linalg.svd(centred)[2][:rank]
    return np.asarray(((centred - centred @ directions.T @ directions) ** 2).sum(axis=1))


@pytest.mark.parametrize("score", ["fastervlm", "lrcp", "random"])
def test_a_method_s_own_score_is_its_formula_on_the_rows_that_are_left(cases: Cases, score: str) -> None:
    """lrcp is given rows of their own: what it reads in place of projected features."""
    for number, rows in enumerate(cases(hidden=4)):
        x = torch.randn(3, rows.count, 12, generator=torch.Generator().manual_seed(number))
        rows = replace(
            rows,
            taps=replace(rows.taps, features=x, projected=x),
            eager=replace(rows.eager, features=x, projected=x),
        )
        if score == "fastervlm":
            wanted = np.stack([by_hand("cls", rows, image) for image in range(3)])
        elif score == "lrcp":
            wanted = np.stack([leftover(one.double().numpy()) for one in x])
        else:
            wanted = np.array([[1 - shuffled(rows.count, 0).index(at) / rows.count for at in range(rows.count)]] * 3)
        for found, carried in (
            ranked(score, rows.step, rows.taps, {}),
            officially_ranked(score, rows.step, rows.eager, {}),
        ):
            np.testing.assert_allclose(found.numpy(), wanted, **CLOSE)
            assert found.dtype == torch.float32
            assert not carried


def test_of_a_method_it_reads_what_that_reads() -> None:
    assert Reducer(score="fastervlm").layers(Step(8, 4)) == (7,)
    assert [Reducer(score=one).needs_cls for one in ("fastervlm", "lrcp", "random")] == [True, False, False]
    assert [Reducer(score=one).shares for one in ("fastervlm", "lrcp", "random")] == [True, False, False]


@pytest.mark.parametrize("name", [one for one in pruners.names() if not pruners.get(one).traits.ranks])
def test_a_method_whose_scores_are_no_ranking_of_rows_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(MethodError, match=rf"score of its own, which {name} does not; use auto, .*, fastervlm, lrcp"):
        Reducer(score=name)


def test_which_layers_are_read() -> None:
    assert Reducer().layers(Step(8, 4)) == (7,)
    assert Reducer(score="flowcut").layers(Step(8, 4)) == (6, 7)
    assert Reducer(score="flowcut").layers(Step(1, 4)) == (0,)


def test_special_tokens_behind_and_hidden_rows_are_not_ranked() -> None:
    rows = rows_at(Step(4, 9), 13, 0, hidden=4)
    assert rows.maps[3].shape[-1] == PREFIX + 13 + 4 + SUFFIX
    assert ranked("cls", rows.step, rows.taps, {})[0].shape == (3, 13)
