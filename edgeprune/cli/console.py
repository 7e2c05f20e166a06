"""What every verb of the command line shares: what it prints, and how it leaves."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import click
from rich.console import Console

from edgeprune.errors import MissingPackageError

__all__ = ["display", "leave", "needs", "print_json", "printable", "progress", "say", "warn"]

PACKAGES = {
    "export": ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub"),
    "bavit": (
        "torch",
        "transformers",
        "scipy",
        "matplotlib",
        "pycocotools",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
    ),
    "sweep": (
        "torch",
        "transformers",
        "huggingface_hub",
        "matplotlib",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
    ),
}
"""extra of edgeprune -> the packages that come with it"""


WIDE = 1000
"""columns; a table takes as many as it has text for"""


class _Console(Console):
    """Leaves a closed pipe to the group of verbs, which knows the exit code; text that comes of files is only text."""

    def render_str(self, text: str, **options: Any) -> Any:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        raise


def printable(text: str) -> str:
    """What a terminal takes for text alone: an escape sequence, or what turns a line around, is spelt out.

    >>> printable(chr(27) + "[31mred")
    '\\\\x1b[31mred'
    """
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


def leave(message: str, code: int) -> NoReturn:
    """One line on stderr, with --json an object, then exit."""
    line = printable(" ".join(message.splitlines()))
    click.echo(json.dumps({"error": line, "exit_code": code}) if _wants_json() else f"edgeprune: {line}", err=True)
    sys.exit(code)


def warn(message: str) -> None:
    """One line on stderr, with --json an object."""
    line = printable(" ".join(message.splitlines()))
    click.echo(json.dumps({"warning": line}) if _wants_json() else f"edgeprune: warning: {line}", err=True)


def _wants_json() -> bool:
    """Read off the arguments: an error in these comes before click has read them."""
    return "--json" in sys.argv[1:]


def say(line: str) -> None:
    """One line on stdout."""
    click.echo(printable(line))


def display(*what: Any, wide: bool = False) -> None:
    """Tables, or lines, on stdout; wide: as wide as they are, whatever the terminal or pipe."""
    console = _Console(emoji=False, highlight=False, width=WIDE if wide else None)
    for one in what:
        console.print(one, soft_wrap=isinstance(one, str))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def progress(each: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A function (done, total, what) that moves a bar on stderr; nothing is drawn where that is no terminal.

    each: print there what is done, each on a line with its seconds, unless the output is to be JSON
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = _Console(stderr=True)
    if not console.is_terminal:  # nor is a bar begun: rich 13.0 ends one that is disabled with an empty line
        with _lines() if each and not _wants_json() else nullcontext(lambda done, total, what: None) as show:
            yield show
        return
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


@contextmanager
def _lines() -> Iterator[Callable[[int, int, str], None]]:
    """A step is printed when it is over, so that a request refused in the first of them is one line still. One that
    says how far it is stays the same, without what stands behind its colon."""
    begun: list[tuple[str, float]] = []

    def over() -> None:
        for line, start in begun:
            click.echo(f"{line} ({time.monotonic() - start:.1f} s)", err=True)
        begun.clear()

    def show(done: int, total: int, what: str) -> None:
        line = f"[{done + 1}/{total}] {what.partition(':')[0]}"
        if not begun or begun[0][0] != line:
            over()
            begun.append((line, time.monotonic()))

    yield show
    over()


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of what an extra of edgeprune brings. Raises MissingPackageError that names it.

    Nobody looks for garbage between them: they leave half a million objects, all in use, which Python would look
    through again and again, for a fifth of the time that they take.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise MissingPackageError(error.name, extra) from None
    finally:
        if collects:
            gc.enable()
