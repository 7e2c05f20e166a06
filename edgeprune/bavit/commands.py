"""`edgeprune bavit`: the background classifier of BAViT, from images to a file that `export` puts into a graph."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.console import display, print_json, progress, verb, warn
from edgeprune.errors import MissingPackageError, RequestError

if TYPE_CHECKING:
    from edgeprune.bavit.data import Dataset, Samples
    from edgeprune.bavit.train import Settings

__all__ = ["bavit"]

PACKAGES = ("torch", "transformers", "scipy", "matplotlib", "pycocotools")
VALIDATION_SCENES = 1000
HELD_OUT_MAX = 2000
"""images of a split; more make the figures no better"""

_path = click.Path(path_type=Path)


@click.group()
def bavit() -> None:
    """Train a background classifier, which says which patches an encoder or detector may drop.

    \b
    edgeprune bavit train --output scorer
    """


@bavit.command()
@click.option("--output", type=_path, default=Path("bavit-scorer"), show_default=True, help="Folder to write.")
@click.option("--coco", type=_path, metavar="FILE", help="COCO's JSON of instances; its images are in --images.")
@click.option("--voc", type=_path, metavar="DIR", help="Folder of VOC's XML files, or of Annotations/ and JPEGImages/.")
@click.option("--images", type=_path, metavar="DIR", help="Folder of the images; of --voc, default its JPEGImages/.")
@click.option("--scenes", type=click.IntRange(min=1), help="Drawn scenes instead: how many; default 10000.")
@click.option("--held-out", type=_path, metavar="PATH", help="Annotations to validate on; default a tenth.")
@click.option("--held-out-images", type=_path, metavar="DIR", help="Their images; default --images.")
@click.option(
    "--kind", type=click.Choice(["front", "coarse", "trunk"]), default="front", show_default=True,
    help="front: a ViT on the image. coarse: the same on patches twice as wide. trunk: a head on a detector's layers.",
)  # fmt: skip
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True, help="BAViT's are 2 and 10.")
@click.option("--model", help="YOLOS, folder or Hugging Face id, that trunk reads; default the one of scenes.")
@click.option("--size", metavar="HxW", help="Pixels of the model behind it; default 80x80 of scenes, else 512x864.")
@click.option("--patch-size", type=click.IntRange(min=2), help="Its patch; default 8 of scenes, else 16.")
@click.option("--width", type=click.IntRange(min=1), help="Default 48 for scenes, else 384.")
@click.option("--heads", type=click.IntRange(min=1), help="Default 3 for scenes, else 6.")
@click.option(
    "--threshold", type=float,
    help="Share of a patch that masks, or boxes where there are none, must cover for foreground; default 0.1.",
)  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="Default 4 for scenes, else 10.")
@click.option("--batch", type=click.IntRange(min=1), help="Images of a step; default 64 for scenes, else 16.")
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate; default 0.003, else 0.0005."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, order and scenes.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in --output.")
@click.option("--force", is_flag=True, help="Replace the scorer in --output.")
@verb
def train(as_json: bool, output: Path, resume: bool, force: bool, seed: int, **options: Any) -> None:
    """Train a scorer on drawn scenes, or on images of yours, and report how well it ranks foreground patches.

    Writes scorer.safetensors, config.json, report.json and report.png. Images are stretched to --size.

    \b
    edgeprune bavit train --output scorer
    edgeprune bavit train --coco instances_train2017.json --images train2017 --layers 10 --output scorer
    edgeprune bavit train --voc VOC2012 --output scorer --resume
    """
    try:
        from edgeprune.bavit import report as reports
        from edgeprune.bavit.train import train

        if options["kind"] == "trunk":
            import transformers  # noqa: F401 - for the detector
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise MissingPackageError(error.name, "bavit") from None

    if resume and force:
        raise click.UsageError("--resume and --force exclude each other; give one")
    settings = _settings(options, seed)
    data, held_out, source = _data(options, settings)
    with progress() as show:
        found = train(
            data,
            held_out,
            settings,
            output,
            source=source,
            threads=options["threads"],
            device=options["device"],
            resume=resume,
            force=force,
            show=show,
        )
    if as_json:
        print_json({"output": str(output), "report": found.to_json()})
        return
    display(reports.table(found), reports.lines(found))
    click.echo(f"wrote {output} after {found.training['seconds']:,.0f} s of training")


def _settings(options: dict[str, Any], seed: int) -> Settings:
    """The defaults of scenes or of images, and what was given instead."""
    from edgeprune.bavit.train import IMAGES, SCENES
    from edgeprune.bavit.trunk import default_detector, read_detector

    defaults = IMAGES if options["coco"] or options["voc"] else SCENES
    names = ("kind", "layers", "patch_size", "width", "heads", "threshold", "epochs", "batch", "lr")
    given = {name: options[name] for name in names if options[name] is not None}
    if "width" in given:
        given["mlp_width"] = given["width"] * defaults.mlp_width // defaults.width
    if options["kind"] == "trunk":
        if own := [name for name in ("patch_size", "width", "heads") if name in given]:
            raise click.UsageError(f"--{own[0].replace('_', '-')} is the detector's with --kind trunk; leave it out")
        model = options["model"] or str(default_detector())
        given |= {"model": model, "size": read_detector(model).size}
    elif options["model"]:
        raise click.UsageError("--model is for --kind trunk; the other kinds read the image")
    if options["size"]:
        given["size"] = _size(options["size"])
    return dataclasses.replace(defaults, seed=seed, **given)


def _size(given: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"(\d+)x(\d+)", given)):
        raise click.UsageError(f"--size must be HxW in pixels, as 512x864, got {given}")
    return int(match[1]), int(match[2])


def _data(options: dict[str, Any], settings: Settings) -> tuple[Samples, Samples, str]:
    """What to train on, what to validate on, and what these are in words."""
    from edgeprune.bavit.scenes import Scenes

    sources = [name for name in ("coco", "voc", "scenes") if options[name] is not None]
    if len(sources) > 1:
        raise click.UsageError(f"--{sources[0]} and --{sources[1]} exclude each other; give one")
    if sources and sources[0] != "scenes":
        return _annotated(sources[0], options, settings.seed)
    if used := [name for name in ("images", "held_out", "held_out_images") if options[name] is not None]:
        raise click.UsageError(f"--{used[0].replace('_', '-')} needs --coco or --voc")
    count = options["scenes"] or 10_000
    held_out = Scenes(min(count, VALIDATION_SCENES), settings.seed + 1, settings.size)
    return Scenes(count, settings.seed, settings.size), held_out, f"{count} drawn scenes of seed {settings.seed}"


def _annotated(kind: str, options: dict[str, Any], seed: int) -> tuple[Dataset, Dataset, str]:
    data = _read(kind, options[kind], options["images"])
    if options["held_out"]:
        held_out = _read(kind, options["held_out"], options["held_out_images"] or options["images"])
        if held_out.classes != data.classes:
            warn(f"{options['held_out']} has other classes than {options[kind]}; only foreground counts here")
    else:
        data, held_out = _split(data, seed)
    source = f"{kind} {options[kind].name} {data.digest()[:12]}, validated on {held_out.digest()[:12]}"
    return data, held_out, source


def _read(kind: str, annotations: Path, images: Path | None) -> Dataset:
    from edgeprune.bavit.data import read_coco, read_voc

    if kind == "coco" and images is None:
        raise click.UsageError("--coco needs --images, the folder of its images")
    data = read_coco(annotations, images) if kind == "coco" and images else read_voc(annotations, images)
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
