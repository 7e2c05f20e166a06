"""ToMe: the rows at even places that are most like one at an odd place join it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MethodError, RequestError
from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.tome import Reducer
from tests.pruners.inside.conftest import PATCHES, Agrees, Cases, Rows, rows_at

METRICS = ("rows", "keys")


def alike(rows: Rows, metric: str) -> NDArray[Any]:
    """[3, n, n] cosines of the rows, or of the keys of the layer in front of the step."""
    if metric == "keys":
        return rows.cosines()
    x = rows.taps.features.double().numpy()
    unit = x / np.linalg.norm(x, axis=2, keepdims=True)
    return np.asarray(unit @ unit.transpose(0, 2, 1))


def formula(rows: Rows, image: int, metric: str) -> tuple[list[int], list[int]]:
    """The rows that go on, and where each one goes."""
    cosines = alike(rows, metric)[image]
    even, odd = range(0, rows.count, 2), range(1, rows.count, 2)
    most = {a: max(cosines[a, b] for b in odd) for a in even}
    merged = sorted(even, key=lambda a: -most[a])[: rows.count - rows.step.keep]
    stays = [row for row in range(rows.count) if row not in merged]
    target = [max(odd, key=lambda b: cosines[row, b]) if row in merged else row for row in range(rows.count)]
    return stays, [stays.index(row) for row in target]


@pytest.mark.parametrize("metric", METRICS)
def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees, metric: str) -> None:
    for rows in cases():
        agrees(Reducer(metric=metric), rows)


@pytest.mark.parametrize("metric", METRICS)
def test_the_most_similar_pairs_merge(cases: Cases, metric: str) -> None:
    for rows in cases():
        chosen = Reducer(metric=metric).select(rows.step, rows.taps, {})
        assert chosen.into is not None
        for image in range(3):
            stays, into = formula(rows, image, metric)
            assert chosen.rows[image].tolist() == stays
            assert chosen.into[image].tolist() == into


def test_scores_rank_whom_others_join_above_who_joined_nobody(cases: Cases) -> None:
    for rows in cases():
        scores = Reducer().select(rows.step, rows.taps, {}).scores.numpy()
        np.testing.assert_allclose(scores[:, 1::2], 4)
        np.testing.assert_allclose(scores[:, 0::2], 1 - alike(rows, "rows")[:, 0::2, 1::2].max(axis=2), atol=1e-5)


def test_another_metric_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MethodError, match=r"no metric 'key'; have keys, rows.* Did you mean 'keys'"):
        Reducer(metric="key")


@pytest.mark.parametrize("form", ["select", "official"])
def test_more_than_half_of_the_rows_are_refused(form: str) -> None:
    rows = rows_at(Step(2, 9), PATCHES, 0)
    given = rows.taps if form == "select" else rows.eager
    with pytest.raises(RequestError, match="tome merges up to half of the rows at a step, 20 to 10 or more, got 9"):
        getattr(Reducer(), form)(rows.step, given, {})


def test_half_of_an_odd_number_leaves_the_larger_half(agrees: Agrees) -> None:
    assert agrees(Reducer(), rows_at(Step(2, 7), 13, 0)).rows.shape == (3, 7)
