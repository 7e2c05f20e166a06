"""What `edgeprune export` was asked for, and what can be said of it before any weight is read. No torch.

`check` is for whoever wants its answer at once: torch and transformers take seconds to import. What it lets pass, the
export checks again where it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune import bundle, catalog, targets
from edgeprune.errors import ImageError, MethodError, ModelError, RequestError, unknown_name
from edgeprune.export import hub
from edgeprune.export.asking import check_asking
from edgeprune.export.options import check_options, pair
from edgeprune.export.quantise.scheme import scheme_of
from edgeprune.export.wheel import Wheel, wheel
from edgeprune.precisions import CALIBRATED, PRECISIONS, QUANTISED
from edgeprune.probes import check_own, folder_of
from edgeprune.runtime.images.levels import check_range
from edgeprune.runtime.images.preprocess import check_decodes, check_file
from edgeprune.targets import Target
from edgeprune.traits import Traits

__all__ = [
    "OPTIONAL",
    "SCENES",
    "Request",
    "carried",
    "check",
    "check_calibration",
    "check_flags",
    "output_of",
    "spelled_out",
    "split_options",
    "takes_images",
    "trained",
]

OPTIONAL = ("origin",)
"""outputs that a graph has where they are asked for"""
SCENES = "scenes"
"""what stands for drawn scenes where a folder of images is expected"""
FEWEST = 2
"""images that ranges are taken of"""


def trained(method: str) -> Path:
    """Where the training of a method writes its weights unless it is told otherwise."""
    return Path(f"{method}-scorer")


@dataclass(frozen=True)
class Request:
    """What `edgeprune export` was asked for."""

    method: str
    """or a reducer whose paper is the whole method, with - or _ (`spelled_out`)"""
    target: str
    keep: int | float | None = None
    """tokens, or a float in (0, 1]: their share of all"""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """how that budget was found, if it was; the manifest keeps it"""
    scorer: Path | None = None
    """the trained weights of a method that has such; None takes those that a training left here (`trained`), or those
    that lie beside the model as <method>.safetensors, as with the embedded one"""
    options: Mapping[str, str] = field(default_factory=dict)
    """the method's own, and the reducer's, as text"""
    inside: str | None = None
    """the reducer that shortens the sequence inside the encoder, if it does"""
    schedule: str | None = None
    """where, as text: layers:tokens of each step, or official"""
    encoder_cost: float | None = None
    """or the share of the unpruned encoder's multiply-adds that steps are chosen for"""
    calibrate: str | None = None
    """a folder of images, or SCENES, that official counts are frozen on; None: SCENES, with a warning"""
    called: str | None = None
    """what the bundle is named after in place of the method: a reducer that was asked for as one"""
    correction: Path | None = None
    """what `edgeprune calibrate` wrote for the same method, steps and tower"""
    adapted: Path | None = None
    """the tower's weights that `edgeprune adapt` wrote, or their folder"""
    prior: str | None = None
    """mask, mul or fuse:W: how what a device knows of each patch goes into what the method ranks by"""
    text_model: str | None = None
    """the CLIP whose text tower makes questions into vectors, and whose projection brings patches there, as `model`; of
    a whole CLIP it is that by itself"""
    split: bool = False
    """whether the encoder goes along as two graphs as well, so that an image is encoded once and asked often"""
    outputs: tuple[str, ...] = ()
    """which of OPTIONAL the graph hands out as well"""
    model: str | None = None
    revision: str | None = None
    output: Path | None = None
    precision: str | None = None
    """float32, float16, or one of `edgeprune.precisions.QUANTISED`; None takes the target's float"""
    calibrated_on: str | None = None
    """a folder of images, or SCENES, that ranges of activations are taken of; None: SCENES and the probes, with a
    warning"""
    calibration_images: int = 64
    """how many of them, at most"""
    keep_float: tuple[str, ...] = ()
    """products that are not quantised, by name or a pattern such as projector.*"""
    layer: int | None = None
    """index into hidden_states; None takes the checkpoint's"""
    tiles: int = 1
    grid: str | None = None
    """rows x columns of patches, as text, for an encoder that takes any image size"""
    video: bool = False
    size: str | None = None
    """height x width of images in pixels, as text, for an encoder that can be brought to another size"""
    head: bool = False
    """whether the checkpoint's classifier is exported: logits in place of tokens"""
    dynamic_batch: bool = False
    uint8: bool = False
    probes: Path | None = None
    image_range: tuple[float, float] | None = None
    """the values that become black and white in probes of more than 8 bits"""
    baselines: bool = True
    runtime: bool = True
    """whether edgeprune's own wheel goes along, to be installed there, and with the sources of the C library"""
    force: bool = False
    push_to_hub: str | None = None
    """owner/name on the Hugging Face hub, for which README.md is made"""
    private: bool = False
    """whether that is a private repository, where it is new"""


