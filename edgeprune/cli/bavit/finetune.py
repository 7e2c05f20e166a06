"""`edgeprune bavit finetune`: a detector that does with fewer patches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.bavit import detector
from edgeprune.cli.bavit.data import data_options, read_data
from edgeprune.cli.console import needs, print_json, progress
from edgeprune.cli.options import PATH, check_resumed, pair, verb

if TYPE_CHECKING:
    from edgeprune.train.finetune import TuningSettings

__all__ = ["command"]

SCENES = 20_000
"""twice what a scorer is trained on"""


@click.command("finetune", short_help="Fine-tune a detector on the patches that are kept.")
@click.option("--output", type=PATH, default=Path(detector.TUNED), show_default=True, help="Folder to write.")
@detector.scorer_option
@detector.model_option
@data_options
@detector.size_option
@click.option(
    "--keep", type=float, nargs=2, metavar="LOW HIGH",
    help="Shares of the patches between which one is drawn for each batch; default 0.3 1.",
)  # fmt: skip
@click.option("--control", is_flag=True, help="Train a control as long on all patches, into <output>-control.")
@click.option("--epochs", type=click.IntRange(min=1), help="Default 2 for scenes, else 5.")
@click.option("--batch", type=click.IntRange(min=1), help="Images of a step; default 32 for scenes, else 8.")
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate; default 0.0005, else 0.00002."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of order, shares and scenes.")
@detector.threads_option
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in --output.")
@click.option("--force", is_flag=True, help="Replace the detector in --output.")
@verb
def command(as_json: bool, output: Path, seed: int, control: bool, resume: bool, force: bool, **options: Any) -> None:
    """Fine-tune a YOLOS detector on the patches that a scorer keeps, a random share of them in each batch.

    One such detector serves every --keep of `export`. Writes a checkpoint of transformers, and finetune.json.

    \b
    edgeprune bavit finetune --control
    edgeprune bavit finetune --scorer scorer --model hustvl/yolos-small \\
        --coco instances_train2017.json --images train2017 --output detector
    """
    check_resumed(resume, force)
    with needs("bavit"):
        from edgeprune.quality.sparse import open_sparse
        from edgeprune.train.finetune import control_folder
        from edgeprune.train.finetune import finetune as tune

        scorer = detector.read_scorer(options["scorer"])
        settings = _settings(options, seed)
        sparse = open_sparse(options["model"], scorer, pair("--size", options["size"]))
        data, _, source = read_data(options, seed, sparse.size, crowd=False, scenes=SCENES)
        with progress() as show:
            records = tune(
                sparse,
                data,
                output,
                settings,
                control=control,
                source=source,
                threads=options["threads"],
                device=options["device"],
                resume=resume,
                force=force,
                show=show,
            )
    folders = [output, control_folder(output)][: len(records)]
    if as_json:
        print_json({str(folder): record for folder, record in zip(folders, records, strict=True)})
        return
    for folder, record in zip(folders, records, strict=True):
        click.echo(f"wrote {folder} after {record['seconds']:,.0f} s of training, {record['steps']:,} steps")


def _settings(options: dict[str, Any], seed: int) -> TuningSettings:
    """The defaults of scenes or of images, and what was given instead."""
    from edgeprune.train.finetune import IMAGES, SCENES

    given = {name: options[name] for name in ("keep", "epochs", "batch", "lr") if options[name] is not None}
    return dataclasses.replace(IMAGES if options["coco"] or options["voc"] else SCENES, seed=seed, **given)
