"""`edgeprune assemble`: the encoder of a bundle in front of its language model, as one folder for an engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import display, needs, print_json, progress

if TYPE_CHECKING:
    from edgeprune.export.assemble import Assembly
    from edgeprune.export.assemble.request import Request

__all__ = ["assembled", "command", "tell", "to_json"]

ENGINES = ("genai", "onnxruntime", "transformersjs")
PRECISIONS = ("float32", "float16", "int4")
"""those of edgeprune.export.assemble.request, which a help text need not import"""


@click.command("assemble", short_help="Put a bundle in front of its language model.")
@options.bundle
@click.option(
    "--model", shell_complete=completion.models,
    help="The model that the bundle was exported from; default the tiny LLaVA that comes along.",
)  # fmt: skip
@click.option("--revision", help="Commit or branch of a Hugging Face id.")
@click.option("--engine", type=click.Choice(ENGINES), default="genai", show_default=True, help="What opens it.")
@click.option(
    "--decoder-precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
    help="What the weights of the language model become.",
)  # fmt: skip
@click.option("--output", type=options.PATH, help="Folder to write; default <bundle>-<engine>.")
@click.option(
    "--questions", type=options.PATH, metavar="FILE",
    help="JSON lines (image, question) whose answers are stored; default the model's own, or drawn scenes.",
)  # fmt: skip
@click.option(
    "--answers/--no-answers", default=True, show_default=True,
    help="Store what torch answers, for `verify --generate`; it takes the whole model in memory.",
)  # fmt: skip
@click.option(
    "--node-modules", type=options.PATH, metavar="FOLDER",
    help="With --engine transformersjs: copy that library from here, for the page that comes along.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an assembled model that is there.")
@options.verb
def command(as_json: bool, engine: str, **given: Any) -> None:
    """Put a bundle in front of its language model, in one folder.

    The encoder stays as it is; the decoder comes from onnxruntime-genai's model builder. `edgeprune ask` runs the
    folder without torch.

    \b
    edgeprune assemble my-bundle --output model
    edgeprune assemble my-bundle --model llava-hf/llava-1.5-7b-hf \\
        --decoder-precision int4
    edgeprune assemble my-bundle --engine onnxruntime
    edgeprune assemble my-bundle --engine transformersjs \\
        --node-modules node_modules
    """
    from edgeprune.export.assemble.request import Request, check

    request = Request(engine=engine, **given)
    check(request)  # before torch and transformers are imported, which takes seconds
    with needs("export"):
        import transformers.modeling_utils  # noqa: F401

    done = assembled(request)
    if as_json:
        print_json(to_json(done))
        return
    tell(done)


def assembled(request: Request) -> Assembly:
    """With a bar of its steps."""
    with needs("export"):
        from edgeprune.export.assemble.job import STEPS, assemble

    with progress(each=True) as show:
        return assemble(request, lambda step: show(STEPS.index(step), len(STEPS), step))


def to_json(done: Assembly) -> dict[str, Any]:
    report = None if done.report is None else done.report.to_json()
    return {"folder": str(done.folder), "manifest": dataclasses.asdict(done.manifest), "generate": report}


def tell(done: Assembly) -> None:
    from edgeprune.cli.tables.assembled import assembled_table, generate_line

    display(assembled_table(done.manifest), *([] if done.report is None else [generate_line(done.report)]))
    click.echo(f"wrote {done.folder}")
