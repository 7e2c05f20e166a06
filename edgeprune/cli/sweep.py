"""`edgeprune sweep`: what each method loses at each budget."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import display, leave, needs, print_json, progress, warn
from edgeprune.precisions import FLOATS, INT8

__all__ = ["command"]

KEPT = "what was computed is kept in {}, and the same command goes on from there"
T = TypeVar("T")


@click.command("sweep")
@click.option(
    "--model", shell_complete=completion.models,
    help="Hugging Face id or local folder; default the tiny LLaVA that comes along.",
)  # fmt: skip
@click.option("--revision", help="Commit or branch of a Hugging Face id.")
@click.option(
    "--methods", metavar="NAME,...",
    help="Methods, with options as in hiprune:alpha=0.2; default all. random, uniform and pool are always there.",
)  # fmt: skip
@click.option("--inside", metavar="REDUCER,...", help="Try each method with these inside the encoder as well.")
@click.option("--encoder-cost", metavar="SHARE,...", help="With --inside: of the unpruned multiply-adds, as 0.6,0.5.")
@click.option("--adapted", metavar="DIR,...", help="With --inside: once more with what `edgeprune adapt` wrote for it.")
@click.option("--keep", metavar="K,...", help="Tokens kept, or their shares (0.5); default 64,32,16,8.")
@click.option(
    "--precision", metavar="NAME,...", default="float32", show_default=True,
    help=f"{', '.join((*FLOATS, *INT8))}; losses are against the unpruned graph in the first.",
)  # fmt: skip
@click.option("--layer", metavar="L,...", help="Feature layers, indices into hidden_states; default the model's.")
@click.option("--grid", metavar="HxW", help="Patches of an image, for encoders that take any size (Qwen-VL).")
@click.option("--images", metavar="DIR", help="Folder with images, or scenes: drawn ones, which need no file.")
@click.option("--questions", type=options.PATH, metavar="FILE", help="JSON lines that ask about --images.")
@click.option("--count", type=click.IntRange(min=1), help="Images at most; default 300 scenes, all of --images.")
@click.option(
    "--max-new-tokens", "longest", type=click.IntRange(min=1),
    help="Of an answer; default 1 about scenes, else 16.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run it.")
@click.option(
    "--workers", type=click.IntRange(min=1),
    help="Processes; default one per CPU for the tiny LLaVA, else 1.",
)  # fmt: skip
@click.option(
    "--ray", is_flag=False, flag_value="local", metavar="[ADDRESS]",
    help="Run it on Ray: on the cluster there, without an address on this machine.",
)  # fmt: skip
@click.option("--speed/--no-speed", default=True, show_default=True, help="Time the graphs beside the unpruned one.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="Timed runs of each graph.")
@click.option("--output", type=options.PATH, help="Folder to write, or to go on with; default <model>-sweep.")
@click.option("--keep-bundles", is_flag=True, help="Leave the exported bundles in --output.")
@click.option("--wide", is_flag=True, help="Every share with its standard error, for more than 80 columns.")
@options.verb
def command(
    as_json: bool,
    wide: bool,
    methods: str | None,
    inside: str | None,
    encoder_cost: str | None,
    adapted: str | None,
    keep: str | None,
    precision: str,
    layer: str | None,
    output: Path | None,
    **given: Any,
) -> None:
    """Measure what pruning loses, by method and budget.

    Exports every method, runs the graphs, and asks the language part of the model; without one it measures what is
    left of the unpruned tokens. Writes table.md, table.csv, sweep.json and plots; repeated, it computes what is new.

    \b
    edgeprune sweep
    edgeprune sweep --methods fastervlm,divprune --keep 32,16 --count 100
    edgeprune sweep --methods fastervlm --precision float32,int8,int8-dynamic
    edgeprune sweep --model llava-hf/llava-1.5-7b-hf --images photos \\
        --questions questions.jsonl --keep 192,128,64 --ray
    """
    from edgeprune.quality.sweep.request import Request, checked

    model = given["model"]
    request = Request(
        output=output or Path(f"{'tiny' if model is None else Path(model).name}-sweep"),
        methods=_listed("--methods", methods, str),
        inside=_listed("--inside", inside, str),
        encoder_costs=_listed("--encoder-cost", encoder_cost, float),
        adapted=_listed("--adapted", adapted, str),
        keep=_listed("--keep", keep, lambda text: float(text) if "." in text else int(text)),
        precisions=_listed("--precision", precision, str),
        layers=_listed("--layer", layer, int) or (None,),
        **given,
    )
    checked(request)  # before torch and transformers are imported, which takes seconds
    with needs("sweep"), _ending_with(KEPT.format(request.output)):
        import matplotlib.figure  # noqa: F401  now, not when everything is computed

        from edgeprune.quality.sweep import save, sweep

        with progress() as show:
            swept = sweep(request, show)
        written = save(swept, request.output)
    for warning in swept.warnings:
        warn(warning)
    if as_json:
        print_json({"output": str(request.output), **swept.to_json()})
        return
    from edgeprune.cli.tables.sweep import sweep_table

    display(sweep_table(swept, wide), wide=wide)
    click.echo(f"wrote {', '.join(path.name for path in written)} into {request.output}")


@contextmanager
def _ending_with(kept: str) -> Iterator[None]:
    """Interrupted or ended from outside, it says what is left of it."""
    before = signal.signal(signal.SIGTERM, lambda sent, _: leave(f"terminated; {kept}", 128 + sent))
    try:
        yield
    except KeyboardInterrupt:
        leave(f"interrupted; {kept}", 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _listed(option: str, given: str | None, read: Callable[[str], T]) -> tuple[T, ...]:
    """What stands between commas, each once."""
    if given is not None and not given.strip(" ,"):
        raise click.UsageError(f"{option} must name at least one, got {given!r}; leave it out for the default")
    try:
        return tuple(dict.fromkeys(read(one.strip()) for one in (given or "").split(",") if one.strip()))
    except ValueError:
        raise click.UsageError(f"{option} must be numbers with commas between them, as 64,32, got {given}") from None
