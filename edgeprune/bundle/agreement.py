"""What must hold within a manifest: numbers that are counts, text that can be printed, shapes that fit each other.

The digest keeps a file as it was written; this keeps an exporter, and a hand that writes manifests, from writing one
that a runtime would stumble over. Whether the graph itself has these shapes shows when it is opened.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.bundle.schema import KINDS, Fields, Graph, TensorSpec
from edgeprune.precisions import PRECISIONS

__all__ = ["check"]

BOUNDS = ("regret", "token_median", "token_each")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")


def check(manifest: Fields) -> None:
    """Raises ValueError in one line that says what does not hold."""
    for path, text in _texts(dataclasses.asdict(manifest), ""):
        if not text.isprintable():
            raise ValueError(f"{path} must be text that can be printed, got {text!a:.60}")
    for rules in (_counts, _graphs, _encoder, _ports, _steps, _quantised):
        for holds, rule, got in rules(manifest):
            if not holds:
                raise ValueError(rule if got is None else f"{rule}, got {got!r:.60}")


# What `check` asks, in order: (whether it holds, what must hold, what was given).
Rules = Iterator[tuple[bool, str, object]]


def _counts(manifest: Fields) -> Rules:
    keep, grid, tiles = manifest.keep, manifest.grid, manifest.tiles
    yield min(grid) > 0, "grid must be rows and columns, both above 0", grid
    yield tiles > 0, "tiles must be above 0", tiles
    yield 0 < keep <= manifest.patches * tiles, f"keep must be in 1..{manifest.patches * tiles}", keep
    yield manifest.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}", manifest.precision
    for step in manifest.steps:
        yield min(step) >= 0, "steps must be pairs of layers and tokens", step
    for layer in manifest.layers:
        yield min(layer) >= 0, "layers must be tokens and multiply-adds, none below 0", layer
    layers = manifest.model.layer
    yield (
        len(manifest.layers) in (0, layers),
        f"layers must have one entry of each of the {layers}",
        len(manifest.layers),
    )
    for name, count in manifest.cost.items():
        yield count >= 0, f"cost[{name!r}] must not be below 0", count
    for name, file in manifest.files.items():
        yield file.size >= 0, f"files[{name!r}].size must not be below 0", file.size


def _graphs(manifest: Fields) -> Rules:
    graphs = manifest.graphs
    yield "encoder" in graphs, "graphs must have encoder", list(graphs)
    for name, graph in graphs.items():
        listed = not manifest.files or graph.file in manifest.files  # none is listed in what is not written yet
        yield listed, f"files must list {graph.file}, the graph {name}", None
        for tensor, spec in (*graph.inputs.items(), *graph.outputs.items()):
            path = f"graphs[{name!r}]: {tensor}"
            yield spec.dtype in DTYPES, f"{path} must be one of {', '.join(DTYPES)}", spec.dtype
            yield all(_is_dimension(size) for size in spec.shape), f"{path} must have dimensions above 0", spec.shape
    for name, engine in manifest.engines.items():
        yield engine.plan in manifest.files, f"files must list {engine.plan}, the plan for {name}", None


def _encoder(manifest: Fields) -> Rules:
    """The tensors that every encoder of its kind has, beside keep, grid and tiles."""
    encoder, keep = manifest.encoder, manifest.keep
    both = encoder.inputs.keys() & encoder.outputs.keys()
    yield not both, "an input and an output must not share a name", sorted(both)
    names = ("indices", "scores", *KINDS[manifest.kind])
    for name in names:
        yield name in encoder.outputs, f"the outputs of encoder must have {name}", list(encoder.outputs)
    yield bool(encoder.inputs), "encoder must have an input", list(encoder.inputs)
    batch: int | str = manifest.tiles
    if manifest.dynamic_batch:
        batch = next(size for spec in encoder.inputs.values() for size in spec.shape if isinstance(size, str))
    every = manifest.patches
    if manifest.pooled:
        batch, every = 1, every * manifest.tiles
    yield keep <= every, f"keep must be at most the {every} patches it is chosen from", keep
    yield from _pixels(manifest, encoder)
    lead = {"tokens": (batch, keep), "indices": (batch, keep), "picks": (batch, keep), "scores": (batch, every)}
    if manifest.inside:
        lead["origin"] = (batch, every)
    for name, shape in lead.items():
        if (spec := encoder.outputs.get(name)) is None:
            continue
        begins = spec.shape[: len(shape)] == shape and len(spec.shape) == len(shape) + (name == "tokens")
        wanted = (*shape, "a width") if name == "tokens" else shape
        yield begins, f"{name} must be {_shown(wanted)}", _shown(spec.shape)
    if manifest.kind == "logits":
        classes, given = (batch, len(manifest.labels)), encoder.outputs["logits"].shape
        yield given == classes, f"logits must be {_shown(classes)}, one for each of labels", _shown(given)
    for name, dtype in {"indices": "int32", "picks": "int32", "scores": "float32", "origin": "int32"}.items():
        if name in encoder.outputs:
            yield encoder.outputs[name].dtype == dtype, f"{name} must be {dtype}", encoder.outputs[name].dtype


def _ports(manifest: Fields) -> Rules:
    """What stands in where nothing is given."""
    inputs = manifest.encoder.inputs
    for name, port in manifest.ports.items():
        yield name in inputs, f"the inputs of encoder must have {name}, a port", list(inputs)
        blank = port.get("blank", "nothing") if isinstance(port, Mapping) else "nothing"
        number = isinstance(blank, (int, float)) and not isinstance(blank, bool)
        yield blank is None or number, f"ports[{name!r}].blank must be a number or null", blank


def _steps(manifest: Fields) -> Rules:
    """What shortens the sequence inside the encoder: fewer rows behind each step, and what says where they went."""
    given = manifest.rule.get("steps")
    if not manifest.inside and given is None:
        return
    yield isinstance(manifest.inside.get("reducer"), str), "inside must name its reducer", None
    rules = [one for one in given if isinstance(one, Mapping)] if isinstance(given, (list, tuple)) else []
    named = [(one.get("layer"), one.get("keep")) for one in rules] == list(manifest.steps)
    yield bool(rules) and named, "rule.steps must say layer and keep of every step, as steps does", None
    outputs = manifest.encoder.outputs
    batch = outputs["indices"].shape[0]
    before, rows, hidden = 0, manifest.patches, 0
    for (layer, keep), rule in zip(manifest.steps, rules, strict=True):
        yield layer > before, f"the layers of steps must rise, behind {before}", layer
        yield 0 < keep < rows, f"behind layer {layer} there must be 1..{rows - 1} rows", keep
        for name, shape, dtype in (
            (f"trail.{layer}", (batch, rows + hidden), "int32"),
            (f"scores.{layer}", (batch, rows), "float32"),
        ):
            yield name in outputs, f"the outputs of encoder must have {name}", list(outputs)
            yield outputs[name].shape == shape, f"{name} must be {_shown(shape)}", _shown(outputs[name].shape)
            yield outputs[name].dtype == dtype, f"{name} must be {dtype}", outputs[name].dtype
        hidden = rule.get("hidden", 0)
        counted = isinstance(hidden, int) and not isinstance(hidden, bool) and hidden >= 0
        yield counted, f"the hidden rows behind layer {layer} must be a count", hidden
        before, rows = layer, keep
    yield manifest.keep <= rows, f"keep must be at most the {rows} rows that the last step leaves", manifest.keep


def _quantised(manifest: Fields) -> Rules:
    """What a runtime reads of it."""
    if (given := manifest.quantised) is None:
        return
    yield not manifest.precision.startswith("float"), "what is quantised must be no float", manifest.precision
    bounds, session = given.get("bounds"), given.get("session", {})
    said = isinstance(bounds, Mapping) and all(_is_bound(bounds.get(name)) for name in BOUNDS)
    yield said, f"quantised.bounds must hold {', '.join(BOUNDS)}, each above 0", bounds
    devices = session.values() if isinstance(session, Mapping) else [None]
    lists = all(isinstance(one, Mapping) and _is_texts(one.get("disable", [])) for one in devices)
    yield lists, "quantised.session must hold objects by device, each with a list of names to disable", session


def _is_bound(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _pixels(manifest: Fields, encoder: Graph) -> Rules:
    """pixel_values is as large as the preprocessing makes images."""
    spec: TensorSpec | None = encoder.inputs.get("pixel_values")
    size = manifest.preprocessing.get("size")
    if spec is None or not isinstance(size, (list, tuple)):
        return
    side = spec.shape[1:3] if spec.dtype == "uint8" else spec.shape[2:4]
    yield len(spec.shape) == 4, "pixel_values must have 4 dimensions", spec.shape
    yield tuple(size) == side, f"preprocessing must give images of {_shown(side)}, as encoder takes them", size


def _is_dimension(size: int | str) -> bool:
    return bool(size) if isinstance(size, str) else size > 0


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in a tree of JSON, names included, with the path to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"a name in {path or 'it'}", name
            yield from _texts(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, (list, tuple)):
        for at, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{at}]")
