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
from edgeprune import bundle, catalog, pruners, targets
from edgeprune.bundle import Manifest
from edgeprune.checkpoint import Checkpoint, architecture, open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import BundleError, ParityError
from edgeprune.export import budget
from edgeprune.export.baselines import baselines, matmul, unpruned
from edgeprune.export.cost import formula, graph_cost
from edgeprune.export.downgrade import TRACED_OPSET, downgrade
from edgeprune.export.graph import to_onnx
from edgeprune.export.lint import lint, parse, refuse
from edgeprune.export.manifest import manifest_of, rule_of, write_manifest, write_texts
from edgeprune.export.opening import opened
from edgeprune.export.precision import RawPixels, in_precision
from edgeprune.export.quantise.calibration import source_of
from edgeprune.export.quantise.plan import planned
from edgeprune.export.quantise.scheme import scheme_of
from edgeprune.export.ranges import beyond_float16, check_range, range_warnings
from edgeprune.export.record import Reference
from edgeprune.export.request import Request, carried, check_flags, output_of, spelled_out
from edgeprune.export.split import split
from edgeprune.export.storage import INLINE_NBYTES, file_of, save_graphs, weights_nbytes
from edgeprune.export.text import asked_in_words
from edgeprune.ports import LEARNED
from edgeprune.precisions import QUANTISED
from edgeprune.probes import probes
from edgeprune.pruners import Method
from edgeprune.pruners._learned import FILE, Learned
from edgeprune.pruners._loop import written_as
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.runtime.parity.verify import BackendReport, verify
from edgeprune.targets import Target
from edgeprune.trace import PrunedEncoder, beside, outputs

__all__ = ["STEPS", "Exported", "Request", "export_bundle", "steps_of"]

BASELINES = "export the baselines"
STEPS = (
    "read the checkpoint",
    "run the reference",
    "trace and export",
    BASELINES,
    "write the graphs",
    "verify on ONNX Runtime",
)
CALIBRATE = "calibrate"
"""the step that a quantised graph has besides, behind the reference; it says how far it is behind a colon"""
SPARE_NBYTES = 160 << 20
"""what a bundle needs on disk beside its weights, at most: the probes, and what a method makes of the weights"""


@dataclass(frozen=True)
class Exported:
    folder: Path
    manifest: Manifest
    reports: list[BackendReport]
    warnings: tuple[str, ...] = ()
    """what the user should know before the bundle goes anywhere, each in one line"""


def steps_of(request: Request) -> tuple[str, ...]:
    """Those of STEPS that it takes, and CALIBRATE where it is one."""
    steps = [step for step in STEPS if request.baselines or step != BASELINES]
    if request.precision in QUANTISED:
        steps.insert(steps.index("run the reference") + 1, CALIBRATE)
    return tuple(steps)


