"""The exporter's repeated work is left out, and the model is the one that it would have written, byte for byte;
only its -1 among static sizes are written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.onnx._internal.exporter import _decomp
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter

from edgeprune import pruners
from edgeprune.encoders import Encoder
from edgeprune.export import graph, translate
from edgeprune.fit import build_method
from edgeprune.pruners._loop import Form, written_as
from edgeprune.trace import PrunedEncoder

OUTPUTS = ("tokens", "indices", "scores")


def written(encoder: Encoder, method: str, form: Form, dynamic_batch: bool) -> bytes:
    module = PrunedEncoder(encoder, build_method(pruners.get(method), method, encoder, 6))
    with written_as(form):
        example = torch.zeros(2, 3, 48, 48)
        model = graph.to_onnx(module, example, OUTPUTS, opset=18, ir_version=10, dynamic_batch=dynamic_batch)
    for node in model.graph.all_nodes():
        if node.op_type == "Reshape" and not dynamic_batch:
            write_sizes(node)
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def write_sizes(node: ir.Node) -> None:
    """Each size as it is, also the one that torch may write as -1."""
    (result,), (_, sizes) = node.outputs, node.inputs
    assert result.shape is not None
    assert sizes is not None
    if sizes.const_value is not None:
        sizes.const_value = ir.tensor(np.array(result.shape.numpy(), dtype=np.int64), name=sizes.name)


def at_length(program: ExportedProgram, decompositions: Any, **options: Any) -> ir.Model:
    """Each step on its own, and nothing kept: decompose, then let the exporter do the same again."""
    exported = torch.onnx.export(program.run_decompositions(dict(decompositions)), dynamo=True, **options)
    assert exported is not None
    model: ir.Model = exported.model
    return model


@pytest.mark.parametrize(
    ("method", "form", "dynamic_batch"),
    [
        pytest.param("divprune", "looped", True, marks=pytest.mark.slow),
        pytest.param("visionzip", "looped", False, marks=pytest.mark.slow),
        pytest.param("fastervlm", "looped", False, marks=pytest.mark.slow),
        pytest.param("dpp", "unrolled", False, marks=pytest.mark.slow),
    ],
)
def test_graphs_are_the_same_bytes_as_without_the_short_cuts(
    tiny_llava: Callable[..., Encoder],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    form: Form,
    dynamic_batch: bool,
) -> None:
    short = written(tiny_llava(), method, form, dynamic_batch)
    monkeypatch.setattr(graph, "translate", at_length)
    monkeypatch.setattr(graph, "optimize", optimize_ir)
    assert written(tiny_llava(), method, form, dynamic_batch) == short


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 2


def program() -> ExportedProgram:
    return torch.export.export(Doubled(), (torch.zeros(1, 4),))


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph.all_nodes()}


def test_the_registry_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    build = ONNXRegistry.from_torchlib

    def counted(opset_version: int) -> ONNXRegistry:
        reads.append(opset_version)
        return build(opset_version=opset_version)

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(counted))
    for opset in (18, 18, 20, 18):
        translate.translate(program(), {}, opset_version=opset, verbose=False)
    assert reads == [18, 20]


def replaced() -> list[Any]:
    """What a translation puts something else in the place of, while it lasts."""
    return [
        vars(ONNXRegistry)["from_torchlib"],
        vars(_decomp)["create_onnx_friendly_decomposition_table"],
        vars(ir.schemas.OpSignature)["from_op_schema"],
        vars(_TypePromotionInterpreter)["run_node"],
    ]


def test_torch_is_left_as_it_was() -> None:
    before, kept = replaced(), program()
    translate.translate(kept, {}, opset_version=18, verbose=False)
    assert all(one is other for one, other in zip(replaced(), before, strict=True))
    assert "run_decompositions" not in vars(kept)


def test_torch_is_left_as_it_was_by_a_failure() -> None:
    before, kept = replaced(), program()
    with pytest.raises(TypeError, match="no_such_option"):
        translate.translate(kept, {}, no_such_option=1)
    assert all(one is other for one, other in zip(replaced(), before, strict=True))
    assert "run_decompositions" not in vars(kept)


class Mixed(nn.Module):
    """Numbers of three kinds meet, behind and in front of what no rule names."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(4)
        return torch.relu((x > 0) + place * x).flatten(1) * place + (place + 1.5)


@pytest.mark.slow
def test_numbers_of_two_kinds_meet_as_the_exporter_lets_them() -> None:
    given = (torch.zeros(1, 4),)
    ours = translate.translate(torch.export.export(Mixed(), given), {}, opset_version=18, verbose=False)
    theirs = at_length(torch.export.export(Mixed(), given), {}, opset_version=18, verbose=False)
    kinds = [
        [(node.op_type, [value.dtype for value in node.outputs]) for node in model.graph.all_nodes()]
        for model in (ours, theirs)
    ]
    assert kinds[0] == kinds[1]
    assert "Cast" in operators(ours)


def test_an_operator_that_a_library_adds_is_taken_apart_in_the_next_export() -> None:
    translate.translate(program(), {}, opset_version=18, verbose=False)
    with torch.library._scoped_library("edgeprune_tests", "FRAGMENT") as library:
        library.define("doubled(Tensor x) -> Tensor")
        library.impl("doubled", lambda x: x + x, "CompositeImplicitAutograd")

        class Own(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                doubled: Tensor = torch.ops.edgeprune_tests.doubled(x)
                return doubled

        own = torch.export.export(Own(), (torch.zeros(1, 4),))
        assert operators(translate.translate(own, {}, opset_version=18, verbose=False)) == {"Add"}


def test_a_translation_that_one_export_adds_is_not_there_in_the_next() -> None:
    from onnxscript import opset18

    table = {torch.ops.aten.relu.default: lambda x: opset18.Abs(x)}
    assert "Abs" in operators(translate.translate(program(), {}, opset_version=18, custom_translation_table=table))
    assert "Relu" in operators(translate.translate(program(), {}, opset_version=18, verbose=False))


def test_a_decomposition_comes_before_the_exporters_own_translation() -> None:
    def relu(x: Tensor) -> Tensor:
        return torch.maximum(x, torch.zeros_like(x))

    model = translate.translate(program(), {torch.ops.aten.relu.default: relu}, opset_version=18, verbose=False)
    assert "Relu" not in operators(model)
    assert "Max" in operators(model)


def test_without_the_registry_it_knows_a_release_of_torch_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.onnx._internal.exporter import _registration

    monkeypatch.delattr(_registration, "ONNXRegistry")
    with translate._registry_kept() as known:
        assert not known
        assert not hasattr(_registration, "ONNXRegistry")
