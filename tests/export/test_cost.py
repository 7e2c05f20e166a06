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
from edgeprune.encoders import Encoder, Head, Tower
from edgeprune.errors import EdgepruneError
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.fit import build_method
from edgeprune.pruners import Method, bavit, fastervlm, none, pool, random, received
from edgeprune.pruners._scorer import Scorer, ScorerConfig, load_scorer
from edgeprune.trace import PrunedEncoder, outputs
from tests.covering import always

Traced = Callable[..., ir.Model]


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


@pytest.mark.parametrize("keep", always([1, 35], 35))
def test_the_graph_does_exactly_what_the_formula_says(tiny_llava: Callable[..., Encoder], keep: int) -> None:
    encoder = tiny_llava()
    module = PrunedEncoder(encoder, fastervlm.Method(keep))
    model = to_onnx(module, torch.zeros(1, 3, 48, 48), ("tokens", "indices", "scores"), opset=18, ir_version=10)
    check_ranked(model, encoder, keep)


@pytest.mark.slow
def test_a_free_batch_counts_as_one_image(tiny_llava: Callable[..., Encoder], traced: Traced) -> None:
    check_ranked(traced("fastervlm", free=True), tiny_llava(), 6)


def check_ranked(model: ir.Model, encoder: Encoder, keep: int) -> None:
    """The formula counts the [CLS] query as if it met keys and values; for the score it meets keys alone."""
    not_needed = (encoder.patches + 1) * encoder.tower.width
    patch_embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    assert graph_cost(model.graph) == formula(encoder, fastervlm.Method(keep)) + patch_embedding - not_needed


@pytest.mark.slow
def test_the_unpruned_graph_does_exactly_what_the_formula_says(
    tiny_llava: Callable[..., Encoder], traced: Traced
) -> None:
    encoder = tiny_llava()
    patch_embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    assert graph_cost(traced("none").graph) == formula(encoder, none.Method(encoder.patches)) + patch_embedding


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


@pytest.mark.slow
def test_an_exported_loop_costs_what_its_steps_cost_written_out(traced: Traced) -> None:
    looped, unrolled = traced("divprune", form="looped"), traced("divprune", form="unrolled")
    assert "Scan" in {node.op_type for node in looped.graph}
    assert graph_cost(looped.graph) == graph_cost(unrolled.graph)


def yolos_small() -> Encoder:
    """The shape of YOLOS-S at 512x864: 32x54 patches, 100 detection tokens; no weights."""
    with torch.device("meta"):
        heads = torch.nn.ModuleList(
            torch.nn.Linear(384, width) for width in (384, 384, 92, 384, 384, 4)
        )  # classes + "no object", and boxes
        patches = torch.nn.Conv2d(3, 384, 16, 16)
    layers = [torch.nn.Identity()] * 12
    tower = Tower(torch.nn.Identity(), layers, patches, (512, 864), (32, 54), 1, True, 384, 1536, suffix=100)
    head = Head("detections", tuple(range(-100, 0)), ("thing",) * 91)
    return Encoder("yolos", tower, 12, heads, normed=True, head=head)


def scorer_of(kind: str) -> Scorer:
    """Of two layers, 384 wide, in front of YOLOS-S."""
    patch = 32 if kind == "coarse" else 16
    with torch.device("meta"):
        return Scorer(ScorerConfig(kind, 2, 384, 6, 1536, patch, (2, 2), (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [("front", (1.18, 1.47, 1.72, 2.04)), ("coarse", (1.39, 1.80, 2.20, 2.76)), ("trunk", (1.35, 1.66, 1.93, 2.27))],
)
def test_a_detector_runs_at_most_as_much_faster_as_was_computed_for_yolos_small(
    kind: str, bounds: tuple[float, ...]
) -> None:
    """Counted by others, in whose sums the last layer was as the rest; here it has queries for what the heads read."""
    encoder, scorer = yolos_small(), scorer_of(kind)
    unpruned = formula(encoder, none.Method(1728))
    for share, bound in zip((0.75, 0.6, 0.5, 0.4), bounds, strict=True):
        method = bavit.Method(round(share * 432) * 4, scorer, 2 if kind == "coarse" else 1)
        assert unpruned / formula(encoder, method) == pytest.approx(bound, rel=0.03)


def test_a_detector_costs_what_its_layers_cost_by_hand() -> None:
    n, t, c, keep = 1728, 100, 384, 864
    encoder, heads = yolos_small(), 4 * c * c + c * 92 + c * 4

    def full(s: int) -> int:
        return s * c * c * 12 + 2 * s * s * c

    def last(s: int) -> int:
        return 2 * s * c * c + t * 10 * c * c + 2 * t * s * c

    whole, kept = n + 1 + t, keep + 1 + t
    assert formula(encoder, none.Method(n)) == 11 * full(whole) + last(whole) + t * heads
    assert formula(encoder, random.Method(keep)) == 11 * full(kept) + last(kept) + t * heads
    own = 3 * whole * c * c + kept * 9 * c * c + 2 * kept * whole * c  # of the layer behind which it drops
    assert formula(encoder, received.Method(keep, 2)) == (
        full(whole) + own + whole * whole * c + 9 * full(kept) + last(kept) + t * heads
    )


def inside(encoder: Encoder, name: str, make_scorer: Callable[..., Path]) -> Method:
    """The method of that name; of bavit, "coarse" or "trunk"."""
    kinds: dict[str, type[Method]] = {"none": none.Method, "received": received.Method}
    if name in kinds:
        return build_method(kinds[name], name, encoder, None if name == "none" else 20)
    return build_method(bavit.Method, "bavit", encoder, 20, scorer=load_scorer(make_scorer(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["received", "trunk", "none", "coarse"])
def test_the_graph_of_a_detector_does_exactly_what_the_formula_says(
    yolos_folder: Path, make_scorer: Callable[..., Path], name: str
) -> None:
    encoder = encoders.load(open_checkpoint(str(yolos_folder)))
    method = inside(encoder, name, make_scorer)
    model = to_onnx(
        PrunedEncoder(encoder, method), torch.zeros(1, 3, 48, 64), outputs(encoder, method), opset=18, ir_version=10
    )
    patch_embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    assert graph_cost(model.graph) == formula(encoder, method) + patch_embedding


@pytest.mark.slow
def test_so_does_the_graph_of_an_encoder_that_drops_tokens_in_front(
    tiny_llava: Callable[..., Encoder], traced: Traced, make_scorer: Callable[..., Path]
) -> None:
    encoder = tiny_llava()
    method = bavit.Method(6, load_scorer(make_scorer(grid=encoder.grid)), side=1)
    patch_embedding = encoder.patches * encoder.tower.patch_embedding.weight.numel()
    assert graph_cost(traced("bavit").graph) == formula(encoder, method) + patch_embedding
