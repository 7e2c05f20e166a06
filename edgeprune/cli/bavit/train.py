"""`edgeprune bavit train`: a classifier of background patches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.bavit.data import data_options, read_data
from edgeprune.cli.console import display, needs, print_json, progress
from edgeprune.cli.options import PATH, check_resumed, pair, verb

if TYPE_CHECKING:
    from edgeprune.train.scorer import ScorerSettings

__all__ = ["command"]


@click.command("train", short_help="Train a classifier of background patches.")
@click.option("--output", type=PATH, default=Path("bavit-scorer"), show_default=True, help="Folder to write.")
@data_options
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
def command(as_json: bool, output: Path, resume: bool, force: bool, seed: int, **options: Any) -> None:
    """Train a scorer on drawn scenes, or on images of yours, and report how well it ranks foreground patches.

    Writes scorer.safetensors, config.json, report.json and report.png. Images are stretched to --size.

    \b
    edgeprune bavit train --output scorer
    edgeprune bavit train --coco instances_train2017.json --images train2017 \\
        --layers 10 --output scorer
    edgeprune bavit train --voc VOC2012 --output scorer --resume
    """
    with needs("bavit"):
        from edgeprune.quality import ranking as rankings
        from edgeprune.train.scorer import train

        if options["kind"] == "trunk":
            import transformers  # noqa: F401 - for the detector

    check_resumed(resume, force)
    settings = _settings(options, seed)
    data, held_out, source = read_data(options, seed, settings.size)
    with progress() as show:
        ranking = train(
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
        print_json({"output": str(output), "report": ranking.to_json()})
        return
    display(rankings.table(ranking), rankings.lines(ranking))
    click.echo(f"wrote {output} after {ranking.training['seconds']:,.0f} s of training")


def _settings(options: dict[str, Any], seed: int) -> ScorerSettings:
    """The defaults of scenes or of images, and what was given instead."""
    from edgeprune.quality.trunk import default_detector, read_detector
    from edgeprune.train.scorer import IMAGES, SCENES

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
    if size := pair("--size", options["size"]):
        given["size"] = size
    return dataclasses.replace(defaults, seed=seed, **given)
