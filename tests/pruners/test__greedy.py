"""The greedy selector: exactly K, whatever the data; the two forms agree, also as ONNX graphs that run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export.graph import to_onnx
from edgeprune.pruners import Selection, greedily
from edgeprune.pruners._determinant import by_cholesky
from edgeprune.pruners._greedy import Pick, State, cosine, greedy
from edgeprune.pruners._loop import Form, written_as
from tests.covering import always

PATCHES, WIDTH = 24, 8
ROWS = torch.randn(2, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))
Rule = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def both(chosen: Selection) -> tuple[Tensor, Tensor]:
    return chosen.indices, chosen.scores


def furthest(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    distance = 1 - cosine(x)

    def nearer(state: State, pick: Pick) -> State:
        return (torch.minimum(state[0], pick.row),)

    start = distance.sum(dim=-1)
    return both(greedy(distance, start, (start * 0 + 4,), lambda state: state[0], nearer, keep))


def volume(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    similarity = cosine(x)
    return both(by_cholesky(similarity, torch.ones_like(similarity[..., 0]), keep))


def careless(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """States that are handed on as they came, twice, or not contiguous; gains that read the matrix again."""
    similarity = cosine(x)
    start = similarity.sum(dim=-1)

    def gain(state: State) -> Tensor:
        return (similarity - state[1]).relu().sum(dim=-1) + state[2] + state[0].sum(dim=1)

    def update(state: State, pick: Pick) -> State:
        return state[0], torch.maximum(state[1], pick.row.unsqueeze(1)), state[3], state[3]

    return both(greedy(similarity, start, (similarity.mT, similarity[:, :1] * 0, start, start), gain, update, keep))


RULES = (furthest, volume, careless)


def scans(model: ir.Model) -> int:
    return [node.op_type for node in model.graph].count("Scan")


class Chooser(nn.Module):
    def __init__(self, keep: int, form: Form, rule: Rule = furthest) -> None:
        super().__init__()
        self._given = keep, form, rule

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keep, form, rule = self._given
        with written_as(form):
            return rule(x, keep)


def exported(module: nn.Module, x: Tensor = ROWS, dynamic_batch: bool = False) -> ir.Model:
    return to_onnx(module, x, ("indices", "scores"), opset=18, ir_version=10, dynamic_batch=dynamic_batch)


def run(model: ir.Model, x: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"pixel_values": x.numpy()})
    return outputs


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


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "rule"), always(product((1, 2), RULES), (1, furthest)))
def test_the_looped_form_equals_the_unrolled_one(rule: Rule, batch: int) -> None:
    x = ROWS[:batch].clone()
    looped = torch.export.export(Chooser(7, "looped", rule), (x,)).module()(x)
    unrolled = torch.export.export(Chooser(7, "unrolled", rule), (x,)).module()(x)
    assert torch.equal(looped[0], unrolled[0])
    torch.testing.assert_close(looped[1], unrolled[1], rtol=1e-6, atol=0)  # careless: sums of other strides


def test_outside_of_torch_export_both_forms_are_the_plain_loop() -> None:
    looped, unrolled = Chooser(7, "looped")(ROWS), Chooser(7, "unrolled")(ROWS)
    assert torch.equal(looped[0], unrolled[0])
    assert torch.equal(looped[1], unrolled[1])


@pytest.mark.parametrize(
    ("form", "rule"), always(product(("unrolled", "looped"), RULES), ("looped", volume), ("unrolled", furthest))
)
def test_both_forms_export_and_onnx_runtime_agrees(form: Form, rule: Rule) -> None:
    indices, scores = run(exported(Chooser(6, form, rule)), ROWS)
    wanted = rule(ROWS, 6)
    np.testing.assert_array_equal(indices, wanted[0].numpy())
    np.testing.assert_allclose(scores, wanted[1].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "rule"),
    always(product(("unrolled", "looped"), RULES)),  # always in tests/export/test_graph.py
)
def test_both_forms_take_a_free_batch(form: Form, rule: Rule) -> None:
    model = exported(Chooser(6, form, rule), dynamic_batch=True)
    assert scans(model) == (form == "looped")
    for batch in (1, 2, 5):
        x = torch.randn(batch, PATCHES, WIDTH, generator=torch.Generator().manual_seed(batch))
        indices, scores = run(model, x)
        np.testing.assert_array_equal(indices, rule(x, 6)[0].numpy())
        np.testing.assert_allclose(scores, rule(x, 6)[1].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_looped_is_the_form_that_a_target_gets_unless_it_asks_for_the_other() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return furthest(x, 6)

    assert scans(exported(Plain())) == 1
    with written_as("unrolled"):
        assert scans(exported(Plain())) == 0
    assert scans(exported(Plain())) == 1


@pytest.mark.slow
def test_there_is_no_loop_for_a_single_pick() -> None:
    assert scans(exported(Chooser(1, "looped"))) == 0


@pytest.mark.slow
def test_the_loop_has_the_same_nodes_however_many_are_kept() -> None:
    few, many = (len(list(exported(Chooser(keep, "looped")).graph.all_nodes())) for keep in (2, 9))
    assert few == many < len(list(exported(Chooser(9, "unrolled")).graph))


@pytest.mark.parametrize("rule", always([furthest, volume], furthest))
def test_the_loop_captures_the_matrix_and_carries_it_nowhere(rule: Rule) -> None:
    (scan,) = [node for node in exported(Chooser(6, "looped", rule)).graph if node.op_type == "Scan"]
    carried = [value.shape for value in scan.inputs if value is not None]
    assert all(shape is None or list(shape).count(PATCHES) == 1 for shape in carried[:-1])
    assert carried[-1] == (6,)  # the steps; a constant trip count
    body = scan.attributes["body"].as_graph()
    assert "Reshape" not in {node.op_type for node in body}  # the matrix is laid out once, in front of the loop


@pytest.mark.slow
def test_no_operator_in_or_around_the_loop_is_one_that_tensorrt_lacks() -> None:
    for rule in (furthest, volume):
        for node in exported(Chooser(6, "looped", rule)).graph.all_nodes():
            assert node.op_type not in {"NonZero", "Unique", "Compress", "ScatterElements", "ScatterND", "Loop", "If"}


def test_the_plain_loop_of_the_official_forms_says_its_order() -> None:
    worth = torch.tensor([[3.0, 9, 5, 1], [1.0, 2, 3, 4]])
    seen = []

    def gain(chosen: Tensor) -> Tensor:
        seen.append(chosen.shape)
        return worth

    chosen = greedily(gain, 2, 3)
    assert seen == [(2, 0), (2, 1), (2, 2)]
    assert chosen.picks is not None
    assert chosen.picks.tolist() == [[1, 2, 0], [3, 2, 1]]
    assert chosen.indices.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert chosen.scores.tolist() == [[3, 9, 5, -torch.inf], [-torch.inf, 2, 3, 4]]
