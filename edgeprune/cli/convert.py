"""`edgeprune convert`: a checkpoint in another layout as one that an export reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import needs, print_json, warn

__all__ = ["command"]


@click.command("convert")
@click.argument("model", shell_complete=completion.models)
@click.option("--output", type=options.PATH, help="Default: its name with -safetensors behind it.")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face id.")
@click.option(
    "--vision-tower",
    metavar="MODEL",
    shell_complete=completion.models,
    help="The CLIP of an original LLaVA; default, the one that it names.",
)
@click.option("--force", is_flag=True, help="Replace an existing converted checkpoint.")
@options.verb
def command(
    model: str, output: Path | None, revision: str | None, vision_tower: str | None, force: bool, as_json: bool
) -> None:
    """Make of a checkpoint one that an export can read.

    MODEL is a folder or a Hugging Face id: a pytorch_model.bin (no code in it is run), names of DistributedDataParallel
    or torch.compile, or a checkpoint of the original LLaVA code. What is written is the part that is exported, with its
    config and image processor.

    \b
    edgeprune convert my-model
    edgeprune export --model my-model-safetensors --method divprune --keep 64
    """
    with needs("export"):
        from edgeprune.export.convert import convert

    done = convert(model, output, revision, vision_tower, force)
    for note in done.notes:
        warn(note)
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        click.echo(f"wrote {done.folder}: {done.tensors} tensors, {done.nbytes / 1e6:,.1f} MB")
