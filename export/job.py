"""One export, from the request to the verified bundle: load, run the reference, trace, write, check."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

import edgeprune
from edgeprune import bundle, encoders, pruners, targets
from edgeprune.bundle import Manifest
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import BundleError, ParityError, RequestError
from edgeprune.export import budget
from edgeprune.export.baselines import baselines, matmul, unpruned
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.downgrade import TRACED_OPSET, downgrade
from edgeprune.export.graph import to_onnx
from edgeprune.export.lint import lint, parse, refuse
from edgeprune.export.manifest import manifest_of, rule_of, write_manifest, write_texts
from edgeprune.export.precision import RawPixels, in_precision
from edgeprune.export.processor import read_processor
from edgeprune.export.ranges import beyond_float16, check_range, range_warnings
from edgeprune.export.record import Reference
from edgeprune.export.request import TRAINED, Request, carried, check_flags, output_of, pair, split_options
from edgeprune.export.steps import chosen_steps
from edgeprune.export.storage import INLINE_NBYTES, file_of, save_graphs, weights_nbytes
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.probes import probes
from edgeprune.pruners import Method
from edgeprune.pruners._loop import written_as
from edgeprune.pruners._scorer import Scorer, load_scorer
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.runtime.parity.verify import BackendReport, verify
from edgeprune.targets import Target
from edgeprune.trace import PrunedEncoder, outputs

__all__ = ["STEPS", "Exported", "Request", "export_bundle"]

STEPS = (
    "read the checkpoint",
    "run the reference",
    "trace and export",
    "export the baselines",
    "write the graphs",
    "verify on ONNX Runtime",
)
TENSOR_CORES = 8
"""float16 elements that a side of a product should be a multiple of, on any GPU that has them"""
SPARE_NBYTES = 160 << 20
"""what a bundle needs on disk beside its weights, at most: the probes, and what a method makes of the weights"""


@dataclass(frozen=True)
class Exported:
    folder: Path
    manifest: Manifest
    reports: list[BackendReport]
    warnings: tuple[str, ...] = ()
    """what the user should know before the bundle goes anywhere, each in one line"""


def export_bundle(request: Request, step: Callable[[str], None] = lambda name: None) -> Exported:
    """Write the bundle, verified on ONNX Runtime before it appears under its name.

    step: called with each of STEPS as it begins

    Raises RequestError (and its kinds) before anything is written when the request cannot be met, ParityError when the
    graph and the reference disagree. A failure leaves no bundle, and an existing one as it was.
    """
    target = targets.load(request.target)
    method_type = pruners.get(request.method)
    check_flags(request, target)
    wheel = carried(request)
    if request.output is not None:
        bundle.check_output(request.output, request.force)

    step("read the checkpoint")
    checkpoint = open_checkpoint(request.model, request.revision)
    output = output_of(request, checkpoint.id, target)
    bundle.check_output(output, request.force)  # a default name is known only here, still before the weights are read
    encoder = encoders.load(
        checkpoint,
        request.layer,
        grid=pair("--grid", request.grid, "rows x columns of patches, such as 32x32"),
        video=request.video,
        size=pair("--size", request.size, "height x width in pixels, such as 512x864"),
    )
    _check_batch(request, encoder)
    pooled = request.tiles if encoder.tiled and method_type.traits.pools_tiles else 1
    every = encoder.patches * (request.tiles if encoder.tiled else 1)
    scorer = _scorer(request.scorer, method_type)
    total = budget.tokens(request.keep, every, budget.block_of(scorer, encoder))
    keep = total if pooled > 1 else budget.of_a_tile(total, request.tiles, encoder)
    tiles = request.tiles if encoder.tiled else None
    preprocessing = read_processor(
        checkpoint.processor,
        encoder.tower.image_size,
        tiles,
        model_type=checkpoint.config["model_type"],
        resized=request.size is not None,
    )
    own, reducers = split_options(request)
    method = build_method(
        method_type,
        request.method,
        encoder,
        keep,
        own,
        pooled,
        scorer,
        (preprocessing.mean, preprocessing.std),
    )
    if request.inside is not None:
        encoder = _shortened(encoder, method, request, reducers, target)
    images = probes(encoder.tower.image_size, request.probes, request.image_range)

    with bundle.writing(output, request.force) as folder:
        precision = request.precision or target.onnx.float
        _check_space(folder, encoder, precision)

        step("run the reference")
        batch = 2 if request.dynamic_batch else request.tiles
        rule = rule_of(method, encoder, pooled)
        reference = Reference(encoder, method, preprocessing, batch, rule)
        images |= reference.telling(encoder.tower.image_size)
        example = reference.write(folder, images, request.uint8, check=precision != "float32")
        largest = reference.largest
        check_range(largest, precision, target, checkpoint.id)
        forced = reference.forced if encoder.inside else None
        del reference  # it holds the float32 weights, of which the graph may have a copy in another precision

        encoder, method = in_precision(encoder, method, preprocessing, precision, request.uint8, checkpoint.id)
        example = example if request.uint8 else example.to(getattr(torch, precision))
        models = _trace(encoder, method, example, target, request, checkpoint.id, precision, pooled, step)
        step("write the graphs")
        graph = models.pop(bundle.ENCODER)
        graphs = {bundle.ENCODER: graph, **{f"baseline.{name}": model for name, model in models.items()}}
        save_graphs(folder, graphs)
        for path in sorted(folder.glob("*.onnx")):
            onnx.checker.check_model(str(path), full_check=True)
        weak = target.engine.typing == "weak_fp16"
        wide = beyond_float16(folder / file_of(bundle.ENCODER), folder / REFERENCE) if weak else ()
        if target.engine.kind == "tensorrt-rtx":
            refuse(parse(folder / file_of(bundle.ENCODER)), target)

        cost = {
            "formula": request.tiles * formula(encoder, method),
            "graph": graph_cost(graph.graph),
            "unpruned_formula": request.tiles * formula(*unpruned(encoder)),
            **{f"{name}_graph": graph_cost(model.graph) for name, model in models.items()},
        }
        manifest = manifest_of(
            request.method,
            method,
            request.tiles,
            checkpoint,
            encoder,
            target,
            preprocessing,
            precision,
            graphs,
            cost,
            rule,
        )
        manifest = replace(manifest, float32_nodes=wide, calibration=request.calibration)
        large = weights_nbytes(graph) > INLINE_NBYTES
        del encoder, graph, models, graphs
        if large:
            gc.collect()  # the weights, before ONNX Runtime holds its own copy

        write_texts(folder, checkpoint, manifest, target, wheel, request.push_to_hub)
        manifest = write_manifest(folder, manifest)

        step("verify on ONNX Runtime")
        reports = verify(folder, device="cpu", forced=forced)
        failed = [report for report in reports if not report.passed]
        if failed:
            raise ParityError(f"the exported graph differs from the reference: {failed[0].worst.reasons[0]}")
    warnings = (*budget.warnings(manifest, method), *range_warnings(largest, precision, wide, target))
    return Exported(output, manifest, reports, warnings)


def _scorer(given: Path | None, method: type[Method]) -> Scorer | None:
    """What was given, or what `edgeprune bavit train` left here."""
    if given is None and method.traits.needs_scorer and TRAINED.is_dir():
        given = TRAINED
    return None if given is None else load_scorer(given)


def _shortened(
    encoder: Encoder, method: Method, request: Request, options: Mapping[str, str], target: Target
) -> Encoder:
    """The encoder with the steps that were asked for, or chosen; options: of the reducer."""
    assert request.inside is not None
    reducer = build_reducer(encoder, request.inside, method, request.method, options)
    if request.schedule is not None:
        steps = parse_steps(request.schedule)
    else:
        assert request.encoder_cost is not None
        multiple = 1 if target.engine.kind == "onnxruntime" else TENSOR_CORES
        steps = chosen_steps(encoder, reducer, request.inside, method, request.encoder_cost, multiple)
    return with_inside(encoder, request.inside, reducer, steps, method, "origin" in request.outputs)


def _check_batch(request: Request, encoder: Encoder) -> None:
    if not encoder.tower.batched and (request.tiles > 1 or request.dynamic_batch):
        given = "--dynamic-batch" if request.dynamic_batch else f"--tiles {request.tiles}"
        raise RequestError(f"{encoder.family} takes one image at a time, got {given}; leave it out")
    if encoder.tiled and request.dynamic_batch:
        raise RequestError(
            f"the tiles of {encoder.family} share the budget of their image: --tiles must fix their number; "
            "leave out --dynamic-batch"
        )


def _check_space(folder: Path, encoder: Encoder, precision: str) -> None:
    parts = (encoder.tower.module, encoder.projector, *(projector for _, projector in encoder.extras.values()))
    parameters = sum(value.numel() for part in parts for value in part.parameters())
    need, free = parameters * np.dtype(precision).itemsize + SPARE_NBYTES, shutil.disk_usage(folder).free
    if need > free:
        raise BundleError(
            f"the bundle needs up to {need >> 20} MiB, its place has {free >> 20} MiB free; choose another --output"
        )


def _trace(
    encoder: Encoder,
    method: Method,
    example: Tensor,
    target: Target,
    request: Request,
    id: str,
    precision: str,
    pooled: int,
    step: Callable[[str], None],
) -> dict[str, ir.Model]:
    """The graphs by name; `encoder` is the pruned one, the others are its baselines."""
    opset, ir_version = target.onnx.opset, target.onnx.ir_version
    metadata = {
        "edgeprune.method": request.method,
        "edgeprune.keep": str(method.keep),
        "edgeprune.grid": "x".join(map(str, encoder.grid)),
        "edgeprune.model": id,
        "edgeprune.version": edgeprune.__version__,
    }

    def convert(
        module: nn.Module, names: Sequence[str], hoisted: bool = True, metadata: Mapping[str, str] | None = None
    ) -> ir.Model:
        model = to_onnx(
            module,
            example,
            names,
            opset=max(opset, TRACED_OPSET),
            ir_version=ir_version,
            dynamic_batch=request.dynamic_batch,
            hoisted=hoisted,
            metadata=metadata,
        )
        return downgrade(model, target)

    pixels: nn.Module = RawPixels(getattr(torch, precision)) if request.uint8 else nn.Identity()
    step("trace and export")
    names = outputs(encoder, method)
    with written_as(target.onnx.greedy):
        models = {bundle.ENCODER: convert(PrunedEncoder(encoder, method, pixels), names, metadata=metadata)}
    refuse(lint(models[bundle.ENCODER], target), target)
    if request.baselines:
        step("export the baselines")
        models |= baselines(encoder, method, pixels, convert, pooled)
        models["matmul"] = matmul(precision, opset, ir_version)
    return models
