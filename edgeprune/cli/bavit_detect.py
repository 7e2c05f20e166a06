"""`edgeprune bavit finetune` and `eval`: a detector that does with fewer patches, and what that costs it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.bavit_data import data_options, pair, read_data, read_judged
from edgeprune.cli.console import display, print_json, progress, verb, warn
from edgeprune.errors import MissingPackageError, RequestError

if TYPE_CHECKING:
    from edgeprune.pruners._scorer import Scorer
    from edgeprune.quality.evaluate import Evaluation
    from edgeprune.quality.sparse import SparseDetector
    from edgeprune.train.finetune import Settings

__all__ = ["evaluate", "finetune"]

PACKAGES = (
    "torch",
    "transformers",
    "scipy",
    "matplotlib",
    "pycocotools",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
)
SCORER, RESULT, PLOT = "scorer.safetensors", "eval.json", "eval.png"
TUNED = "bavit-detector"
SCENES = 20_000
"""twice what a scorer is trained on"""
AS_IT_IS, FINE_TUNED, CONTROL = "as it is", "fine-tuned", "control"

_path = click.Path(path_type=Path)
_scorer = click.option(
    "--scorer", type=_path, default=Path("bavit-scorer"), show_default=True,
    help="What `bavit train` wrote: the folder, or its file.",
)  # fmt: skip
_model = click.option(
    "--model", help="YOLOS: a folder or Hugging Face id; default the one of drawn scenes that comes along."
)
_size = click.option("--size", metavar="HxW", help="Pixels of its images; default its own.")
_threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's choice.")


@click.command(short_help="Fine-tune a detector on the patches that are kept.")
@click.option("--output", type=_path, default=Path(TUNED), show_default=True, help="Folder to write.")
@_scorer
@_model
@data_options
@_size
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
@_threads
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in --output.")
@click.option("--force", is_flag=True, help="Replace the detector in --output.")
@verb
def finetune(as_json: bool, output: Path, seed: int, control: bool, resume: bool, force: bool, **options: Any) -> None:
    """Fine-tune a YOLOS detector on the patches that a scorer keeps, a random share of them in each batch.

    One such detector serves every --keep of `export`. Writes a checkpoint of transformers, and finetune.json.

    \b
    edgeprune bavit finetune --control
    edgeprune bavit finetune --scorer scorer --model hustvl/yolos-small \\
        --coco instances_train2017.json --images train2017 --output detector
    """
    if resume and force:
        raise click.UsageError("--resume and --force exclude each other; give one")
    with _packages():
        from edgeprune.quality.sparse import open_sparse
        from edgeprune.train.finetune import control_folder
        from edgeprune.train.finetune import finetune as tune

        scorer = _read_scorer(options["scorer"])
        settings = _settings(options, seed)
        detector = open_sparse(options["model"], scorer, pair("--size", options["size"]))
        data, _, source = read_data(options, seed, detector.size, crowd=False, scenes=SCENES)
        with progress() as show:
            records = tune(
                detector,
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


@click.command("eval", short_help="Measure mAP, speed and memory over shares of patches.")
@click.option(
    "--output", type=_path, default=Path("bavit-eval"), show_default=True,
    help="Folder to write eval.json and eval.png into.",
)  # fmt: skip
@_scorer
@_model
@click.option(
    "--finetuned", type=_path, metavar="DIR",
    help=f"What `bavit finetune` wrote; default {TUNED} beside the scorer, if there.",
)  # fmt: skip
@click.option("--control", type=_path, metavar="DIR", help="Its control; default <finetuned>-control, if there.")
@data_options
@click.option("--whole", is_flag=True, help="Judge on all images of --coco or --voc; default those held out.")
@click.option("--limit", type=click.IntRange(min=1), help="Judge on so many images; default 600 scenes, else all.")
@_size
@click.option("--shares", metavar="S,S,...", help="Shares of the patches to keep; default 0.75,0.6,0.5,0.4,0.3.")
@click.option("--speed/--no-speed", default=True, show_default=True, help="Measure the exported graphs, too.")
@click.option("--rounds", type=click.IntRange(min=1), help="Timed runs of each graph; default about 20 s in all.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of scenes, split, random patches."
)
@_threads
@click.option("--force", is_flag=True, help="Replace the evaluation in --output.")
@verb
def evaluate(as_json: bool, output: Path, seed: int, force: bool, speed: bool, **options: Any) -> None:
    """Judge a detector over the patches kept: mAP, throughput and memory, as one table and one plot.

    By the classifier, by true boxes as an oracle, at random, and on all patches; fine-tuned or not, and the control.

    \b
    edgeprune bavit eval
    edgeprune bavit eval --scorer scorer --model hustvl/yolos-small \\
        --finetuned detector --coco instances_val2017.json --images val2017 \\
        --whole --output judged
    """
    if not force and (output / RESULT).exists():
        raise RequestError(f"{output / RESULT} exists; choose another --output, or replace it with --force")
    if output.exists() and not output.is_dir():
        raise RequestError(f"--output must be a folder, {output} is a file; choose another")
    with _packages():
        from edgeprune.quality import chart

        found = _evaluation(options, seed, speed)
        output.mkdir(parents=True, exist_ok=True)
        found.save(output / RESULT)
        chart.plot(found, output / PLOT)
    if as_json:
        print_json({"output": str(output), **found.to_json()})
        return
    display(chart.table(found))
    click.echo(f"wrote {output / RESULT} and {output / PLOT}")


def _evaluation(options: dict[str, Any], seed: int, speed: bool) -> Evaluation:
    import torch

    from edgeprune.quality.evaluate import SHARES, Evaluation, evaluate
    from edgeprune.quality.speed import measure_speed

    detectors = _detectors(options)
    first, threads = detectors[AS_IT_IS], options["threads"]
    shares = _shares(options["shares"]) or SHARES
    samples, truth, source = read_judged(options, seed, first.size, options["whole"], options["limit"])
    _warn_of_training_images(detectors, source)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or threads_before)
        with progress() as show:
            rows = evaluate(detectors, samples, truth, shares=shares, seed=seed, show=show)
            rounds = options["rounds"]
            costs = measure_speed(first, shares, threads=threads, rounds=rounds, show=show) if speed else ()
    finally:
        torch.set_num_threads(threads_before)
    about = {
        "data": source,
        "models": {name: str(one.id) for name, one in detectors.items()},
        "scorer": first.method.options(),
        "size": first.size,
        "seed": seed,
        "threads": threads,
        "versions": _versions(),
    }
    return Evaluation(rows, costs, len(samples), first.patches, about)


def _detectors(options: dict[str, Any]) -> dict[str, SparseDetector]:
    from edgeprune.quality.sparse import open_sparse
    from edgeprune.train.finetune import RECORD, control_folder

    scorer, size = _read_scorer(options["scorer"]), pair("--size", options["size"])
    folders = {AS_IT_IS: options["model"], FINE_TUNED: options["finetuned"], CONTROL: options["control"]}
    beside = _scorer_file(options["scorer"]).parent.parent / TUNED
    if not folders[FINE_TUNED] and not options["model"] and (beside / RECORD).is_file():
        folders[FINE_TUNED] = beside
    if folders[FINE_TUNED] and not folders[CONTROL] and (control_folder(folders[FINE_TUNED]) / RECORD).is_file():
        folders[CONTROL] = control_folder(folders[FINE_TUNED])
    for option in (FINE_TUNED, CONTROL):
        if folders[option] and not (folders[option] / RECORD).is_file():
            raise RequestError(
                f"--{option.replace('-', '')} must be a folder that `bavit finetune` has finished; {folders[option]} "
                f"has no {RECORD}: finish it with --resume"
            )
    return {name: open_sparse(folder, scorer, size) for name, folder in folders.items() if name == AS_IT_IS or folder}


def _warn_of_training_images(detectors: dict[str, SparseDetector], source: str) -> None:
    """Scenes of a seed that something was trained on are no test."""
    from edgeprune.train.finetune import RECORD

    for name, one in detectors.items():
        folder = Path(one.checkpoint.locate("config.json")).parent
        if not (folder / RECORD).is_file():
            continue
        trained_on = str(json.loads((folder / RECORD).read_text(encoding="utf-8")).get("data"))
        if source.startswith("drawn") and trained_on.endswith(source):
            warn(f"{name}: {folder} was trained on {trained_on}, and is judged on them; give another --seed")


def _settings(options: dict[str, Any], seed: int) -> Settings:
    """The defaults of scenes or of images, and what was given instead."""
    from edgeprune.train.finetune import IMAGES, SCENES

    given = {name: options[name] for name in ("keep", "epochs", "batch", "lr") if options[name] is not None}
    return dataclasses.replace(IMAGES if options["coco"] or options["voc"] else SCENES, seed=seed, **given)


def _shares(given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return tuple(dict.fromkeys(float(one) for one in given.split(",")))
    except ValueError:
        raise click.UsageError(f"--shares must be numbers with commas between them, as 0.75,0.5, got {given}") from None


def _read_scorer(path: Path) -> Scorer:
    from edgeprune.pruners._scorer import load_scorer

    return load_scorer(_scorer_file(path))


def _scorer_file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / SCORER


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "onnxruntime", "pycocotools")}


@contextmanager
def _packages() -> Iterator[None]:
    """One of the packages that is not installed is named with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise MissingPackageError(error.name, "bavit") from None
