"""`edgeprune bench`: what the pruned encoder costs, beside what it replaces."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json, progress

__all__ = ["command"]


@click.command("bench")
@click.argument("bundle", type=options.BundleOrModel())
@click.option("--device", type=options.devices, default="cpu", show_default=True, help="Where to run it.")
@options.first
@options.threads
@click.option("--rounds", type=click.IntRange(min=1), help="Timed runs of each graph; default 20 to 60 seconds' worth.")
@click.option(
    "--against", multiple=True,
    help="Only this baseline, or another bundle; may be repeated; default all baselines in the bundle.",
)  # fmt: skip
@click.option("--wide", is_flag=True, help="All columns: the 99th percentile and the MatMul utilisation, too.")
@options.language_model
@options.verb
def command(
    bundle: Path,
    device: str,
    keep: int | None,
    threads: int | None,
    rounds: int | None,
    against: tuple[str, ...],
    wide: bool,
    language_model: str | None,
    as_json: bool,
) -> None:
    """Measure the encoder against its baselines, interleaved.

    Medians of one run, next to the unpruned encoder, the official code exported as it is, and plain pooling.
    A ratio that the runs do not bear out is not told: a restless machine flatters the shorter graph.
    A plan (tensorrt) is measured alone, by trtexec where it is installed.

    \b
    edgeprune bench my-bundle
    edgeprune bench my-bundle --device tensorrt
    edgeprune bench my-bundle --against unpruned --threads 2 --json
    edgeprune bench my-int8-bundle --against my-bundle

    Of a folder of `edgeprune assemble` the whole answer is measured: time to the first token and tokens per second,
    pruned and unpruned in turns, encoder and prefill apart, beside what multiply-adds promise.

    \b
    edgeprune bench model
    """
    from edgeprune.bundle import finding

    if finding.assembled(bundle):
        if keep is not None or against or wide or language_model:
            raise click.UsageError(
                "--keep, --against, --wide and --language-model are of a bundle alone; leave them out"
            )
        _whole(bundle, device, threads, rounds, as_json)
        return
    from edgeprune.bundle import load
    from edgeprune.bundle.finding import find
    from edgeprune.runtime.ledger.bench import bench

    model = options.read_language_model(language_model)
    bound = options.bound_of(model, load(bundle).manifest, keep=keep) if model else None
    beside = [Path(find(one)) if _is_folder(one) else one for one in against]
    with progress() as show:
        ledger = bench(bundle, device, threads, rounds, beside or None, show, keep)
    if as_json:
        print_json(ledger.to_json() if bound is None else {**ledger.to_json(), "bound": bound.to_json()})
        return
    from edgeprune.cli.tables.bound import bound_table
    from edgeprune.cli.tables.ledger import ledger_line, ledger_table

    display(ledger_table(ledger, wide), *([] if bound is None else [bound_table(bound)]), wide=wide)
    click.echo(ledger_line(ledger))


def _is_folder(name: str) -> bool:
    """Whether a name is of another bundle; one without a slash may be of a baseline, which comes first."""
    return "/" in name or (Path(name) / "manifest.json").is_file()


def _whole(folder: Path, device: str, threads: int | None, rounds: int | None, as_json: bool) -> None:
    from edgeprune.cli.tables.whole import whole_line, whole_table
    from edgeprune.estimate.bound import bound
    from edgeprune.estimate.language_model import read_language_model
    from edgeprune.runtime.generate import load_folder
    from edgeprune.runtime.generate.bench import bench_whole

    with progress() as show:
        ledger = bench_whole(folder, device, threads, rounds, show=show)
    model, manifest = read_language_model(folder / "config.json"), load_folder(folder).bundle.manifest
    promised = bound(manifest, model, None, ledger.text_tokens)
    if as_json:
        print_json({**ledger.to_json(), "estimate": promised.to_json()})
        return
    display(whole_table(ledger, promised))
    click.echo(whole_line(ledger))
