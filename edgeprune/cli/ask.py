"""`edgeprune ask`: an assembled model answers questions about images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import print_json

__all__ = ["command"]

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@click.command("ask")
@click.argument("folder", type=options.PATH, shell_complete=lambda context, parameter, part: completion.folders(part))
@click.argument("words", nargs=-1, metavar="IMAGE... QUESTION")
@click.option("--question", "more", multiple=True, metavar="TEXT", help="A turn that follows; may be repeated.")
@click.option("--chat", is_flag=True, help="Go on with questions from the terminal, or lines of a pipe, until it ends.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Of an answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: always the likeliest token.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Choose among so many likeliest; 0: among all.")
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Among the fewest that are as likely together."
)
@click.option("--seed", type=int, help="Of the choice; default another one each time.")
@click.option(
    "--device", type=click.Choice(["auto", *options.devices.choices]), default="auto", show_default=True,
    help="Of the encoder; auto: a plan that fits, else cuda, else cpu.",
)  # fmt: skip
@options.threads
@click.option("--time", "timed", is_flag=True, help="Say where the time went, on stderr.")
@options.verb
def command(
    folder: Path,
    words: tuple[str, ...],
    more: tuple[str, ...],
    chat: bool,
    device: str,
    threads: int | None,
    timed: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask an assembled model about images. Needs no torch.

    \b
    edgeprune ask model photo.jpg "what color is the car?"
    edgeprune ask model left.jpg right.jpg "what changed?" --json
    edgeprune ask model photo.jpg "what is this?" --question "and what is it for?"
    edgeprune ask model photo.jpg --chat
    """
    images, question = _sorted(words, chat or bool(more))
    from edgeprune.runtime.generate import Conversation, Sampling, open_model

    how = Sampling(**sampling)
    with open_model(folder, device, threads) as model:
        talk, answers = Conversation(model), []
        for at, text in enumerate(_turns(question, more, chat)):
            heard = (lambda piece: None) if as_json else _say
            answer = talk.ask(text, images if at == 0 else (), how, heard)
            answers.append({"question": text, **answer.to_json()})
            if as_json:
                continue
            click.echo()
            if timed:
                from edgeprune.cli.tables.assembled import answer_line

                click.echo(answer_line(answer), err=True)
        if as_json:
            engine = {"engine": model.engine.name, "version": model.engine.version, "encoder": model.encoder.device}
            print_json({**engine, "answers": answers} if chat or more else {**engine, **answers[0]})


def _sorted(words: tuple[str, ...], later: bool) -> tuple[list[Path], str | None]:
    """The images, and the question, which stands last; it may be missing where questions come later."""
    if not words:
        raise click.UsageError("ask takes an image and a question; got neither")
    *front, last = words
    named = last.lower().endswith(PICTURES) or os.path.isfile(last)
    if named and not later:
        raise click.UsageError(f"the question stands last, got the image {last}; put it behind the images, in quotes")
    images, question = ([*front, last], None) if named else (front, last)
    if question is not None and not question.strip():
        raise click.UsageError("the question stands last and says something, got an empty one; put it in quotes")
    if not images:
        raise click.UsageError(f"an image stands in front of the question, got {last!r:.60} alone; name its file")
    return [Path(image) for image in images], question


def _turns(question: str | None, more: tuple[str, ...], chat: bool) -> Any:
    if question is not None:
        yield question
    yield from more
    while chat:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _say(piece: str) -> None:
    click.echo(piece, nl=False)
    sys.stdout.flush()
