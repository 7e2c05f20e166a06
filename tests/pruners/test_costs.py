"""What a method's traits say of its cost, held against what it multiplies, and against its graph: its selection alone,
sized as CLIP ViT-L/14.

And what the formula says of an encoder that is shortened inside, patch embedding aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.ports import ALIGNED, LEARNED, QUERIES, TOKENS
from edgeprune.ports import PATCHES as PATCHES_SIZE
from edgeprune.pruners import Method, bavit, fastervlm, inside, zoo
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.schedule import Inside, Step
from edgeprune.taps import Attention, Taps
from edgeprune.trace import PrunedEncoder, first_frame, outputs
from tests.covering import always, of_methods

HEADS, WIDTH, GRID, FEATURES, PROJECTED = 16, 64, (24, 24), 1024, 4096
PATCHES, DEPTH, KEEP, PATCH, JOINT = 576, 23, 64, 14, 768
COST = re.compile(r"(\d+(?:\.(\d+))?) M")
HEAD, HEADS_OF_7B = 128, 28
"""of the language model of Qwen2.5-VL-7B"""
NARROW = 64
FRONT = ScorerConfig("front", 2, 384, 6, 1536, PATCH, GRID, (0.5,) * 3, (0.5,) * 3)
"""the scorer of the paper's smaller size"""


class Joint(nn.Module):
    """Features to the space of texts, without a product: its weights are the encoder's, and counted there."""

    def forward(self, features: Tensor) -> Tensor:
        return features[..., :JOINT]


class Keys(nn.Module):
    """Projected features to the keys of a language model's 4 heads of 28, likewise."""

    head = HEAD

    def forward(self, projected: Tensor) -> Tensor:
        return projected[..., : 4 * HEAD]


class Selecting(nn.Module):
    """A method's `select`, and its merge, on taps that are made of one input without a product.

    [1, N, 1] -> indices, scores, and what is merged where something is
    """

    def __init__(self, method: Method, projected: int = PROJECTED) -> None:
        super().__init__()
        self._projected = projected
        first, second = (nn.Linear(width, PROJECTED, device="meta") for width in (FEATURES, PROJECTED))
        self.projector = nn.Sequential(first, nn.GELU(), second).to_empty(device="cpu")  # nobody runs it
        self._method = method

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        tokens = nn.functional.pad(pixel_values, (0, 0, 1, 0)).unsqueeze(1)
        rows = {layer: (tokens + layer).repeat(1, HEADS, 1, WIDTH) for layer in self._method.layers(DEPTH)}
        attention = {layer: Attention(query, query + 1, WIDTH**-0.5) for layer, query in rows.items()}
        features, projected = (pixel_values.repeat(1, 1, width) for width in (FEATURES, self._projected))
        pixels = pixel_values.reshape(1, 1, *GRID).repeat(1, 3, PATCH, PATCH)
        wide = {TOKENS: PROJECTED, LEARNED: self._projected, QUERIES: HEADS_OF_7B * HEAD}
        sizes: dict[Any, Any] = {PATCHES_SIZE: PATCHES, ALIGNED: JOINT, **wide}
        shapes = {port.name: [sizes.get(size, size) for size in port.shape] for port in self._method.ports}
        given = {
            name: pixel_values[:, :1, 0].repeat(1, prod(shape)).reshape(1, *shape) for name, shape in shapes.items()
        }
        asked: Any = {"pixels": pixels, "given": given, "aligner": Joint(), "keyer": Keys(), "branch": features}
        taps = Taps(attention, features, projected, GRID, 1, DEPTH, None, self.projector, **asked)
        chosen = self._method.select(taps)
        merged = chosen.scores if chosen.merged is None else chosen.merged
        if chosen.merge is not None:
            merged = chosen.merge @ features
        return chosen.indices, chosen.scores, merged


@pytest.fixture(scope="module")
def example() -> Tensor:
    return torch.zeros(1, PATCHES, 1)


FOLDED = ("aim", "bavit", "lrcp", "pitome_behind", "tome_behind")
"""of which the exporter folds products into others, or writes them otherwise: one of the graphs is always counted"""


