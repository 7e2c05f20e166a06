"""STA: what was not seen in the frame before, and what matters, goes on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.pruners.inside.sta import FLAT, Reducer
from tests.pruners.inside.conftest import Agrees, Cases, Rows, highest


def again(rows: Rows, image: int) -> NDArray[np.float64]:
    """[n]: of what each row of the frame before stands for, the share that goes to each row of this one."""
    keys, before = rows.mean_keys()[image], rows.taps.state["keys"][image].double().numpy()
    seen = rows.taps.state["seen"][image].double().numpy()
    found = np.zeros(rows.count)
    for j in range(rows.count):
        alike = np.array([np.exp(keys[i] / np.linalg.norm(keys[i]) @ before[j]) for i in range(rows.count)])
        found += seen[j] * alike / alike.sum()
    return found


def by_hand(rows: Rows, image: int) -> NDArray[np.float64]:
    """[n], the score."""
    if not rows.taps.state["seen"][image].any():
        cosines = rows.cosines()[image]
        return np.array([4.0 if at % 2 else 1 - max(cosines[at, 1::2]) for at in range(rows.count)])
    length = np.array([np.abs(one).sum() for one in rows.taps.features[image].double().numpy()])
    matters = (length - length.min()) / (length.max() - length.min())
    return np.asarray(-rows.count * again(rows, image) * (1 - matters))


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for rows in cases():
        chosen = agrees(Reducer(), rows)
        assert chosen.into is chosen.weights is chosen.size is None


def test_the_score_is_its_formula_and_the_highest_go_on(cases: Cases) -> None:
    frames = set()
    for rows in cases():
        chosen = Reducer().select(rows.step, rows.taps, {})
        frames.add(bool(rows.taps.state["seen"].any()))
        for image in range(3):
            wanted = by_hand(rows, image)
            np.testing.assert_allclose(chosen.scores[image].numpy(), wanted, rtol=1e-4, atol=1e-5)
            assert chosen.rows[image].tolist() == highest(wanted, rows.step.keep)
    assert frames == {False, True}


def test_what_goes_to_the_next_frame_is_of_the_rows_that_went_on(cases: Cases) -> None:
    """Of a first frame of all of them, as many as they are."""
    for rows in cases():
        chosen = Reducer().select(rows.step, rows.taps, {})
        keys = rows.mean_keys()
        unit = keys / np.linalg.norm(keys, axis=2, keepdims=True)
        np.testing.assert_allclose(chosen.state["keys"].numpy(), unit, rtol=1e-4, atol=1e-5)
        for image in range(3):
            if rows.taps.state["seen"][image].any():
                wanted = np.zeros(rows.count)
                kept = chosen.rows[image].numpy()
                wanted[kept] = again(rows, image)[kept]
                wanted /= wanted.sum()
            else:
                wanted = np.full(rows.count, 1 / rows.count)
            np.testing.assert_allclose(chosen.state["seen"][image].numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_of_rows_that_are_equally_long_what_was_seen_least_goes_on(cases: Cases) -> None:
    """Lengths that differ by less than rounding explains decide nothing."""
    for rows in cases():
        if not rows.taps.state["seen"].any():
            continue
        rows.taps.features[:] = 1 + 1e-7 * torch.randn(rows.taps.features.shape)
        scores = Reducer().select(rows.step, rows.taps, {}).scores
        wanted = np.stack([-rows.count * again(rows, image) for image in range(3)])
        np.testing.assert_allclose(scores.numpy(), wanted, rtol=1e-6 / FLAT, atol=1e-5)
