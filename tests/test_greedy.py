"""The greedy selector: exactly K, whatever the data; the two forms agree, also as ONNX graphs that run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export.graph import to_onnx
from edgeprune.greedy import Form, Pick, State, cosine, greedy
from edgeprune.pruners import dpp, greedily

PATCHES, WIDTH = 24, 8
ROWS = torch.randn(2, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))


def furthest(x: Tensor, keep: int, form: Form | None = None) -> tuple[Tensor, Tensor]:
    distance = 1 - cosine(x)

    def nearer(state: State, pick: Pick) -> State:
        return (torch.minimum(state[0], pick.row),)

    start = distance.sum(dim=-1)
    return greedy(distance, start, (start * 0 + 4,), lambda state: state[0], nearer, keep, form)


def volume(x: Tensor, keep: int, form: Form | None = None) -> tuple[Tensor, Tensor]:
    similarity = cosine(x)
    left = torch.ones_like(similarity[..., 0])
    state = (left, torch.zeros_like(similarity[:, :keep]))
    return greedy(similarity, left, state, lambda state: state[0], dpp.leave_out, keep, form)


class Chooser(nn.Module):
    def __init__(self, keep: int, form: Form, rule: object = furthest) -> None:
        super().__init__()
        self._given = keep, form, rule

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keep, form, rule = self._given
        chosen: tuple[Tensor, Tensor] = rule(x, keep, form)  # type: ignore[operator]
        return chosen


@pytest.mark.parametrize("keep", [1, 2, 9, PATCHES - 1, PATCHES])
def test_exactly_keep_distinct_ascending_indices_come_out(keep: int) -> None:
    for x in (ROWS, torch.ones(2, PATCHES, WIDTH), torch.zeros(2, PATCHES, WIDTH), 1e9 * ROWS):
        for rule in (furthest, volume):
            indices, scores = rule(x, keep)
            assert indices.dtype == torch.int64
            assert indices.shape == (2, keep)
            assert bool((indices.diff(dim=1) > 0).all())
            assert scores.dtype == torch.float32
            for image in range(2):  # finite exactly at the kept patches, -inf elsewhere
                assert torch.equal(torch.isfinite(scores[image]).nonzero().flatten(), indices[image])
            assert not bool(torch.isnan(scores).any())


def test_of_equal_gains_the_lowest_index_is_taken() -> None:
    assert furthest(torch.ones(1, PATCHES, WIDTH), 5)[0].tolist() == [[0, 1, 2, 3, 4]]


def test_a_score_is_the_gain_at_which_the_patch_was_picked() -> None:
    x = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [1, 0.1]]])
    indices, scores = furthest(x, 3)
    assert indices.tolist() == [[0, 1, 2]]
    distance = 1 - cosine(x)[0]
    # [-1, 0] is furthest from all; then [1, 0], opposite to it; then [0, 1], which is nearer to both
    torch.testing.assert_close(scores[0], torch.tensor([2.0, 1.0, float(distance[2].sum()), -torch.inf]))


def test_images_do_not_know_each_other() -> None:
    together = furthest(ROWS, 9)
    for image in range(2):
        alone = furthest(ROWS[image : image + 1], 9)
        assert torch.equal(together[0][image], alone[0][0])
        torch.testing.assert_close(together[1][image], alone[1][0])


def test_half_precision_features_are_compared_in_float32() -> None:
    assert furthest(ROWS.half(), 9)[1].dtype == torch.float32
    torch.testing.assert_close(cosine(ROWS.half()), cosine(ROWS.half().float()))


def test_the_cosine_of_a_row_with_itself_is_one_exactly() -> None:
    for x in (ROWS, torch.zeros(2, PATCHES, WIDTH)):
        assert bool((cosine(x).diagonal(dim1=1, dim2=2) == 1).all())


@pytest.mark.parametrize("rule", [furthest, volume])
def test_the_looped_form_equals_the_unrolled_one(rule: object) -> None:
    looped = torch.export.export(Chooser(7, "looped", rule), (ROWS,)).module()(ROWS)
    unrolled = Chooser(7, "unrolled", rule)(ROWS)
    assert torch.equal(looped[0], unrolled[0])
    torch.testing.assert_close(looped[1], unrolled[1], rtol=0, atol=0)


@pytest.mark.parametrize("form", ["unrolled", "looped"])
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_both_forms_export_and_onnx_runtime_agrees(form: Form, dynamic_batch: bool) -> None:
    import onnxruntime

    wanted = furthest(ROWS, 6)
    model = to_onnx(Chooser(6, form), ROWS, ("indices", "scores"), opset=18, ir_version=10, dynamic_batch=dynamic_batch)
    operators = [node.op_type for node in model.graph]
    assert operators.count("Scan") == (form == "looped")
    assert operators.count("ArgMax") == (1 if form == "looped" else 6)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    indices, scores = session.run(None, {"pixel_values": ROWS.numpy()})
    np.testing.assert_array_equal(indices, wanted[0].numpy())
    np.testing.assert_allclose(scores, wanted[1].numpy(), rtol=1e-5, atol=1e-6)


def test_the_plain_loop_of_the_official_forms_says_order_and_margins() -> None:
    worth = torch.tensor([[3.0, 9, 5, 1], [1.0, 2, 3, 4]])
    seen = []

    def gain(chosen: Tensor) -> Tensor:
        seen.append(chosen.shape)
        return worth

    chosen = greedily(gain, 2, 3)
    assert seen == [(2, 0), (2, 1), (2, 2)]
    assert chosen.order is not None
    assert chosen.order.tolist() == [[1, 2, 0], [3, 2, 1]]
    assert chosen.indices.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert chosen.margins is not None
    assert chosen.margins.tolist() == [[4, 2, 2], [1, 1, 1]]
    assert chosen.scores.tolist() == [[3, 9, 5, -torch.inf], [-torch.inf, 2, 3, 4]]
    everything = greedily(lambda chosen: worth, 2, 4)
    assert everything.margins is not None
    assert everything.margins[:, -1].tolist() == [torch.inf] * 2
