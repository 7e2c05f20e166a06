"""One graph as two: what the pixels alone decide, and what hangs on a question or a prior as well.

    encode    pixel_values -> what of it is needed later
    select    that, text, prior, ... -> tokens, indices, scores, ...

So an image is encoded once and asked as often as there are questions. The cut is where the first node stands that reads
what is given beside the pixels: nothing is computed twice, and both halves are nodes of the fused graph as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.convenience import extract

from edgeprune.bundle import ENCODE, SELECT
from edgeprune.runtime.runner import PIXELS

__all__ = ["split"]


def split(model: ir.Model, ports: Sequence[str]) -> dict[str, ir.Model]:
    """The two halves of a graph, by name; they share its weights. ports: its inputs that come with a question

    Of a graph that takes any number of images, nodes that count them do so by the pixels from then on.
    """
    graph = model.graph
    given = [value for value in graph.inputs if value.name in ports]
    pixels = next(value for value in graph.inputs if value.name == PIXELS)
    _count_by(pixels, given)
    seen, late = {pixels}, set(given)
    between: dict[ir.Value, None] = {}
    for node in graph:
        read = [*_read(node)]
        if any(value in late for value in read):
            late.update(node.outputs)
            between.update(dict.fromkeys(value for value in read if value in seen and value not in late))
        elif any(value in seen for value in read):
            seen.update(node.outputs)
    early = [value for value in graph.outputs if value not in late]
    kept = [value for value in between if value not in early]
    outputs = [value for value in graph.outputs if value in late]
    halves = {
        ENCODE: extract(graph, [PIXELS], [*kept, *early]),
        SELECT: extract(graph, [*between, *given], outputs),
    }
    return {name: _model(half, model) for name, half in halves.items()}


def _count_by(pixels: ir.Value, given: Sequence[ir.Value]) -> None:
    """A tracer reads how many images there are off any input: off one that comes late, all of the encoder would."""
    for value in given:
        for node, at in tuple(value.uses()):
            first = {name: attribute.value for name, attribute in node.attributes.items()} == {"start": 0, "end": 1}
            if node.op_type == "Shape" and first and _images(value) == _images(pixels):
                node.replace_input_with(at, pixels)


def _images(value: ir.Value) -> object:
    return None if value.shape is None else value.shape[0]


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node takes, also in the bodies of a loop."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _read(inner)


def _model(graph: ir.Graph, of: ir.Model) -> ir.Model:
    model = ir.Model(graph, ir_version=of.ir_version, producer_name=of.producer_name)
    model.metadata_props.update(of.metadata_props)
    return model
