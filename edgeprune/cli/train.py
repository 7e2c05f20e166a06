"""`edgeprune train`: the scorer of a method, learned on a frozen model."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import needs, print_json, progress

__all__ = ["command"]

SEED = 47
"""of drawn scenes; not the held-out one, nor those of the probes, of `calibrate` and of `adapt`"""


@click.command("train", short_help="Train the scorer of a method on a frozen model.")
@click.argument("method")
@click.option(
    "--model", shell_complete=completion.models,
    help="Folder or Hugging Face id with its language part; default the tiny LLaVA that comes along.",
)  # fmt: skip
@click.option("--revision", help="Commit or branch of a Hugging Face id.")
@click.option("--layer", type=int, help="Feature layer, an index into hidden_states; default the model's.")
@click.option("--images", type=options.PATH, metavar="DIR", help="Images, with --questions; default drawn scenes.")
@click.option("--questions", type=options.PATH, metavar="FILE", help="JSON lines that ask about --images, as in sweep.")
@click.option("--count", type=click.IntRange(min=1), default=1600, show_default=True, help="Images at most.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images of a step.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True, help="Peak.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, order and budgets.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--output", type=options.PATH, help="Folder to write; default <method>-scorer.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in --output.")
@click.option("--force", is_flag=True, help="Replace what is in --output.")
@options.verb
def command(
    as_json: bool,
    method: str,
    model: str | None,
    revision: str | None,
    layer: int | None,
    images: Path | None,
    questions: Path | None,
    count: int,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    threads: int | None,
    device: str,
    output: Path | None,
    resume: bool,
    force: bool,
) -> None:
    """Train what METHOD ranks patches by, on answers to questions about images; the model stays as it is.

    `edgeprune export --method METHOD` takes the weights from --output.

    \b
    edgeprune train learnpruner
    edgeprune train learnpruner --model llava-hf/llava-1.5-7b-hf \\
        --images photos --questions questions.jsonl --device cuda
    """
    from edgeprune import catalog
    from edgeprune.errors import MethodError
    from edgeprune.export.request import Request, check, trained
    from edgeprune.quality.sweep.items import drawn, of_questions

    options.check_resumed(resume, force)
    if (images is None) != (questions is None):
        raise click.UsageError("--images and --questions go together; give both, or neither for drawn scenes")
    request = Request(method, "cpu", model=model, revision=revision, layer=layer)
    check(request, exported=False)
    by = {entry.name: entry.traits.trained_by for entry in catalog.methods()}
    if by.get(method) != f"edgeprune train {method}":
        able = ", ".join(name for name, command in by.items() if command == f"edgeprune train {name}")
        other = f"train it with `{by[method]}`" if by.get(method) else "it has nothing to learn"
        raise MethodError(f"`edgeprune train` trains {able}; got {method}: {other}")
    if questions is None or images is None:
        items, data = drawn(count, seed=SEED), f"drawn scenes of seed {SEED}"
    else:
        items, data = of_questions(questions, images, count), f"{questions.name} on {images.name}"
    with needs("export"):
        import torch

        from edgeprune.train.learn import LearnSettings, learn
    if threads:
        torch.set_num_threads(threads)
    settings, folder = LearnSettings(epochs, batch, lr, seed=seed), output or trained(method)
    with progress() as show:
        made = learn(request, items, folder, settings, data=data, device=device, resume=resume, force=force, show=show)
    if as_json:
        print_json({"output": str(folder), **made})
        return
    click.echo(f"loss {made['loss'][0]:.4f} -> {made['loss'][-1]:.4f} in {epochs} epochs of {len(items)} images")
    click.echo(f"wrote {folder} after {made['seconds']:,.0f} s of training")
