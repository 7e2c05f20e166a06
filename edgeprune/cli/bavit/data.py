"""The images that the verbs of `edgeprune bavit` take: their options, and the samples that these stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli.console import warn
from edgeprune.errors import RequestError

if TYPE_CHECKING:
    from edgeprune.quality.data import Dataset, Samples
    from edgeprune.quality.precision import Truth

__all__ = ["data_options", "read_data", "read_judged"]

SCENES, VALIDATION_SCENES = 10_000, 1000
JUDGED_SCENES = 600
"""those that the card of the detector that comes along was judged on"""
HELD_OUT_MAX = 2000
"""images of a split; more make the figures no better"""

Verb = TypeVar("Verb", bound=Callable[..., Any])

_path = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--coco", type=_path, metavar="FILE", help="COCO's JSON of instances; its images are in --images."),
    click.option(
        "--voc", type=_path, metavar="DIR", help="Folder of VOC's XML files, or of Annotations/ and JPEGImages/."
    ),
    click.option(
        "--images", type=_path, metavar="DIR", help="Folder of the images; of --voc, default its JPEGImages/."
    ),
    click.option(
        "--scenes",
        type=click.IntRange(min=1),
        help=f"Drawn scenes instead: how many; default {SCENES}, finetune 20000.",
    ),
    click.option("--held-out", type=_path, metavar="PATH", help="Annotations to validate on; default a tenth."),
    click.option("--held-out-images", type=_path, metavar="DIR", help="Their images; default --images."),
)


def data_options(function: Verb) -> Verb:
    """What `read_data` needs."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_data(
    options: dict[str, Any], seed: int, size: tuple[int, int], crowd: bool = True, scenes: int = SCENES
) -> tuple[Samples, Samples, str]:
    """What to train on, what to validate on, and what these are in words.

    seed: of the scenes, or of the split; size: (height, width) of the scenes, and how many without --scenes
    crowd: as `read_coco` has it
    """
    from edgeprune.probes.drawn import Scenes

    if kind := _kind(options):
        return _annotated(kind, options, seed, crowd)
    count = options["scenes"] or scenes
    held_out = Scenes(min(count, VALIDATION_SCENES), seed + 1, size)
    return Scenes(count, seed, size), held_out, f"{count} drawn scenes of seed {seed}"


def read_judged(
    options: dict[str, Any], seed: int, size: tuple[int, int], whole: bool, limit: int | None
) -> tuple[Samples, Truth | None, str]:
    """What to judge on: what `read_data` holds out, or all there is; the truth of a COCO file, where that is more than
    the boxes; and what these are in words."""
    from edgeprune.probes.drawn import Scenes

    if not (kind := _kind(options)):
        if whole:
            raise click.UsageError("--whole needs --coco or --voc; of scenes, --limit says how many")
        return Scenes(limit or JUDGED_SCENES, seed + 1, size), None, f"drawn scenes of seed {seed + 1}"
    if whole and options["held_out"]:
        raise click.UsageError("--whole and --held-out exclude each other; give the annotations to judge on to --coco")
    if whole:
        dataset = _read(kind, options[kind], options["images"], True)
    else:
        _, dataset, _ = _annotated(kind, options, seed, True)
    if limit:
        dataset = dataset.subset(range(min(limit, len(dataset))))
    annotations = options["held_out"] or options[kind]
    images = (options["held_out"] and options["held_out_images"]) or options["images"]
    truth = _truth(annotations, images, dataset) if kind == "coco" else None
    return dataset, truth, f"{annotations.name} {dataset.digest()[:12]}"


def _truth(annotations: Path, images: Path, dataset: Dataset) -> Truth:
    import json

    from edgeprune.quality.precision import Truth

    content = json.loads(annotations.read_text(encoding="utf-8"))  # `read_coco` has read it
    return Truth.of_file(content, images, [entry.path for entry in dataset.entries])


def _kind(options: dict[str, Any]) -> str:
    """coco, voc, or nothing for scenes."""
    sources = [name for name in ("coco", "voc", "scenes") if options[name] is not None]
    if len(sources) > 1:
        raise click.UsageError(f"--{sources[0]} and --{sources[1]} exclude each other; give one")
    if sources and sources[0] != "scenes":
        return sources[0]
    if used := [name for name in ("images", "held_out", "held_out_images") if options[name] is not None]:
        raise click.UsageError(f"--{used[0].replace('_', '-')} needs --coco or --voc")
    return ""


def _annotated(kind: str, options: dict[str, Any], seed: int, crowd: bool) -> tuple[Dataset, Dataset, str]:
    data = _read(kind, options[kind], options["images"], crowd)
    if options["held_out"]:
        held_out = _read(kind, options["held_out"], options["held_out_images"] or options["images"], crowd)
        if held_out.classes != data.classes:
            warn(f"{options['held_out']} has other classes than {options[kind]}; only foreground counts here")
    else:
        data, held_out = _split(data, seed)
    source = f"{kind} {options[kind].name} {data.digest()[:12]}, validated on {held_out.digest()[:12]}"
    return data, held_out, source


def _read(kind: str, annotations: Path, images: Path | None, crowd: bool) -> Dataset:
    from edgeprune.quality.data import read_coco, read_voc

    if kind == "coco" and images is None:
        raise click.UsageError("--coco needs --images, the folder of its images")
    data = read_coco(annotations, images, crowd) if kind == "coco" and images else read_voc(annotations, images)
    for line in data.warnings():
        warn(f"{annotations}: {line}")
    return data


def _split(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """A tenth is held out, drawn by the seed."""
    import numpy as np

    if len(data) < 2:
        raise RequestError("--held-out must be given for a single image: there is nothing to hold out")
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    held_out = min(HELD_OUT_MAX, max(1, len(data) // 10))
    return data.subset(sorted(order[held_out:])), data.subset(sorted(order[:held_out]))
