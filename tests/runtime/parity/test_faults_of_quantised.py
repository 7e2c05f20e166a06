"""Planted faults in an int8 graph: what a wrong export could write. Each is caught, or what it keeps and its tokens are
shown to be within the bounds, so that it does no harm.

The graph is that of the embedded model in ONNX Runtime on the CPU, quantised by hand (`tests/quantised.py`).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune import bundle as bundles
from edgeprune.bundle import ENCODER, MANIFEST, describe_files
from edgeprune.runtime.parity import Verdict
from edgeprune.runtime.parity.verify import verify
from tests.quantised import BOUNDS, FLOATS, Fault, Product, quantised, rounded

if TYPE_CHECKING:
    from edgeprune.export import Exported


@pytest.fixture(scope="module")
def plain(exported_once: Callable[..., Exported]) -> Path:
    """In float32."""
    return exported_once("fastervlm", "cpu", keep=36, baselines=False).folder


def judged(folder: Path, output: Path, fault: Fault | None = None, floats: tuple[str, ...] = FLOATS) -> Verdict:
    return verify(quantised(folder, output, fault=fault, floats=floats), "cpu")[0].worst


@pytest.mark.parametrize("kind", ["s8", pytest.param("u8", marks=pytest.mark.slow)])
def test_without_a_fault_it_passes_and_a_choice_by_chance_would_not(plain: Path, tmp_path: Path, kind: str) -> None:
    floats = (*FLOATS, "layers.0.", "layers.1.") if kind == "u8" else FLOATS
    (report,) = verify(quantised(plain, tmp_path / "int8", kind, floats=floats), "cpu")
    assert report.passed, report.worst.reasons
    assert report.proven
    assert report.worst.lost < BOUNDS["regret"] < report.worst.blind
    assert report.worst.tokens > 0


# --- faults -----------------------------------------------------------------------------------------------------------


def scale_halved(one: Product, others: list[Product]) -> None:
    """Half of what goes in is cut off."""
    one.scale = np.float32(one.scale / 2)


def zero_off(one: Product, others: list[Product]) -> None:
    """By 16 of 255: as of an asymmetric range read as a symmetric one. What goes in returns the same, but for what is
    beyond the end."""
    one.zero += 16


def weight_halved(one: Product, others: list[Product]) -> None:
    one.scales = one.scales / np.float32(2)


def weights_swapped(one: Product, others: list[Product]) -> None:
    other = next(
        other for other in others if other.weight.shape == one.weight.shape and other.name[-20:] != one.name[-20:]
    )
    one.weight, other.weight = other.weight, one.weight
    one.scales, other.scales = other.scales, one.scales


def channels_shifted(one: Product, others: list[Product]) -> None:
    """The scale of each output channel is its neighbour's."""
    one.scales = np.roll(one.scales, 1)


def per_tensor(one: Product, others: list[Product]) -> None:
    one.weight, one.scales = rounded((one.weight * one.scales).astype(np.float32), per_tensor=True)


CAUGHT = [
    (scale_halved, "layers.2.self_attn.v_proj"),
    pytest.param(scale_halved, "layers.1.mlp.fc1", marks=pytest.mark.slow),
    pytest.param(zero_off, "layers.2.self_attn.v_proj", marks=pytest.mark.slow),
    pytest.param(weight_halved, "layers.3.self_attn.q_proj", marks=pytest.mark.slow),
    pytest.param(weight_halved, "layers.4.self_attn.out_proj", marks=pytest.mark.slow),
    pytest.param(weights_swapped, "layers.1.self_attn.k_proj", marks=pytest.mark.slow),
    pytest.param(weights_swapped, "layers.4.self_attn.v_proj", marks=pytest.mark.slow),
    pytest.param(channels_shifted, "layers.2.self_attn.v_proj", marks=pytest.mark.slow),
    (channels_shifted, "layers.1.mlp.fc1"),
]
HARMLESS = [
    (scale_halved, "layers.0.self_attn.q_proj"),
    pytest.param(zero_off, "layers.0.self_attn.q_proj", marks=pytest.mark.slow),
    (per_tensor, "layers.2.self_attn.v_proj"),
    pytest.param(per_tensor, "layers.0.mlp.fc1", marks=pytest.mark.slow),
]
"""these weights have no outliers, and the softmax forgives an eighth of a query"""


def in_layer(fault: Callable[[Product, list[Product]], None], layer: str) -> Fault:
    def planted(products: list[Product]) -> None:
        (one,) = (product for product in products if product.name.endswith(f"{layer}/MatMul"))
        fault(one, products)

    return planted


@pytest.mark.parametrize(("fault", "layer"), CAUGHT)
def test_a_fault_is_caught(
    plain: Path, tmp_path: Path, fault: Callable[[Product, list[Product]], None], layer: str
) -> None:
    assert judged(plain, tmp_path / "int8", in_layer(fault, layer)).reasons


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "layer"), HARMLESS)
def test_a_fault_that_passes_does_no_harm(
    plain: Path, tmp_path: Path, fault: Callable[[Product, list[Product]], None], layer: str
) -> None:
    """By the reference's own numbers: what is kept is worth as much, and its tokens are as near as bounds allow."""
    healthy = judged(plain, tmp_path / "healthy")
    found = judged(plain, tmp_path / "int8", in_layer(fault, layer))
    assert found.passed
    assert found.lost < 0.01
    assert found.token_median < healthy.token_median + 0.01


def with_outlier(folder: Path, output: Path, layer: str) -> Path:
    """The same encoder, one channel of whose values is 30 times as large, and its row of the output projection smaller
    by as much: in float nothing changes."""
    opened = bundles.load(folder)
    shutil.copytree(folder, output)
    model = onnx.load(opened.graph(ENCODER))
    nodes = {node.name: node for node in model.graph.node}
    product = nodes[f"encoder.encoder.{layer}.v_proj/MatMul"]
    (bias,) = (node for node in model.graph.node if product.output[0] in node.input)
    after = nodes[f"encoder.encoder.{layer}.out_proj/MatMul"]
    columns = {product.input[1], *bias.input}
    for one in model.graph.initializer:
        value = numpy_helper.to_array(one).copy()
        if one.name in columns:
            value[..., 5] *= np.float32(30)
        elif one.name == after.input[1]:
            value[5] /= np.float32(30)
        one.CopyFrom(numpy_helper.from_array(value, one.name))
    onnx.save(model, output / opened.manifest.encoder.file)
    manifest = dataclasses.replace(opened.manifest, files=describe_files(output))
    (output / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return output


@pytest.mark.slow
def test_one_scale_for_a_whole_weight_with_an_outlier_is_caught_and_one_for_each_channel_passes(
    plain: Path, tmp_path: Path
) -> None:
    layer = "layers.2.self_attn"
    folder = with_outlier(plain, tmp_path / "outlier", layer)
    assert verify(folder, "cpu")[0].passed  # in float it is the same encoder
    floats = (*FLOATS, f"{layer}.out_proj")  # whose input has the outlier, and no scale for each channel
    assert not judged(folder, tmp_path / "channels", None, floats).reasons
    assert judged(folder, tmp_path / "whole", in_layer(per_tensor, f"{layer}.v_proj"), floats).reasons
