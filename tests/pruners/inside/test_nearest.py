"""Nearest: each dropped row joins the kept one whose keys point most the same way."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.pruners.inside.nearest import Reducer
from edgeprune.traits import SCORES
from tests.covering import always
from tests.pruners.inside.conftest import Agrees, Cases, Rows, highest
from tests.pruners.inside.test__scores import by_hand


def formula(rows: Rows, image: int) -> list[int]:
    """Where each row of one image goes."""
    kept, keys = highest(by_hand("cls", rows, image), rows.step.keep), rows.mean_keys()[image]
    into = []
    for row in range(rows.count):
        cosines = [keys[row] @ keys[at] / np.linalg.norm(keys[row]) / np.linalg.norm(keys[at]) for at in kept]
        into.append(kept.index(row) if row in kept else int(np.argmax(cosines)))
    return into


@pytest.mark.parametrize("score", always(SCORES, *[*SCORES][:2]))
def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees, score: str) -> None:
    for rows in cases():
        agrees(Reducer(score=score), rows)


def test_dropped_rows_join_the_kept_one_most_like_them(cases: Cases) -> None:
    for rows in cases():
        into = Reducer().select(rows.step, rows.taps, {}).into
        assert into is not None
        assert into.tolist() == [formula(rows, image) for image in range(3)]