def check(request: Request, exported: bool = True) -> None:
    """Names, the model's type, flags, budgets that need no weights, and what is in the way on the disk.

    exported: whether a bundle is written of it; nothing is in the way of what only reads the encoder

    Raises RequestError and its kinds.
    """
    request = spelled_out(request)
    _check_model(request)
    _check_method(request)
    target = targets.load(request.target)
    check_flags(request, target)
    pair("--grid", request.grid, "rows x columns of patches, such as 32x32")
    pair("--size", request.size, "height x width in pixels, such as 512x864")
    if isinstance(request.keep, float) and not 0 < request.keep <= 1:
        raise RequestError(
            f"--keep as a share must be in (0, 1], got {request.keep:g}; give a number of tokens without a point, as 64"
        )
    if request.scorer is not None and not request.scorer.exists():
        by = next(one.traits.trained_by for one in catalog.methods() if one.name == request.method)
        made = f"what `{by}` wrote" if by else "left out"
        raise RequestError(f"--scorer must be {made}; there is no {request.scorer}")
    if request.image_range is not None:
        check_range(request.image_range)
    if request.probes is not None:
        check_own(request.probes, request.image_range)
    check_scenes("--calibration", request.calibrated_on)
    if request.calibrated_on not in (None, SCENES):
        images = check_calibration(Path(str(request.calibrated_on)), request.image_range)
        for path in images[: request.calibration_images]:
            check_decodes(path, request.image_range)
    if not exported:
        return
    bundle.check_output(output_of(request, _name(request.model), target), request.force)
    if request.private and request.push_to_hub is None:
        raise RequestError("--private goes with --push-to-hub, which is missing; leave it out")
    if request.push_to_hub is not None:
        hub.check(request.push_to_hub)
    carried(request)


def output_of(request: Request, id: str, target: Target) -> Path:
    """Where the bundle goes; id: of the checkpoint, whose last part it is named after by default."""
    method = request.method if request.inside is None else f"{request.method}-{request.inside}"
    name = f"{id.rpartition('/')[2]}-{request.called or method}-{_left(request)}-{target.name}"
    return request.output or Path(name)


def _left(request: Request) -> str:
    """How many tokens, as a file's name says it."""
    if request.keep is None and request.schedule is not None and ":" in request.schedule:
        return request.schedule.rpartition(":")[2]
    if request.keep is None and request.encoder_cost is not None:
        return f"cost{request.encoder_cost:g}"
    return str(request.keep or "all")


def spelled_out(request: Request) -> Request:
    """The same where a reducer was asked for as a method: its steps, on the schedule of its paper where that has one,
    and all that they leave. Its name may have - for _. Anything else comes back as it is.

    Raises RequestError where there is a second reducer as well.
    """
    inside = request.inside and request.inside.replace("-", "_")
    name = request.method.replace("-", "_")
    entry = next((one for one in catalog.reducers() if one.name == name), None)
    if entry is None or any(one.name == request.method for one in catalog.methods()):
        return request if inside == request.inside else replace(request, inside=inside)
    if inside is not None:
        raise RequestError(
            f"--method {request.method} shortens the encoder itself, got --inside {request.inside} as well; leave that "
            f"out, or give another method, such as --method fastervlm --inside {name}"
        )
    own = request.schedule is None and request.encoder_cost is None and entry.every
    schedule = "official" if own else request.schedule
    return replace(request, method="none", inside=name, schedule=schedule, called=name)


def check_scenes(option: str, given: str | None) -> None:
    """Raises RequestError where drawn scenes are asked for beside a folder that is called as they are."""
    if given == SCENES and Path(SCENES).is_dir():
        raise RequestError(
            f"{option} {SCENES} means drawn scenes, and there is a folder {SCENES} here as well; give ./{SCENES} for "
            "that one, or leave the option out for drawn ones"
        )


def check_calibration(folder: Path, within: tuple[float, float] | None = None) -> list[Path]:
    """The images that ranges are to be taken of, as far as can be said without decoding them.

    Raises ImageError where there are fewer than FEWEST, or one is no image.
    """
    paths = folder_of(folder, "--calibration")
    if len(paths) < FEWEST:
        raise ImageError(
            f"--calibration must be a folder of {FEWEST} images or more, too few to tell a range; "
            f"{folder} has {len(paths)}: add some, or leave it out"
        )
    for path in paths:
        check_file(path, within)
    return paths


def _name(model: str | None) -> str:
    return "tiny" if model is None else os.path.basename(os.path.abspath(model))


def _check_method(request: Request) -> None:
    entries = {entry.name: entry for entry in catalog.methods()}
    reducers = {entry.name: entry for entry in catalog.reducers()}
    if request.method not in entries:
        raise MethodError(unknown_name("method", request.method, [*entries, *reducers]))
    if request.inside is not None and request.inside not in reducers:
        raise MethodError(unknown_name("reducer", request.inside, reducers))
    reducer = None if request.inside is None else reducers[request.inside]
    check_options(entries[request.method], reducer, request.options, request.called)
    _check_inside(request)
    given = request.prior, request.split, request.text_model
    check_asking(request.method, {entry.name: entry.traits for entry in entries.values()}, request.inside, *given)
    if request.calibrate is not None and not takes_images(request):
        able = [name for name, one in reducers.items() if one.frozen]
        able += [name for name, one in entries.items() if one.traits.calibrates]
        raise RequestError(
            "--calibrate goes with --keep auto, --option position=fitted, or what takes numbers of images: "
            f"{', '.join(able)}; leave it out"
        )
    check_scenes("--calibrate", request.calibrate)
    if request.calibrate not in (None, SCENES):
        folder_of(Path(str(request.calibrate)), "--calibrate")


