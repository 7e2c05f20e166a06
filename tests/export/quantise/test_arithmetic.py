"""Scales and roundings: those of ONNX, checked against the operators of ONNX Runtime's and the formulas."""

from __future__ import annotations

import pytest
import torch

from edgeprune.export.quantise.arithmetic import affine_of, fake, fake_weight, quantised_weight, scales_of


@pytest.mark.parametrize("kind", ["u8", "s8", "f8e4m3"])
def test_a_range_holds_zero_and_both_of_its_ends(kind: str) -> None:
    affine = affine_of(-0.5, 2.0, kind)  # type: ignore[arg-type]
    given = torch.tensor([0.0, -0.5, 2.0, 1.234])
    away = (fake(given, affine) - given).abs()
    assert away[0] == 0  # a padding, or a value that is exactly 0, stays one
    assert (away <= (affine.scale if kind != "f8e4m3" else 2.0**-4 * given.abs())).all()


def test_what_lies_beyond_a_range_becomes_its_end() -> None:
    assert fake(torch.tensor([9.0, -9.0]), affine_of(-1.0, 1.0, "s8")).tolist() == pytest.approx([1.0, -128 / 127])
    assert fake(torch.tensor([9.0]), affine_of(-1.0, 1.0, "f8e4m3")).tolist() == pytest.approx([1.0])


def test_halves_go_to_the_even_number() -> None:
    assert fake(torch.tensor([0.5, 1.5, 2.5]), affine_of(-127.0, 127.0, "s8")).tolist() == [0.0, 2.0, 2.0]


def test_each_output_channel_of_a_weight_has_its_own_scale() -> None:
    weight = torch.tensor([[1.0, -0.25], [100.0, 3.0]])
    assert scales_of(weight, "s8").tolist() == pytest.approx([1 / 127, 100 / 127])
    assert quantised_weight(weight, scales_of(weight, "s8"), "s8").tolist() == [[127, -32], [127, 4]]


def test_two_products_of_seven_bit_weights_fit_sixteen_bits() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    stored = quantised_weight(weight, scales_of(weight, "s7"), "s7")
    assert stored.dtype == torch.int8
    assert 2 * 255 * int(stored.abs().max()) < 2**15


def test_a_dead_output_channel_stays_zero() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert fake_weight(weight, "s7")[0].tolist() == [0.0, 0.0]
    assert torch.isfinite(fake_weight(weight, "f8e4m3")).all()


def test_the_scale_of_a_float16_graph_is_a_float16_number() -> None:
    scale = affine_of(-1.0, 1.0, "s8", torch.float16).scale
    assert scale == float(torch.tensor(scale).half()) != 1 / 127
