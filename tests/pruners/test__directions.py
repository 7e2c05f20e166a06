"""Main directions without a singular value decomposition, held against LAPACK's by what they leave unexplained."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export.graph import to_onnx
from edgeprune.pruners._directions import main_directions, steps_of
from edgeprune.pruners._loop import Form, written_as
from tests.covering import always

RANDOM = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


def of_strength(*strength: float) -> Tensor:
    """[1, N, D] with these singular values."""
    count = len(strength)
    left, right = (torch.linalg.qr(drawn(1, size, count))[0] for size in (count, 2 * count))
    made: Tensor = (left * torch.tensor(strength)) @ right.mT
    return made


CASES = {
    "noise, whose singular values lie 1 % apart": drawn(2, 100, 160),
    "fewer rows than steps": drawn(2, 20, 12),
    "one row fifty times as long": drawn(1, 60, 40) * torch.where(torch.arange(60) == 7, 50.0, 1.0)[:, None],
    "one direction a thousand times as strong": of_strength(1000.0, *np.linspace(1.2, 0.8, 59).tolist()),
    "falling by and by": of_strength(*(1 / np.arange(1, 81)).tolist()),
    "huge": 1e15 * drawn(1, 60, 40),
    "tiny": 1e-15 * drawn(1, 60, 40),
}


def left(x: Tensor, directions: Tensor) -> Tensor:
    """What the directions leave of each row, squared."""
    x, directions = x.double(), directions.double()
    return (x - x @ directions @ directions.mT).square().sum(dim=2)


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_they_leave_what_the_singular_vectors_leave(case: str, count: int) -> None:
    check(CASES[case], count)


def test_of_two_equal_ones_both_are_taken() -> None:
    check(of_strength(3.0, 3.0, *np.linspace(1, 0.1, 58).tolist()), 2)


def check(x: Tensor, count: int) -> None:
    wanted = left(x, torch.linalg.svd(x.double(), full_matrices=False).Vh[:, :count].mT)
    error = (left(x, main_directions(x, count)) - wanted).abs().amax()
    assert error <= 1e-4 * (wanted.sqrt() * x.double().norm(dim=2)).amax()


def test_they_are_orthonormal() -> None:
    found = main_directions(drawn(2, 100, 160), 4)
    torch.testing.assert_close(found.mT @ found, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)


def test_of_fewer_directions_than_are_asked_for_nothing_is_left_and_of_none_at_all_no_direction() -> None:
    flat = drawn(1, 60, 3) @ drawn(1, 3, 40)
    assert float(left(flat, main_directions(flat, 4)).amax()) < 1e-9 * float(flat.square().sum(dim=2).amax())
    assert not main_directions(torch.zeros(1, 60, 40), 4).any()


def test_there_are_never_more_steps_than_rows() -> None:
    assert [steps_of(4, 576), steps_of(8, 576), steps_of(1, 576), steps_of(4, 20)] == [48, 96, 48, 20]


@pytest.mark.parametrize(
    ("form", "dynamic_batch"),
    always(product(("looped", "unrolled"), (False, True))),
)
def test_both_forms_run_as_onnx(form: Form, dynamic_batch: bool) -> None:
    x = drawn(2, 20, 12)

    class Directions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return main_directions(x, 2)

    with written_as(form):
        model = to_onnx(Directions(), x, ["found"], opset=18, ir_version=10, dynamic_batch=dynamic_batch)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixel_values": x.numpy()})
    np.testing.assert_allclose(np.abs(found), main_directions(x, 2).abs().numpy(), atol=1e-4)
