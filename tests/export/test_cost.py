"""Multiply-adds: the formula by hand, and the graph against it, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnx import parser, shape_inference

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder, Tower
from edgeprune.errors import EdgepruneError
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.greedy import written_as
from edgeprune.pruners import Method, divprune, fastervlm, none, pool
from edgeprune.trace import PrunedEncoder


def llava_7b() -> Encoder:
    """The shape of CLIP ViT-L/14-336 with LLaVA-1.5's projector; no weights."""
    with torch.device("meta"):
        projector = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 4096))
        patches = torch.nn.Conv2d(3, 1024, 14, 14)
    tower = Tower(torch.nn.Identity(), [torch.nn.Identity()] * 24, patches, (336, 336), (24, 24), 1, True, 1024, 4096)
    return Encoder("llava", tower, 23, projector)


def test_llava_7b_costs_178_g_at_64_tokens_and_195_g_unpruned() -> None:
    s, c, k = 577, 1024, 64
    full = s * c * c * 12 + 2 * s * s * c
    last = s * c * c * 2 + (k + 1) * c * c + k * c * c * 9 + 2 * (k + 1) * s * c
    projector = c * 4096 + 4096 * 4096
    encoder = llava_7b()
    assert formula(encoder, fastervlm.Method(64)) == 22 * full + last + k * projector == 178_029_115_392
    assert formula(encoder, none.Method(576)) == 23 * full + 576 * projector == 194_749_708_288
    assert formula(encoder, fastervlm.Method(64)) / formula(encoder, none.Method(576)) == pytest.approx(0.914, abs=5e-4)


def test_a_method_that_chooses_nothing_pays_for_every_layer_in_full() -> None:
    encoder = llava_7b()
    projector = 1024 * 4096 + 4096 * 4096
    assert formula(encoder, pool.Method(64)) == formula(encoder, none.Method(576)) - (576 - 64) * projector


@pytest.mark.parametrize("keep", [1, 8, 35])
def test_the_graph_does_exactly_what_the_formula_says(
    llava_folder: Callable[..., Path], tmp_path: Path, keep: int
) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_folder(tmp_path / "llava"))))
    model = graph(encoder, fastervlm.Method(keep))
    tower = encoder.tower
    patch_embedding = encoder.patches * tower.patch_embedding.weight.numel()
    # The formula counts the [CLS] query as if it met keys and values; for the score it meets keys alone.
    not_needed = (encoder.patches + 1) * tower.width
    assert graph_cost(model.graph) == formula(encoder, fastervlm.Method(keep)) + patch_embedding - not_needed


def test_the_unpruned_graph_does_exactly_what_the_formula_says(
    llava_folder: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_folder(tmp_path / "llava"))))
    patch_embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    model = graph(encoder, none.Method(encoder.patches))
    assert graph_cost(model.graph) == formula(encoder, none.Method(encoder.patches)) + patch_embedding


def graph(encoder: Encoder, method: Method) -> ir.Model:
    module = PrunedEncoder(encoder, method)
    return to_onnx(module, torch.zeros(1, 3, 48, 48), ("tokens", "indices", "scores"), opset=18, ir_version=10)


def test_a_free_batch_counts_as_one_image(llava_folder: Callable[..., Path], tmp_path: Path) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_folder(tmp_path / "llava"))))
    module, pixels = PrunedEncoder(encoder, fastervlm.Method(8)), torch.zeros(2, 3, 48, 48)
    outputs = ("tokens", "indices", "scores")
    free = to_onnx(module, pixels, outputs, opset=18, ir_version=10, dynamic_batch=True)
    assert graph_cost(free.graph) == graph_cost(graph(encoder, fastervlm.Method(8)).graph)


def test_matmul_gemm_and_convolution_are_counted() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    agraph (float[2, 3, 5] a, float[5, 7] b, float[7, 4] t, float[1, 4, 8, 8] image, float[6, 2, 3, 3] kernel)
        => (float[2, 3, 7] c, float[4, 5] g, float[1, 6, 6, 6] i)
    {
        c = MatMul(a, b)
        g = Gemm <transA = 1, transB = 1> (t, b)
        i = Conv <group = 2> (image, kernel)
    }
    """
    model = ir.from_proto(parser.parse_model(text))
    assert graph_cost(model.graph) == 2 * 3 * 7 * 5 + 4 * 5 * 7 + 6 * 6 * 6 * 2 * 9


def test_the_body_of_a_loop_counts_as_often_as_it_runs() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    agraph (float[2, 3] start, float[5, 2, 9] rows, float[3, 3] w, float[9, 3] v) => (float[2, 3] last, float[2, 3] c)
    {
        last = Scan <num_scan_inputs = 1, body = step (float[2, 3] state, float[2, 9] row) => (float[2, 3] next)
        {
            turned = MatMul(state, w)
            added = MatMul(row, v)
            next = Add(turned, added)
        }> (start, rows)
        c = MatMul(last, w)
    }
    """
    model = ir.from_proto(shape_inference.infer_shapes(parser.parse_model(text)))
    assert graph_cost(model.graph) == 5 * (2 * 3 * 3 + 2 * 3 * 9) + 2 * 3 * 3


def test_a_loop_runs_over_the_axis_that_it_names() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    agraph (float[2, 3] start, float[2, 7] steps, float[3, 3] w) => (float[2, 3] last)
    {
        last = Scan <num_scan_inputs = 1, scan_input_axes = [1], body = step (float[2, 3] state, float[2] at)
            => (float[2, 3] next) { next = MatMul(state, w) }> (start, steps)
    }
    """
    model = ir.from_proto(parser.parse_model(text))
    assert graph_cost(model.graph) == 7 * 2 * 3 * 3


@pytest.mark.parametrize(
    ("inputs", "node", "why"),
    [
        (
            "float[2, 3] start, float[n, 2] steps",
            "last = Scan <num_scan_inputs = 1, body = step (float[2, 3] state, float[2] at) => (float[2, 3] next)"
            "{ next = Relu(state) }> (start, steps)",
            "the cost of Scan .* is not known: it must run over a static dimension",
        ),
        (
            "bool often, float[2, 3] start",
            "last = If <then_branch = a () => (float[2, 3] b) { b = Relu(start) }, "
            "else_branch = c () => (float[2, 3] d) { d = Relu(start) }> (often)",
            "the cost of If .* is not known",
        ),
    ],
)
def test_a_loop_without_a_constant_count_is_refused(inputs: str, node: str, why: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 18]> agraph ({inputs}) => (float[2, 3] last) {{ {node} }}"""
    with pytest.raises(EdgepruneError, match=why):
        graph_cost(ir.from_proto(parser.parse_model(text)).graph)


def test_an_exported_loop_costs_what_its_steps_cost_written_out(
    llava_folder: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_folder(tmp_path / "llava"))))
    looped = graph(encoder, divprune.Method(5))
    with written_as("unrolled"):
        unrolled = graph(encoder, divprune.Method(5))
    assert "Scan" in {node.op_type for node in looped.graph}
    assert graph_cost(looped.graph) == graph_cost(unrolled.graph)
