"""torch.onnx.export without the work that it repeats: the same model in about half of the time.

- It lists some 500 translations anew for every graph. Here they are listed once per opset and process, and
  every export is given a registry of its own that has them.
- It parses the source of each for a name that it does not use.
- It traces a program again to decompose it, twice. Here our decompositions join its table, and where the shapes are
  static, what they and the table name is written out where it stands (`lower`).
- It asks for that table, and for what each operator of ONNX takes, anew. Here both are kept for as long as they hold.
- It runs every node once more to see which numbers of two kinds meet. Here only those that a rule names are run.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgeprune.export.lower import lower

__all__ = ["translate"]

Decompositions = Mapping[Any, Any]


def translate(program: ExportedProgram, decompositions: Decompositions, **options: Any) -> ir.Model:
    """The ONNX model of a program, which may be changed on the way.

    decompositions: operator -> the function that stands for it; taken before the exporter's own translation of it
    options: those of torch.onnx.export
    """
    runs: list[ExportedProgram] = []
    run = program.run_decompositions

    def run_with_ours(table: Decompositions | None = None, *rest: Any) -> ExportedProgram:
        whole = {**(torch.export.default_decompositions() if table is None else table), **decompositions}
        runs.append(program if known and lower(program, whole, known) else run(whole, *rest))
        return runs[-1]

    program.run_decompositions = run_with_ours
    try:
        with _registry_kept() as known, _table_kept(), _signatures_kept(), _values_kept():
            exported = torch.onnx.export(program, dynamo=True, **options)
    finally:
        del program.run_decompositions
    assert runs, "torch.onnx decomposes a program by its run_decompositions; this release of torch does not"
    assert exported is not None
    model: ir.Model = exported.model
    return model


@contextlib.contextmanager
def _registry_kept() -> Iterator[set[Any]]:
    """Let the exporter take its translations from before; as it is, where a release of torch keeps them elsewhere.

    The set holds what the exporter translates, from when it asked for them.
    """
    known: set[Any] = set()
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        build, restored = ONNXRegistry.from_torchlib, vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield known
        return

    def fresh(opset_version: int) -> ONNXRegistry:
        """May be added to, and nothing of that is there the next time."""
        whole, registry = _read(build, opset_version), ONNXRegistry()
        registry._opset_version = whole._opset_version
        registry.functions = {target: [*translations] for target, translations in whole.functions.items()}
        known.update({operator.getitem, *(some[0].fx_target for some in whole.functions.values())})
        return registry

    ONNXRegistry.from_torchlib = staticmethod(fresh)  # type: ignore[assignment]
    try:
        yield known
    finally:
        ONNXRegistry.from_torchlib = restored  # type: ignore[method-assign]


@cache
def _read(build: Callable[..., Any], opset_version: int) -> Any:
    with _sources_unread():
        return build(opset_version=opset_version)


@contextlib.contextmanager
def _sources_unread() -> Iterator[None]:
    """onnxscript parses the source of each translation for the domain of its name, which torch does not look at."""
    try:
        from onnxscript._internal.values import TracedOnnxFunction

        traced: Any = TracedOnnxFunction
        restored = vars(traced)["function_ir"]
    except (ImportError, KeyError):
        yield
        return
    traced.function_ir = property(lambda function: function.opset)  # it has a domain, too
    try:
        yield
    finally:
        traced.function_ir = restored


@contextlib.contextmanager
def _replaced(owner: Any, name: str, other: Any) -> Iterator[None]:
    """An attribute of a class or module, as it was afterwards."""
    restored = vars(owner)[name]
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, restored)


_tables: dict[Any, dict[Any, Any]] = {}
_signatures: dict[Any, Any] = {}


def _table_kept() -> contextlib.AbstractContextManager[None]:
    """What torch takes apart is listed from 2,000 operators, each looked at; it changes where a library adds some."""
    try:
        from torch.onnx._internal.exporter import _decomp

        build: Any = _decomp.create_onnx_friendly_decomposition_table
        composite = torch._C._dispatch_get_registrations_for_dispatch_key
    except (ImportError, AttributeError):
        return contextlib.nullcontext()

    def table(translated: Any) -> dict[Any, Any]:
        there = frozenset(composite("CompositeImplicitAutograd"))
        key = frozenset(translated), there, len(torch._decomp.decomposition_table)
        if key not in _tables:
            _tables[key] = build(translated)
        return {**_tables[key]}

    return _replaced(_decomp, "create_onnx_friendly_decomposition_table", table)


def _signatures_kept() -> contextlib.AbstractContextManager[None]:
    """onnx_ir reads a schema's 20 to 60 types for each node that is made of it."""
    signature: Any = getattr(ir.schemas, "OpSignature", None)
    if "from_op_schema" not in getattr(signature, "__dict__", {}):
        return contextlib.nullcontext()
    read = signature.from_op_schema

    def kept(schema: Any) -> Any:
        key = schema.domain, schema.name, schema.since_version
        if key not in _signatures:
            _signatures[key] = read(schema)
        return _signatures[key]

    return _replaced(signature, "from_op_schema", staticmethod(kept))


def _values_kept() -> contextlib.AbstractContextManager[None]:
    """A promotion keeps the dtype that a node gives, so that what no rule names gives what it was recorded to give."""
    try:
        from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter, get_type_promotion_rule

        interpreter: Any = _TypePromotionInterpreter
        run = vars(interpreter)["run_node"]
    except (ImportError, KeyError):
        return contextlib.nullcontext()

    def run_node(self: Any, node: fx.Node) -> Any:
        value = node.meta.get("val")
        recorded = node.op == "call_function" and isinstance(value, Tensor)
        if recorded and get_type_promotion_rule(node, self.type_promotion_table) is None:
            return value
        return run(self, node)

    return _replaced(interpreter, "run_node", run_node)
