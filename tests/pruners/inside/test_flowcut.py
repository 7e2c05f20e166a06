"""FlowCut: what most information flows through goes on, by a score that is carried from step to step."""

from __future__ import annotations

import numpy as np
import torch

from edgeprune.pruners.inside import Step
from edgeprune.pruners.inside.flowcut import Reducer
from tests.pruners.inside.conftest import Agrees, Cases, highest
from tests.pruners.inside.test__scores import flow


def test_it_agrees_with_the_official_form(cases: Cases, agrees: Agrees) -> None:
    for rows in cases():
        agrees(Reducer(), rows)


def test_the_rows_of_the_highest_flow_go_on_and_take_it_along(cases: Cases) -> None:
    for rows in cases():
        before = torch.rand(3, rows.count, generator=torch.Generator().manual_seed(1))
        chosen = Reducer().select(rows.step, rows.taps, {"flow": before})
        for image in range(3):
            wanted = before[image].numpy()
            for layer in range(max(0, rows.step.layer - 2), rows.step.layer):
                wanted = 0.5 * wanted + 0.5 * flow(rows, layer, image)
            np.testing.assert_allclose(chosen.carried["flow"][image].numpy(), wanted, rtol=1e-4)
            assert chosen.rows[image].tolist() == highest(wanted, rows.step.keep)


def test_behind_every_second_layer_all_layers_are_read() -> None:
    read = [layer for layer in (2, 4, 6) for layer in Reducer().layers(Step(layer, 4))]
    assert read == [0, 1, 2, 3, 4, 5]


def test_it_needs_cls_and_has_no_other_score() -> None:
    assert Reducer().needs_cls
    assert Reducer().options() == {"bias": False}