def selecting(name: str) -> tuple[Selecting, Method]:
    method: Any
    if name == "bavit":
        method = bavit.Method(KEEP, Scorer(FRONT).eval(), side=1)
    elif pruners.get(name).learns:
        method = pruners.get(name)(KEEP, pruners.get(name).untrained(FEATURES, PROJECTED).eval())  # type: ignore[call-arg]
    else:
        method = pruners.get(name)(PATCHES if name == "none" else KEEP)  # type: ignore[call-arg]  # a Protocol has none
    if name == "zoo":  # as `prepared` makes it of a projector of these sizes
        method = zoo.Prepared(KEEP, zoo._upper(torch.zeros(PROJECTED, PROJECTED)))
    return Selecting(method), method


def assert_said(name: str, counted: float) -> None:
    """To as many places as are said."""
    said = COST.fullmatch(pruners.get(name).traits.multiply_adds)
    assert said
    assert f"{counted / 1e6:.{len(said[2] or '')}f}" == said[1]


@pytest.mark.parametrize("name", of_methods(name for name in pruners.names() if name not in (*FOLDED, "focusui")))
def test_the_traits_say_what_the_selection_multiplies(name: str, example: Tensor) -> None:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        selecting(name)[0](example + 1)
    assert_said(name, counter.get_total_flops() / 2)


@pytest.mark.slow
def test_the_formula_of_focusui_counts_what_a_narrow_one_multiplies(example: Tensor) -> None:
    """The weights of one as wide as the others here are 800 MB."""
    make: Any = pruners.get("focusui")
    narrow = make(KEEP, make.untrained(NARROW, NARROW).eval())
    names = ("indices", "scores", "merged")
    graph = to_onnx(Selecting(narrow, NARROW), example, names, opset=18, ir_version=10, hoisted=False).graph
    assert graph_cost(graph) == narrow.multiply_adds(PATCHES)
    with torch.device("meta"):
        assert_said("focusui", make(KEEP, make.untrained(0, PROJECTED)).multiply_adds(PATCHES))


@pytest.mark.parametrize("name", always([name for name in pruners.names() if name != "focusui"], "bavit"))
def test_they_say_what_its_graph_multiplies(name: str, example: Tensor) -> None:
    module, method = selecting(name)
    model = to_onnx(module, example, ("indices", "scores", "merged"), opset=18, ir_version=10, hoisted=False)
    counted = graph_cost(model.graph)
    if name == "bavit":
        assert counted == method.multiply_adds(PATCHES)
    assert_said(name, counted)


SHORTENED: list[tuple[str, dict[str, str]]] = [(name, {}) for name in inside.names()] + [
    (name, {"score": score}) for name in ("drop", "cells", "nearest") for score in ("column", "keys", "flowcut", "lrcp")
]
SHORTENED.append(("tome", {"metric": "keys"}))
OFTEN: list[tuple[str, dict[str, str]]] = [("cells", {}), ("drop", {"score": "column"})]


def shortened(encoder: Encoder, name: str, options: dict[str, str], steps: tuple[Step, ...], keep: int) -> float:
    """What the graph costs over what the formula says."""
    make: Any = inside.get(name)
    reducer = make(**options).prepared(True, encoder.layer)
    within, method = replace(encoder, inside=Inside(name, reducer, steps)), fastervlm.Method(keep)
    pixels, tower = torch.zeros(1, 3, *encoder.tower.image_size), encoder.tower
    module = PrunedEncoder(within, method).eval()
    before = first_frame(within, 1)
    graph = to_onnx(module, pixels, outputs(within, method), opset=18, ir_version=10, others=before).graph
    embedding = tower.grid[0] * tower.grid[1] * tower.patch_embedding.weight.numel()
    return (graph_cost(graph) - embedding) / formula(within, method)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            *one, marks=pytest.mark.slow if one in OFTEN else pytest.mark.cells, id="-".join([one[0], *one[1].values()])
        )
        for one in SHORTENED
    ],
)
def test_the_formula_says_what_a_shortened_encoder_costs(name: str, options: dict[str, str]) -> None:
    encoder = encoders.load(open_checkpoint(None))
    assert shortened(encoder, name, options, (Step(2, 80), Step(3, 48)), 32) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", inside.names())
def test_it_does_so_of_clip_large(name: str, clip_folder: Callable[..., Path], tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": 14}
    folder = clip_folder(tmp_path, num_hidden_layers=4, image_size=336, **sizes)
    encoder = encoders.load(open_checkpoint(str(folder)))
    assert shortened(encoder, name, {}, (Step(1, 288), Step(2, 144)), 64) == pytest.approx(1, abs=0.01)