def takes_images(request: Request) -> bool:
    """Whether the counts of its schedule are taken of images, the weights of positions, or an option of the method."""
    request = spelled_out(request)
    traits = next((one.traits for one in catalog.methods() if one.name == request.method), Traits())
    if any(option not in request.options for option, _ in traits.calibrates):
        return True
    frozen = [one.name for one in catalog.reducers() if one.frozen]
    return (request.inside in frozen and request.schedule == "official") or request.options.get("position") == "fitted"


def split_options(request: Request) -> tuple[dict[str, str], dict[str, str]]:
    """Those of the method, and those of the reducer: what the method does not know, where there is one."""
    if request.inside is None:
        return dict(request.options), {}
    known = next(entry.options for entry in catalog.methods() if entry.name == request.method)
    own = {name: text for name, text in request.options.items() if name in known}
    return own, {name: text for name, text in request.options.items() if name not in known}


def _check_inside(request: Request) -> None:
    given = [one for one in ("schedule", "encoder_cost") if getattr(request, one) is not None]
    if request.inside is None and (given or request.outputs):
        name = f"--{given[0].replace('_', '-')}" if given else "--outputs origin"
        raise RequestError(
            f"{name} goes with --inside, which is missing; add it, such as --inside tome, or leave it out"
        )
    if request.inside is not None and len(given) != 1 and not (request.called and not given):
        asked = f"--method {request.called}" if request.called else f"--inside {request.inside}"
        raise RequestError(
            f"{asked} needs either --encoder-cost, such as 0.55, or --schedule, such as "
            f"8:288,16:144; got {'both' if given else 'neither'}"
        )
    if request.encoder_cost is not None and not 0 < request.encoder_cost < 1:
        raise RequestError(
            f"--encoder-cost must be a share of the unpruned multiply-adds in (0, 1), got {request.encoder_cost:g}"
        )
    if unknown := [one for one in request.outputs if one not in OPTIONAL]:
        raise RequestError(unknown_name("optional output", unknown[0], OPTIONAL))


def _check_model(request: Request) -> None:
    """Of what is here: whether it is a folder of a type that a family loads. An id of the hub is looked up later."""
    model = request.model
    if model is None:
        return
    if "://" in model:
        raise ModelError(f"--model must be a folder or a Hugging Face id (owner/name), got the URL {model}")
    if not os.path.isdir(model):
        if model.startswith((".", "/", "~")) or model.endswith("/"):
            raise ModelError(f"--model must be a folder or a Hugging Face id (owner/name); there is no folder {model}")
        return
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it is said where it is read
        return
    if isinstance(config, dict):
        id = os.path.basename(os.path.abspath(model))
        catalog.check_model_type(str(config.get("model_type")), id)
        if request.layer is not None:
            catalog.check_layer(request.layer, config, id)


def check_flags(request: Request, target: Target) -> None:
    if request.precision not in (None, *PRECISIONS):
        raise RequestError(f"--precision must be one of {', '.join(PRECISIONS)}; got {request.precision}")
    scheme_of(request.precision, target)
    for given, option, kinds in (
        (request.calibrated_on, "--calibration", CALIBRATED),
        (request.keep_float, "--keep-float", QUANTISED),
    ):
        if given and request.precision not in kinds:
            got = request.precision or f"{target.onnx.float} of {target.name}"
            raise RequestError(f"{option} goes with --precision {' or '.join(kinds)}, got {got}; leave it out")
    if request.precision == "float32" and not target.onnx.float32_matmul:
        raise RequestError(f"{target.name} computes products in float16 alone, got --precision float32; leave it out")
    if request.dynamic_batch and target.engine.kind != "onnxruntime":
        raise RequestError(
            f"a plan for {target.name} takes a fixed number of images per run, got --dynamic-batch; fix it with "
            "--tiles (1, 4, ...), or choose a --target of ONNX Runtime (cpu, ort-cuda)"
        )
    if request.dynamic_batch and any(one.stateful for one in catalog.reducers() if one.name == request.inside):
        raise RequestError(
            f"{request.inside} keeps something of every frame for the next one, of as many videos as images go into a "
            "run, and --dynamic-batch frees that number; leave it out"
        )
    if request.tiles < 1:
        raise RequestError(f"--tiles must be at least 1, got {request.tiles}")
    if request.tiles > 1 and request.dynamic_batch:
        raise RequestError(f"--tiles {request.tiles} fixes the batch and --dynamic-batch frees it; give one of them")


def carried(request: Request) -> Wheel | None:
    """edgeprune's own wheel, for a bundle that is to carry it; where Python is too old, its C sources are used.

    Raises RequestError when there is none to be made here.
    """
    return wheel() if request.runtime else None