def export_bundle(request: Request, step: Callable[[str], None] = lambda name: None) -> Exported:
    """Write the bundle, verified on ONNX Runtime before it appears under its name.

    step: called with each of `steps_of` as it begins

    Raises RequestError (and its kinds) before anything is written when the request cannot be met, ParityError when the
    graph and the reference disagree. A failure leaves no bundle, and an existing one as it was.
    """
    target = targets.load(request.target)
    request = spelled_out(request)
    pruners.get(request.method)  # before anything is read
    check_flags(request, target)
    wheel = carried(request)
    if request.output is not None:
        bundle.check_output(request.output, request.force)

    step("read the checkpoint")
    checkpoint = open_checkpoint(request.model, request.revision)
    output = output_of(request, checkpoint.id, target)
    bundle.check_output(output, request.force)  # a default name is known only here, still before the weights are read
    loaded = opened(request, target, checkpoint)
    encoder, method, preprocessing, pooled = loaded.encoder, loaded.method, loaded.preprocessing, loaded.pooled
    learned, told, text = loaded.learned, loaded.warnings, loaded.text
    del loaded
    images = probes(encoder.tower.image_size, request.probes, request.image_range)

    with bundle.writing(output, request.force) as folder:
        scheme = scheme_of(request.precision, target)
        precision = scheme.rest if scheme else request.precision or target.onnx.float
        _check_space(folder, encoder, precision, scheme is not None)

        step("run the reference")
        batch = 2 if request.dynamic_batch else request.tiles
        rule = rule_of(method, encoder, pooled)
        reference = Reference(encoder, method, preprocessing, batch, rule)
        images |= reference.telling(encoder.tower.image_size)
        example = reference.write(folder, images, request.uint8, check=scheme is not None or precision != "float32")
        largest = reference.largest
        check_range(largest, precision, target, checkpoint.id)
        forced = reference.forced if encoder.inside else None

        plan = None
        if scheme is not None:
            step(CALIBRATE)
            source = source_of(
                request.calibrated_on, request.calibration_images, images, encoder.tower.image_size, request.image_range
            )
            told = told if scheme.dynamic else (*told, *source.warnings)
            plan = planned(
                encoder,
                method,
                scheme,
                source,
                preprocessing,
                batch,
                reference.judge,
                request.keep_float,
                lambda what: step(f"{CALIBRATE}: {what}"),
            )

        own = _text_side(request.method, method)
        del reference  # it holds the float32 weights, of which the graph may have a copy in another precision
        encoder, method = in_precision(encoder, method, preprocessing, precision, request.uint8, checkpoint.id)
        example = example if request.uint8 else example.to(getattr(torch, precision))
        models = _trace(encoder, method, example, target, request, checkpoint.id, precision, pooled, step)
        step("write the graphs")
        graph = models.pop(bundle.ENCODER)
        quantised = None
        if plan is not None:
            quantised = plan.write(graph)
            refuse(lint(graph, target), target)
        halves = split(graph, [port.name for port in encoder.ports(method.ports)]) if request.split else {}
        graphs = {bundle.ENCODER: graph, **halves, **{f"baseline.{name}": model for name, model in models.items()}}
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
            request.called or request.method,
            method,
            request.tiles,
            checkpoint,
            encoder,
            target,
            preprocessing,
            scheme.precision if scheme else precision,
            graphs,
            cost,
            rule,
            learned,
        )
        manifest = replace(manifest, float32_nodes=wide, calibration=request.calibration, quantised=quantised)
        if own is not None:
            (folder / FILE).write_bytes(own)
        if text is not None:
            manifest = replace(manifest, ports=asked_in_words(folder, text, manifest.ports))
        large = weights_nbytes(graph) > INLINE_NBYTES
        del encoder, graph, models, graphs, plan
        if large:
            gc.collect()  # the weights, before ONNX Runtime holds its own copy

        write_texts(folder, checkpoint, manifest, target, wheel, request.push_to_hub)
        manifest = write_manifest(folder, manifest)

        step("verify on ONNX Runtime")
        reports = verify(folder, device="cpu", forced=forced)
        failed = [report for report in reports if not report.passed]
        if failed:
            raise ParityError(f"the exported graph differs from the reference: {failed[0].worst.reasons[0]}")
    warnings = (
        *told,
        *_left_out(checkpoint, manifest),
        *budget.warnings(manifest, method),
        *range_warnings(largest, precision, wide, target),
    )
    return Exported(output, manifest, reports, warnings)


def _text_side(name: str, method: Method) -> bytes | None:
    """The file of a scorer whose text side runs outside of the graph."""
    scorer = method.scorer
    return scorer.packed(name, scorer.made) if isinstance(scorer, Learned) and method.space == LEARNED else None


def _left_out(checkpoint: Checkpoint, manifest: Manifest) -> tuple[str, ...]:
    """That a classifier was exported without what it classifies with, as its user may not have meant."""
    family = next(one for one in catalog.families() if one.name == manifest.model.family)
    name = architecture(checkpoint.config)
    if manifest.kind != "tokens" or "head" not in family.options or "ForImageClassification" not in name:
        return ()
    return (f"the bundle gives tokens, and {checkpoint.id} is a {name}: --head gives its logits instead",)


def _check_space(folder: Path, encoder: Encoder, precision: str, quantised: bool) -> None:
    """quantised: whether the weights stand there in a byte each as well, beside those of float baselines"""
    parts = (encoder.tower.module, encoder.projector, *(projector for _, projector in encoder.extras.values()))
    parameters = sum(value.numel() for part in parts for value in part.parameters())
    need, free = parameters * (np.dtype(precision).itemsize + quantised) + SPARE_NBYTES, shutil.disk_usage(folder).free
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
        "edgeprune.method": request.called or request.method,
        "edgeprune.keep": str(method.keep),
        "edgeprune.grid": "x".join(map(str, encoder.grid)),
        "edgeprune.model": id,
        "edgeprune.version": edgeprune.__version__,
    }

    def convert(
        module: nn.Module,
        names: Sequence[str],
        hoisted: bool = True,
        metadata: Mapping[str, str] | None = None,
        others: Mapping[str, Tensor] | None = None,
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
            others=others,
        )
        return downgrade(model, target)

    pixels: nn.Module = RawPixels(getattr(torch, precision)) if request.uint8 else nn.Identity()
    step("trace and export")
    names = outputs(encoder, method)
    with written_as(target.onnx.greedy):
        module, others = PrunedEncoder(encoder, method, pixels), beside(encoder, method, len(example))
        models = {bundle.ENCODER: convert(module, names, metadata=metadata, others=others)}
    refuse(lint(models[bundle.ENCODER], target), target)
    if request.baselines:
        step(BASELINES)
        models |= baselines(encoder, method, pixels, convert, len(example), pooled)
        models["matmul"] = matmul(precision, opset, ir_version)
    return models
