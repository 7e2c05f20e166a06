"""Tiny encoders and their graphs, a tiny detector with random tensors everywhere, and seeded scorers on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export.graph import to_onnx
from edgeprune.export.hoist import hoist
from edgeprune.fit import build_method
from edgeprune.pruners._loop import Form, written_as
from edgeprune.pruners._scorer import Scorer, ScorerConfig, load_scorer
from edgeprune.pruners._select import lower_take
from edgeprune.trace import PrunedEncoder, outputs
from tests.device import with_aligner
from tests.learned import scorer_of


@pytest.fixture(scope="session")
def tiny_llava(llava_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Encoder]:
    """(precision="float32") -> an encoder of 36 patches and [CLS]; not to be changed."""
    folder = llava_folder(tmp_path_factory.mktemp("llava"))

    @cache
    def load(precision: str = "float32") -> Encoder:
        encoder = encoders.load(open_checkpoint(str(folder)))
        for part in (encoder.tower.module, encoder.projector):
            part.to(getattr(torch, precision))
        return encoder

    return load


@pytest.fixture(scope="session")
def traced(tiny_llava: Callable[..., Encoder], make_scorer: Callable[..., Path]) -> Callable[..., ir.Model]:
    """(method, precision="float32", form="unrolled", free=False) -> the graph of `tiny_llava` that keeps 6 patches, at
    opset 18; each is made once, and must be cloned before it is changed. free: of any number of images."""

    @cache
    def make(name: str, precision: str = "float32", form: Form = "unrolled", free: bool = False) -> ir.Model:
        encoder, method_type = tiny_llava(precision), pruners.get(name)
        if method_type.traits.asks:
            encoder = with_aligner(encoder, precision)
        scorer: Any = scorer_of(name, encoder)
        if method_type.traits.needs_scorer and scorer is None:
            scorer = load_scorer(make_scorer(grid=encoder.grid))
        method = build_method(method_type, name, encoder, None if name == "none" else 6, scorer=scorer)
        example = torch.zeros(2 if free else 1, 3, 48, 48, dtype=getattr(torch, precision))
        with written_as(form):
            module = PrunedEncoder(encoder, method)
            return to_onnx(module, example, outputs(encoder, method), opset=18, ir_version=8, dynamic_batch=free)

    return make


@pytest.fixture(scope="session")
def yolos_folder(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers with positions between them, 6x8 patches of 8 pixels, 5 detection tokens."""
    from transformers import YolosForObjectDetection

    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 48, "width": 64}}
    shape: dict[str, Any] = {"image_size": [48, 64], "num_detection_tokens": 5, "num_labels": 3}
    folder = model_folder(tmp_path_factory.mktemp("yolos"), "YolosForObjectDetection", processor, **shape)
    model = cast(Any, YolosForObjectDetection).from_pretrained(folder)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_scorer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(kind="front", **changes of the config) -> the file of a scorer whose tensors are all random."""

    def make(kind: str = "front", **changes: Any) -> Path:
        torch.manual_seed(2)
        sizes: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
        own: dict[str, Any] = {
            "front": {"patch_size": 8, "grid": (6, 8)},
            "coarse": {"patch_size": 16, "grid": (3, 4)},
            "trunk": {"patch_size": 8, "grid": (6, 8), "width": 32},
        }[kind]
        pixels = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        scorer = Scorer(ScorerConfig(**{"kind": kind, **sizes, **own, **pixels, **changes}))
        for parameter in scorer.parameters():
            nn.init.normal_(parameter, std=0.4)
        path = tmp_path_factory.mktemp("scorer") / f"{kind}.safetensors"
        scorer.save(path)
        return path

    return make


ROUNDING = 1e-5
"""float32: the same sums, blocked differently"""


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Any:
        return self.function(x) if rows is None else self.function(x, rows)


def module_of(function: nn.Module | Callable[..., Any]) -> nn.Module:
    return function if isinstance(function, nn.Module) else Function(function)


@pytest.fixture(scope="session")
def program_of() -> Callable[..., ExportedProgram]:
    """(module or function, inputs x and rows, dynamic=False) -> its exported program."""

    def export(function: nn.Module | Callable[..., Any], *inputs: Tensor, dynamic: bool = False) -> ExportedProgram:
        sizes = {name: {0: Dim("batch")} for name, _ in zip(("x", "rows"), inputs, strict=False)} if dynamic else None
        with torch.no_grad():  # clone: torch guards the base of an input that is a view, and fails on it later
            given = tuple(map(torch.clone, inputs))
            return torch.export.export(module_of(function).eval(), given, dynamic_shapes=sizes)

    return export


@pytest.fixture(scope="session")
def hoisted(program_of: Callable[..., ExportedProgram]) -> Callable[..., ExportedProgram]:
    """(module or function, inputs x and rows, dynamic=False, lower=False) -> the program behind the pass, after a check
    that it still computes what the module does."""

    def run(
        function: nn.Module | Callable[..., Any], *inputs: Tensor, dynamic: bool = False, lower: bool = False
    ) -> ExportedProgram:
        module = module_of(function)
        program = program_of(module, *inputs, dynamic=dynamic)
        hoist(program)
        assert hoist(program) == 0  # one sweep is enough
        names = [spec.arg.name for spec in program.graph_signature.output_specs]
        outputs: Any = program.graph.output_node().args[0]
        assert names == [value.name for value in outputs]
        take = torch.ops.edgeprune.take.default
        with torch.no_grad():
            runs = [program.module()] + ([program.run_decompositions({take: lower_take}).module()] if lower else [])
            for batch in (1, 2, 3) if dynamic else (0,):
                images = torch.arange(batch) % len(inputs[0])
                given = [value[images] for value in inputs] if dynamic else inputs
                for one in runs:
                    torch.testing.assert_close(one(*given), module(*given), rtol=ROUNDING, atol=ROUNDING)
        return program

    return run


def shapes_in(program: ExportedProgram, target: Any) -> list[tuple[int, ...]]:
    return [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.target is target]


@pytest.fixture(scope="session")
def shapes() -> Callable[..., list[tuple[int, ...]]]:
    """(program, operator) -> the shapes of all its results."""
    return shapes_in


@pytest.fixture(scope="session")
def shapes_of(hoisted: Callable[..., ExportedProgram]) -> Callable[..., list[tuple[int, ...]]]:
    """(operator, function, inputs x and rows) -> the shapes of all its results behind the pass."""
    return lambda target, function, *inputs: shapes_in(hoisted(function, *inputs), target)
