"""What an export, a calibration and an adaptation begin with: a checkpoint, its encoder, and a method made for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune import encoders, pruners
from edgeprune.adapted import put_adapted
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.correction import digest_of, folded, read_correction
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export import budget
from edgeprune.export.manifest import steps_of
from edgeprune.export.processor import read_processor
from edgeprune.export.request import TRAINED, Request, pair, split_options
from edgeprune.export.steps import chosen_steps
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.pruners import Method
from edgeprune.pruners._scorer import Scorer, load_scorer
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.targets import Target

__all__ = ["Opened", "fits_of", "opened"]

TENSOR_CORES = 8
"""float16 elements that a side of a product should be a multiple of, on any GPU that has them"""


@dataclass(frozen=True)
class Opened:
    checkpoint: Checkpoint
    encoder: Encoder
    """in float32, with its steps inside"""
    method: Method
    preprocessing: Preprocessing
    pooled: int
    """how many tiles are one pool of candidates"""
    learned: Mapping[str, Any] = field(default_factory=dict)
    """what was learned for the steps, and from what: `adapted`, `correction`"""


def opened(request: Request, target: Target, checkpoint: Checkpoint | None = None) -> Opened:
    """Everything that a request names, checked against each other.

    checkpoint: what `open_checkpoint` found of it, if it was called already

    Raises RequestError and its kinds.
    """
    method_type = pruners.get(request.method)
    checkpoint = checkpoint or open_checkpoint(request.model, request.revision)
    encoder = encoders.load(
        checkpoint,
        request.layer,
        grid=pair("--grid", request.grid, "rows x columns of patches, such as 32x32"),
        video=request.video,
        size=pair("--size", request.size, "height x width in pixels, such as 512x864"),
        head=request.head,
    )
    _check_batch(request, encoder)
    learned: dict[str, Any] = {}
    if request.adapted is not None:
        learned["adapted"] = put_adapted(encoder.tower.module, request.adapted)
    pooled = request.tiles if encoder.tiled and method_type.traits.pools_tiles else 1
    every = encoder.patches * (request.tiles if encoder.tiled else 1)
    scorer = _scorer(request.scorer, method_type)
    total = budget.tokens(request.keep, every, budget.block_of(scorer, encoder))
    keep = total if pooled > 1 else budget.of_a_tile(total, request.tiles, encoder)
    preprocessing = read_processor(
        checkpoint.processor,
        encoder.tower.image_size,
        request.tiles if encoder.tiled else None,
        model_type=checkpoint.config["model_type"],
        resized=request.size is not None,
    )
    own, reducers = split_options(request)
    rest = method_type.traits.keeps_all and request.inside is not None
    method = build_method(
        method_type,
        request.method,
        encoder,
        None if rest else keep,
        own,
        pooled,
        scorer,
        (preprocessing.mean, preprocessing.std),
    )
    if request.inside is not None:
        least = dataclasses.replace(method, keep=keep or 1) if rest else method  # type: ignore[type-var]
        encoder = _shortened(encoder, least, request, reducers, target, pooled)
        if rest:
            method = dataclasses.replace(method, keep=encoder.candidates)  # type: ignore[type-var]
    found = Opened(checkpoint, encoder, method, preprocessing, pooled, learned)
    return found if request.correction is None else _corrected(found, request, request.correction)


def fits_of(request: Request, found: Opened) -> dict[str, Any]:
    """What a correction is for: of another method, budget, schedule or tower it would be wrong.

    Raises RequestError where no step shortens the sequence.
    """
    encoder, method = found.encoder, found.method
    if not (steps := steps_of(method, encoder)):
        raise RequestError(
            "features change only where tokens go inside the encoder; add --inside, such as --inside tome"
        )
    if encoder.headed:
        raise RequestError(
            f"a correction stands in front of a projector; {encoder.family} has a head here, leave it out"
        )
    inside = encoder.inside
    return {
        "method": request.method,
        "keep": method.keep,
        "steps": [list(step) for step in steps],
        "inside": {} if inside is None else {"reducer": inside.name, "options": inside.reducer.options()},
        "options": method.options(),
        "layer": encoder.layer,
        "tower": digest_of(encoder.tower.module),
    }


def _corrected(found: Opened, request: Request, path: Path) -> Opened:
    """The same with the correction in front of the projector."""
    correction = read_correction(path)
    correction.check(fits_of(request, found), path)
    encoder = dataclasses.replace(found.encoder, projector=folded(found.encoder.projector, correction))
    made = {name: value for name, value in correction.made.items() if name != "fits"}
    return dataclasses.replace(found, encoder=encoder, learned={**found.learned, "correction": made})


def _shortened(
    encoder: Encoder, method: Method, request: Request, options: Mapping[str, str], target: Target, pooled: int
) -> Encoder:
    """The encoder with the steps that were asked for, or chosen; options: of the reducer."""
    assert request.inside is not None
    reducer = build_reducer(encoder, request.inside, method, request.method, options, pooled)
    if request.schedule == "official":
        steps = reducer.own_steps(encoder.layer, encoder.patches, method.keep)
    elif request.schedule is not None:
        steps = parse_steps(request.schedule)
    else:
        assert request.encoder_cost is not None
        multiple = 1 if target.engine.kind == "onnxruntime" else TENSOR_CORES
        steps = chosen_steps(encoder, reducer, request.inside, method, request.encoder_cost, multiple)
    return with_inside(encoder, request.inside, reducer, steps, method, "origin" in request.outputs)


def _scorer(given: Path | None, method: type[Method]) -> Scorer | None:
    """What was given, or what `edgeprune bavit train` left here."""
    if given is None and method.traits.needs_scorer and TRAINED.is_dir():
        given = TRAINED
    return None if given is None else load_scorer(given)


def _check_batch(request: Request, encoder: Encoder) -> None:
    if not encoder.tower.batched and (request.tiles > 1 or request.dynamic_batch):
        given = "--dynamic-batch" if request.dynamic_batch else f"--tiles {request.tiles}"
        raise RequestError(f"{encoder.family} takes one image at a time, got {given}; leave it out")
    if encoder.tiled and request.dynamic_batch:
        raise RequestError(
            f"the tiles of {encoder.family} share the budget of their image: --tiles must fix their number; "
            "leave out --dynamic-batch"
        )
