"""What a method's traits say of its cost, held against the graph: its selection alone, sized as CLIP ViT-L/14."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune import pruners
from edgeprune.export.cost import graph_cost
from edgeprune.export.graph import to_onnx
from edgeprune.pruners import Method, bavit, zoo
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.taps import Attention, Taps

HEADS, WIDTH, GRID, FEATURES, PROJECTED = 16, 64, (24, 24), 1024, 4096
PATCHES, DEPTH, KEEP, PATCH = 576, 23, 64, 14
COST = re.compile(r"(\d+(?:\.(\d+))?) M")
FRONT = ScorerConfig("front", 2, 384, 6, 1536, PATCH, GRID, (0.5,) * 3, (0.5,) * 3)
"""the scorer of the paper's smaller size"""


class Selecting(nn.Module):
    """A method's `select`, and its merge, on taps that are made of one input without a product.

    [1, N, 1] -> indices, scores, and what is merged where something is
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        first, second = (nn.Linear(width, PROJECTED, device="meta") for width in (FEATURES, PROJECTED))
        self.projector = nn.Sequential(first, nn.GELU(), second).to_empty(device="cpu")  # nobody runs it
        self._method = method

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        tokens = nn.functional.pad(pixel_values, (0, 0, 1, 0)).unsqueeze(1)
        rows = {layer: (tokens + layer).repeat(1, HEADS, 1, WIDTH) for layer in self._method.layers(DEPTH)}
        attention = {layer: Attention(query, query + 1, WIDTH**-0.5) for layer, query in rows.items()}
        features, projected = (pixel_values.repeat(1, 1, width) for width in (FEATURES, PROJECTED))
        pixels = pixel_values.reshape(1, 1, *GRID).repeat(1, 3, PATCH, PATCH)
        taps = Taps(attention, features, projected, GRID, 1, DEPTH, None, self.projector, pixels=pixels)
        chosen = self._method.select(taps)
        merged = chosen.scores if chosen.merged is None else chosen.merged
        if chosen.merge is not None:
            merged = chosen.merge @ features
        return chosen.indices, chosen.scores, merged


@pytest.fixture(scope="module")
def example() -> Tensor:
    return torch.zeros(1, PATCHES, 1)


@pytest.mark.parametrize("name", pruners.names())
def test_the_traits_say_what_the_selection_costs(name: str, example: Tensor) -> None:
    said = COST.fullmatch(pruners.get(name).traits.multiply_adds)
    assert said
    method: Any
    if name == "bavit":
        method = bavit.Method(KEEP, Scorer(FRONT).eval(), side=1)
    else:
        method = pruners.get(name)(PATCHES if name == "none" else KEEP)  # type: ignore[call-arg]  # a Protocol has none
    if name == "zoo":  # as `prepared` makes it of a projector of these sizes
        method = zoo.Prepared(KEEP, zoo._upper(torch.zeros(PROJECTED, PROJECTED)))
    model = to_onnx(Selecting(method), example, ("indices", "scores", "merged"), opset=18, ir_version=10, hoisted=False)
    counted = graph_cost(model.graph)
    if name == "bavit":
        assert counted == method.multiply_adds(PATCHES)
    assert f"{counted / 1e6:.{len(said[2] or '')}f}" == said[1]
