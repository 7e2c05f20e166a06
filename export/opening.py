"""What an export, a calibration and an adaptation begin with: a checkpoint, its encoder, and a method made for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune import encoders, pruners
from edgeprune.adapted import put_adapted, thresholds_of
from edgeprune.bundle.schema import words
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.correction import digest_of, folded, read_correction
from edgeprune.encoders import Encoder
from edgeprune.encoders._aligned import aligned
from edgeprune.encoders._keys import keys_of
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import budget
from edgeprune.export.asking import parse_prior
from edgeprune.export.averages import averaged
from edgeprune.export.images import drawn_warning, images_of
from edgeprune.export.manifest import steps_of
from edgeprune.export.options import pair
from edgeprune.export.positions import weighed
from edgeprune.export.processor import read_processor
from edgeprune.export.request import Request, spelled_out, split_options, trained
from edgeprune.export.steps import bent_steps, chosen_steps, own_steps
from edgeprune.fit import build_method
from edgeprune.fit_inside import build_reducer, parse_steps, with_inside
from edgeprune.frozen import flowcut_steps
from edgeprune.ports import ALIGNED
from edgeprune.prior import Prior
from edgeprune.pruners import Method
from edgeprune.pruners._learned import Learned
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.schedule import Step
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
    """what was learned, and from what: `adapted`, `correction`, `schedule` for steps; `position`, `padding`"""
    warnings: tuple[str, ...] = ()
    """what the user should know of the steps, each in one line"""
    text: Checkpoint | None = None
    """the CLIP that questions are put to, where the method asks in its space"""


def opened(request: Request, target: Target, checkpoint: Checkpoint | None = None) -> Opened:
    """Everything that a request names, checked against each other.

    checkpoint: what `open_checkpoint` found of it, if it was called already

    Raises RequestError and its kinds.
    """
    request = spelled_out(request)
    method_type = pruners.get(request.method)
    checkpoint = checkpoint or open_checkpoint(request.model, request.revision)
    encoder = encoders.load(
        checkpoint,
        request.layer,
        grid=pair("--grid", request.grid, "rows x columns of patches, such as 32x32"),
        video=request.video,
        size=pair("--size", request.size, "height x width in pixels, such as 512x864"),
        head=request.head,
    ).in_tiles(request.tiles)
    _check_batch(request, encoder)
    learned: dict[str, Any] = {}
    gates = None if request.adapted is None else thresholds_of(request.adapted)
    if gates is not None:
        _check_gates(request, gates, encoder, checkpoint.id)
    elif request.adapted is not None:
        learned["adapted"] = put_adapted(encoder.tower.module, request.adapted)
    own, reducers = split_options(request)
    one = pruners.one_pool(method_type, own, encoder)
    if one and request.dynamic_batch:
        raise RequestError(
            f"{request.method} makes one pool of all frames of {encoder.family}: --tiles must fix their number; leave "
            "out --dynamic-batch"
        )
    pooled = request.tiles if one else 1
    every = encoder.patches * (request.tiles if encoder.tiled or one else 1)
    scorer = _scorer(request, method_type, checkpoint)
    if isinstance(scorer, Learned) and scorer.made:
        digest = learned["adapted"]["tower"] if learned else digest_of(encoder.tower.module)
        _check_learned(scorer.made, request.method, digest, encoder.layer, checkpoint.id)
        learned["scorer"] = dict(scorer.made)
    total = budget.tokens(request.keep, every, budget.block_of(scorer, encoder))
    keep = total if pooled > 1 else budget.of_a_tile(total, request.tiles, encoder)
    preprocessing = read_processor(
        checkpoint.processor,
        encoder.tower.image_size,
        request.tiles if encoder.tiled else None,
        model_type=checkpoint.config["model_type"],
        resized=request.size is not None,
    )
    text = _text(request, checkpoint, method_type)
    if text is not None:
        encoder = replace(encoder, aligner=aligned(text, encoder.tower.width))
    if method_type.traits.reads_language:
        encoder = replace(encoder, keyer=keys_of(checkpoint))
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
    encoder, weights, warnings = weighed(encoder, method, own, request.calibrate, preprocessing)
    method, averages, told = averaged(encoder, method, request.calibrate, preprocessing)
    learned |= {**weights, **averages}
    warnings += (*told, *_adapted_otherwise(request, learned.get("adapted", {})))
    if request.inside is not None:
        if rest:
            _check_rest(request, keep, encoder)
        least = replace(method, keep=keep or 1) if rest else method  # type: ignore[type-var]
        encoder, counted, told = _shortened(encoder, least, request, reducers, target, pooled, preprocessing, gates)
        warnings += told
        learned |= counted
        if rest and keep not in (None, encoder.candidates):
            given = "--schedule" if request.schedule else f"--encoder-cost {request.encoder_cost:g}"
            raise RequestError(
                f"--keep must be the {encoder.candidates} tokens that the last step of {given} leaves, got {keep}; "
                "leave one of the two out"
            )
        if rest:
            method = replace(method, keep=encoder.candidates)  # type: ignore[type-var]
    if request.prior is not None:
        encoder = replace(encoder, prior=Prior(*parse_prior(request.prior)))
    if method.space != ALIGNED:
        encoder, text = replace(encoder, aligner=None), None
    if any(port.beside for port in method.ports):
        text = None  # whose graph makes one vector of a question, not one a word
    loaded = Opened(checkpoint, encoder, method, preprocessing, pooled, learned, warnings, text)
    return loaded if request.correction is None else _corrected(loaded, request, request.correction)


def fits_of(request: Request, loaded: Opened) -> dict[str, Any]:
    """What a correction is for: of another method, budget, schedule or tower it would be wrong.

    Raises RequestError where no step shortens the sequence.
    """
    request = spelled_out(request)
    encoder, method = loaded.encoder, loaded.method
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


def _corrected(loaded: Opened, request: Request, path: Path) -> Opened:
    """The same with the correction in front of the projector."""
    correction = read_correction(path)
    correction.check(fits_of(request, loaded), path)
    encoder = replace(loaded.encoder, projector=folded(loaded.encoder.projector, correction))
    made = {name: value for name, value in correction.made.items() if name != "fits"}
    return replace(loaded, encoder=encoder, learned={**loaded.learned, "correction": made})


def _adapted_otherwise(request: Request, made: Mapping[str, Any]) -> tuple[str, ...]:
    """That weights were adapted to other steps than these, if they were; made: what the weights say of themselves."""
    trained = made.get("reducer")
    if trained in (None, request.inside):
        return ()
    asked = "no steps inside" if request.inside is None else f"those of {request.inside}"
    return (
        f"--adapted {request.adapted} was trained for steps of {trained}, and this has {asked}; measure what it loses",
    )


def _check_gates(request: Request, gates: Mapping[str, Any], encoder: Encoder, id: str) -> None:
    """Raises RequestError where no steps are chosen by the thresholds, ModelError where they are of another tower."""
    if request.inside != gates["reducer"] or request.encoder_cost is None:
        raise RequestError(
            f"--adapted {request.adapted} has thresholds of {gates['reducer']}, which choose its steps for a cost; "
            f"give --inside {gates['reducer']} and --encoder-cost, such as {gates.get('encoder_cost', 0.6):g}"
        )
    here = {"layer": encoder.layer, "patches": encoder.patches, "tower": digest_of(encoder.tower.module)}
    if apart := [name for name in here if gates[name] != here[name]]:
        given = "other weights" if apart[0] == "tower" else f"{apart[0]} {gates[apart[0]]}, not {here[apart[0]]}"
        raise ModelError(
            f"the thresholds of --adapted {request.adapted} were trained on {gates.get('model')} with {given}; train "
            f"them on {id} as it is exported: edgeprune adapt --kind thresholds"
        )


def _check_rest(request: Request, keep: int | None, encoder: Encoder) -> None:
    """Where all that the steps leave goes on. Raises RequestError for a budget that no steps leave."""
    patches, name = encoder.patches, request.called or request.inside
    if keep is None and request.encoder_cost is None and (request.schedule or "official") == "official":
        raise RequestError(
            f"--keep must say how many of the {patches} patches {name} leaves (1..{patches - 1}); it is missing"
        )
    if keep is not None and not 0 < keep < patches:
        raise RequestError(
            f"keep must be in 1..{patches - 1} for the steps of {name} and {patches} patches, got {keep}"
        )


def _shortened(
    encoder: Encoder,
    method: Method,
    request: Request,
    options: Mapping[str, str],
    target: Target,
    pooled: int,
    preprocessing: Preprocessing,
    gates: Mapping[str, Any] | None = None,
) -> tuple[Encoder, dict[str, Any], tuple[str, ...]]:
    """The encoder with the steps that were asked for, or chosen; what their counts were taken of; warnings.

    options: of the reducer; gates: its trained thresholds, which steps for a cost are chosen by
    """
    assert request.inside is not None
    counted: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    multiple = 1 if target.engine.kind == "onnxruntime" else TENSOR_CORES
    reducer = build_reducer(encoder, request.inside, method, request.method, options, pooled)
    if request.schedule == "official" and reducer.frozen:
        pixels, data, count = images_of(request.calibrate, preprocessing)
        steps = flowcut_steps(encoder, pixels, method.keep, reducer)
        counted = {"schedule": {"images": count, "data": data}}
        if request.calibrate is None:
            warnings = (drawn_warning(f"the counts of {request.inside} were taken", count),)
    elif request.schedule == "official":
        steps = reducer.own_steps(encoder.layer, encoder.patches, method.keep)
    elif request.schedule is not None:
        steps = parse_steps(request.schedule)
    elif request.encoder_cost is not None and gates is not None:
        if reducer.options() != gates["options"]:
            raise RequestError(
                f"the thresholds of --adapted {request.adapted} were trained with options {words(gates['options'])}, "
                f"this has {words(reducer.options())}; give those, or train them again"
            )
        passing = tuple(Step(int(layer), rows) for layer, rows in gates["pass"].items())
        cost = request.encoder_cost
        steps = bent_steps(encoder, reducer, request.inside, method, cost, passing, multiple)
        counted = {"schedule": {name: one for name, one in gates.items() if name not in ("reducer", "options")}}
    elif request.encoder_cost is not None:
        steps = chosen_steps(encoder, reducer, request.inside, method, request.encoder_cost, multiple)
    else:
        steps = own_steps(encoder, reducer, method.keep, multiple)
        said = ",".join(f"{step.layer}:{step.keep}" for step in steps)
        warnings = (
            f"{request.inside} has no schedule that its paper fixes: --schedule {said} was taken; give another one, or "
            "--encoder-cost",
        )
    encoder = with_inside(encoder, request.inside, reducer, steps, method, "origin" in request.outputs)
    return encoder, counted, warnings


def _text(request: Request, checkpoint: Checkpoint, method: type[Method]) -> Checkpoint | None:
    """The CLIP of --text-model; of a whole CLIP, itself."""
    if request.text_model is not None:
        return open_checkpoint(request.text_model)
    whole = checkpoint.config.get("model_type") == "clip" and "text_config" in checkpoint.config
    return checkpoint if whole and method.traits.asks else None


def _scorer(request: Request, method: type[Method], checkpoint: Checkpoint) -> nn.Module | None:
    """What was given, what a training left here, or what lies beside the model, as with the embedded one."""
    if not method.traits.needs_scorer:
        return None if request.scorer is None else nn.Identity()  # which is refused where the method is made
    given, left = request.scorer, trained(request.method)
    own = Path(checkpoint.files.place) / f"{request.method}.safetensors"
    if given is None:
        brings = checkpoint.revision == "local" and own.is_file()
        given = left if left.is_dir() else own if brings else None
    module: nn.Module | None = None if given is None else method.read(given)
    return module


def _check_learned(made: Mapping[str, Any], method: str, digest: str, layer: int, id: str) -> None:
    """Raises ModelError where a scorer was trained on features of another tower or layer."""
    if made["tower"] == digest and made["layer"] == layer:
        return
    theirs = f"layer {made['layer']} of {made['model']}"
    what = f"layer {layer} of {id}" + (", whose weights are other ones" if made["layer"] == layer else "")
    raise ModelError(
        f"the scorer of {method} was trained on features of {theirs}, this is {what}; train one: edgeprune train "
        f"{method} --model"
    )


def _check_batch(request: Request, encoder: Encoder) -> None:
    if not encoder.tower.batched and (request.tiles > 1 or request.dynamic_batch):
        given = "--dynamic-batch" if request.dynamic_batch else f"--tiles {request.tiles}"
        raise RequestError(f"{encoder.family} takes one image at a time, got {given}; leave it out")
    if encoder.tiled and request.dynamic_batch:
        raise RequestError(
            f"the tiles of {encoder.family} share the budget of their image: --tiles must fix their number; "
            "leave out --dynamic-batch"
        )
