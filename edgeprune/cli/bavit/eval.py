"""`edgeprune bavit eval`: what it costs a detector to do with fewer patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli.bavit import detector
from edgeprune.cli.bavit.data import data_options, read_judged
from edgeprune.cli.console import display, needs, print_json, progress, warn
from edgeprune.cli.options import PATH, pair, verb
from edgeprune.errors import RequestError

if TYPE_CHECKING:
    from edgeprune.quality.evaluate import Evaluation
    from edgeprune.quality.sparse import SparseDetector

__all__ = ["command"]

RESULT, PLOT = "eval.json", "eval.png"
Number = TypeVar("Number", int, float)
AS_IT_IS, FINE_TUNED, CONTROL = "as it is", "fine-tuned", "control"


@click.command("eval", short_help="Measure mAP, speed and memory over shares of patches.")
@click.option(
    "--output", type=PATH, default=Path("bavit-eval"), show_default=True,
    help="Folder to write eval.json and eval.png into.",
)  # fmt: skip
@detector.scorer_option
@detector.model_option
@click.option(
    "--finetuned", type=PATH, metavar="DIR",
    help=f"What `bavit finetune` wrote; default {detector.TUNED} beside the scorer, if there.",
)  # fmt: skip
@click.option("--control", type=PATH, metavar="DIR", help="Its control; default <finetuned>-control, if there.")
@data_options
@click.option("--whole", is_flag=True, help="Judge on all images of --coco or --voc; default those held out.")
@click.option("--limit", type=click.IntRange(min=1), help="Judge on so many images; default 600 scenes, else all.")
@detector.size_option
@click.option("--shares", metavar="S,S,...", help="Shares of the patches to keep; default 0.75,0.6,0.5,0.4,0.3.")
@click.option("--received", metavar="L,L,...", help="Judge the untrained method received behind these layers, too.")
@click.option("--speed/--no-speed", default=True, show_default=True, help="Measure the exported graphs, too.")
@click.option("--rounds", type=click.IntRange(min=1), help="Timed runs of each graph; default about 20 s in all.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of scenes, split, random patches."
)
@detector.threads_option
@click.option("--force", is_flag=True, help="Replace the evaluation in --output.")
@verb
def command(as_json: bool, output: Path, seed: int, force: bool, speed: bool, **options: Any) -> None:
    """Judge a detector over the patches kept: mAP, throughput and memory, as one table and one plot.

    By the classifier, as in the paper and spread over the grid, by true boxes as an oracle, at random, and on all
    patches; fine-tuned or not, and the control.

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
    with needs("bavit"):
        from edgeprune.quality import chart

        evaluation = _evaluation(options, seed, speed)
        output.mkdir(parents=True, exist_ok=True)
        evaluation.save(output / RESULT)
        chart.plot(evaluation, output / PLOT)
    if as_json:
        print_json({"output": str(output), **evaluation.to_json()})
        return
    display(chart.table(evaluation))
    click.echo(f"wrote {output / RESULT} and {output / PLOT}")


def _evaluation(options: dict[str, Any], seed: int, speed: bool) -> Evaluation:
    import torch

    from edgeprune.quality.evaluate import SHARES, Evaluation, evaluate
    from edgeprune.quality.speed import measure_speed

    detectors = _detectors(options)
    first, threads = detectors[AS_IT_IS], options["threads"]
    shares = _numbers("--shares", options["shares"], float, "0.75,0.5") or SHARES
    layers = _numbers("--received", options["received"], int, "2,4")
    samples, truth, source = read_judged(options, seed, first.size, options["whole"], options["limit"])
    _warn_of_training_images(detectors, source)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or threads_before)
        with progress() as show:
            rows = evaluate(detectors, samples, truth, shares=shares, received=layers, seed=seed, show=show)
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

    scorer, size = detector.read_scorer(options["scorer"]), pair("--size", options["size"])
    folders = {AS_IT_IS: options["model"], FINE_TUNED: options["finetuned"], CONTROL: options["control"]}
    beside = detector.scorer_file(options["scorer"]).parent.parent / detector.TUNED
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


def _numbers(option: str, given: str | None, kind: type[Number], such: str) -> tuple[Number, ...]:
    """Those of a list, each once; none where it is not given."""
    try:
        return tuple(dict.fromkeys(kind(one) for one in given.split(","))) if given is not None else ()
    except ValueError:
        raise click.UsageError(f"{option} must be numbers with commas between them, as {such}, got {given}") from None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "onnxruntime", "pycocotools")}
