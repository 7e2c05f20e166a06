"""What a bundle says of itself, and the texts that lie beside its graphs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

import edgeprune
from edgeprune import bundle, pruners, weighting
from edgeprune.bundle import Graph, Manifest, Model, TensorSpec
from edgeprune.checkpoint import Checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export import hub, recipe
from edgeprune.export.baselines import unpruned
from edgeprune.export.cost import by_layer, tokens_of
from edgeprune.export.page import readme
from edgeprune.export.storage import file_of
from edgeprune.export.wheel import Wheel
from edgeprune.pruners import Method, depth_of
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.targets import Target
from edgeprune.traits import source_said

__all__ = ["TOOLS", "layers_of", "manifest_of", "rule_of", "write_manifest", "write_texts"]

TOOLS = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy", "pillow")


def manifest_of(
    name: str,
    method: Method,
    tiles: int,
    checkpoint: Checkpoint,
    encoder: Encoder,
    target: Target,
    preprocessing: Preprocessing,
    precision: str,
    graphs: Mapping[str, ir.Model],
    cost: Mapping[str, int],
    rule: Mapping[str, Any],
    learned: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """The manifest of an export, without its files.

    name: of the method
    tiles: images of one run
    precision: what the weights are
    graphs: by name, as `save_graphs` takes them
    rule: of parity, as `rule_of` gives it
    learned: what was, and from what
    """
    of_tiles = encoder.pools if method.pools else encoder.tiled
    return Manifest(
        method=name,
        options={**method.options(), **_weighting(learned)},
        keep=method.keep,
        grid=encoder.grid,
        tiles=tiles,
        layout=encoder.layout,
        labels=encoder.labels,
        model=Model(checkpoint.id, checkpoint.revision, encoder.family, encoder.layer, encoder.features),
        precision=precision,
        graphs={
            graph: Graph(file_of(graph), specs(model.graph.inputs), specs(model.graph.outputs))
            for graph, model in graphs.items()
        },
        preprocessing=preprocessing.to_json(),
        target=target.name,
        cost=cost,
        deviations=(
            *pruners.deviations(method, tiled=tiles > 1 and of_tiles),
            *weighting.shown(learned),
            *_of_reducer(encoder),
        ),
        steps=steps_of(method, encoder),
        layers=layers_of(method, encoder),
        inside=_inside(encoder),
        learned=dict(learned),
        ports={port.name: port.to_json() for port in encoder.ports(method.ports)},
        nested=method.nests and depth_of(method, encoder) is None,
        rule=rule,
        versions={
            "edgeprune": edgeprune.__version__,
            "python": platform.python_version(),
            **{tool: version(tool) for tool in TOOLS},
        },
    )


def steps_of(method: Method, encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """(layers, tokens left behind them) of each place inside the encoder; a method has no other one in a detector."""
    if encoder.inside is not None:
        return tuple((step.layer, step.keep) for step in encoder.inside.steps)
    depth = depth_of(method, encoder)
    return () if depth is None else ((depth, method.keep),)


def layers_of(method: Method, encoder: Encoder) -> tuple[tuple[int, int, int], ...]:
    """(tokens, multiply-adds, multiply-adds unpruned) of each layer, where tokens go inside the encoder."""
    if not steps_of(method, encoder):
        return ()
    counts = tokens_of(encoder, method), by_layer(encoder, method), by_layer(*unpruned(encoder))
    return tuple(zip(*counts, strict=True))


def rule_of(method: Method, encoder: Encoder, pooled: int = 1) -> dict[str, Any]:
    """How parity judges: the method's rule, of as many candidates as it has; and of each step inside, its own.

    pooled: how many tiles are one pool of candidates
    """
    rule = method.rule(pooled * encoder.candidates)
    if (inside := encoder.inside) is None:
        return rule
    hidden = {"hidden": inside.reducer.hidden} if inside.reducer.hidden else {}
    steps = [{**inside.reducer.rule(step), "layer": step.layer, "keep": step.keep, **hidden} for step in inside.steps]
    return {**rule, "steps": steps}


def _inside(encoder: Encoder) -> dict[str, Any]:
    """The reducer and its options, as the manifest has them."""
    inside = encoder.inside
    return {} if inside is None else {"reducer": inside.name, "options": inside.reducer.options()}


def _weighting(learned: Mapping[str, Any]) -> dict[str, str]:
    """The options that every method by attention has, where they are not left out."""
    said = {"position": "fitted"} if "position" in learned else {}
    return said | ({"padding": "x".join(map(str, learned["padding"]["image"]))} if "padding" in learned else {})


def _of_reducer(encoder: Encoder) -> tuple[str, ...]:
    """What it is written from, and where it departs from that."""
    if (inside := encoder.inside) is None:
        return ()
    return (source_said(inside.name, inside.reducer.written_from), *inside.reducer.deviations)


def write_texts(
    folder: Path,
    checkpoint: Checkpoint,
    manifest: Manifest,
    target: Target,
    wheel: Wheel | None = None,
    repository: str | None = None,
) -> None:
    """preprocessor_config.json, README.md, and what a device needs to install, build and compare; graphs and reference
    are there.

    wheel: of edgeprune, if it is carried
    repository: on the Hugging Face hub, if it goes there; README.md is its card then
    """
    if wheel is not None:
        (folder / wheel.name).write_bytes(wheel.content)
    weights = sum(path.stat().st_size for path in folder.glob(f"{manifest.encoder.file}*"))
    page = readme(manifest, target, wheel, weights)
    texts = {
        "preprocessor_config.json": bundle.json_text(checkpoint.processor),
        "README.md": page if repository is None else hub.card(manifest, page, repository),
        "build.sh": recipe.build_script(
            target, manifest.encoder.file, manifest.float32_nodes, manifest.quantised is not None
        ),
        **recipe.polygraphy(target, folder / REFERENCE, manifest.encoder.file),
    }
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """List every file of the folder and write that; returns what was written. Raises BundleError."""
    listed = replace(manifest, files=bundle.describe_files(folder))
    (folder / bundle.MANIFEST).write_text(listed.to_json(), encoding="utf-8")
    return listed


def specs(values: Any) -> dict[str, TensorSpec]:
    """What a manifest says of inputs or outputs of a graph."""
    return {
        value.name: TensorSpec(
            tuple(size if isinstance(size, int) else str(size) for size in value.shape), value.dtype.numpy().name
        )
        for value in values
    }
