"""`edgeprune adapt`: teach a tower to do without what steps inside it leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import needs, print_json, progress

__all__ = ["command"]

SEED = 43
"""of drawn scenes; not the held-out one, not that of the probes, nor that of `calibrate`"""


@click.command("adapt", short_help="Adapt a tower to steps inside it.")
@options.shortened
@click.option(
    "--kind", default="weights", show_default=True, type=click.Choice(["weights", "thresholds"]),
    help="weights: of the tower. thresholds: of what adaptive_sparse ranks by; the tower stays as it is.",
)  # fmt: skip
@click.option("--images", metavar="DIR", help="Unlabelled images; default drawn scenes.")
@click.option("--count", type=click.IntRange(min=1), default=2000, show_default=True, help="Images at most.")
@click.option("--epochs", type=click.IntRange(min=1), help="Default 10, of thresholds 2.")
@click.option("--batch", type=click.IntRange(min=1), help="Images of a step; default 16, of thresholds 8.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Peak; default .0003, of thresholds .1.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of order and steps.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--output", type=options.PATH, default=Path("adapted"), show_default=True, help="Folder to write.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training in --output.")
@click.option("--force", is_flag=True, help="Replace what is in --output.")
@options.verb
def command(
    as_json: bool,
    kind: str,
    images: str | None,
    count: int,
    epochs: int | None,
    batch: int | None,
    lr: float | None,
    seed: int,
    threads: int | None,
    device: str,
    output: Path,
    resume: bool,
    force: bool,
    **given: Any,
) -> None:
    """Distil a tower on its own features, under steps that are drawn anew for every batch.

    It takes images without labels. `edgeprune export --adapted DIR` takes the weights, with any schedule of the same
    reducer.

    Or, of a reducer whose paper trains thresholds (adaptive_sparse), these, and how many rows pass them: `edgeprune
    export --encoder-cost --adapted DIR` takes its steps from there.

    \b
    edgeprune adapt --method fastervlm --keep 32 --inside drop --encoder-cost 0.5
    edgeprune adapt --kind thresholds --method adaptive_sparse --encoder-cost 0.6
    """
    from edgeprune.export.request import check
    from edgeprune.quality.sweep.items import drawn, of_folder

    options.check_resumed(resume, force)
    request = options.shortened_request(given)
    check(request, exported=False)
    items = drawn(count, seed=SEED) if images is None else of_folder(Path(images), count)
    with needs("export"):
        import torch

        from edgeprune.train.adapt import AdaptSettings, adapt
        from edgeprune.train.thresholds import BRIEF, train_thresholds
    if threads:
        torch.set_num_threads(threads)
    own = AdaptSettings() if kind == "weights" else BRIEF
    settings = AdaptSettings(epochs or own.epochs, batch or own.batch, lr or own.lr, seed=seed)
    given = {"device": device, "resume": resume, "force": force}
    with progress() as show:
        if kind == "weights":
            made = adapt(request, items, output, settings, show=show, **given)
        else:
            data = "drawn scenes" if images is None else Path(images).resolve().name
            made = train_thresholds(request, items, output, settings, data=data, show=show, **given)
    if as_json:
        print_json({"output": str(output), **made})
        return
    click.echo(
        f"loss {made['loss'][0]:.4f} -> {made['loss'][-1]:.4f} in {settings.epochs} epochs of {len(items)} images"
    )
    for layer, threshold in made.get("thresholds", {}).items():
        click.echo(f"behind layer {layer} {made['pass'][layer]} of {made['patches']} pass {threshold:.3f} of the mean")
    click.echo(f"wrote {output} after {made['seconds']:,.0f} s of training")
