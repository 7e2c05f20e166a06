"""What every verb of the command line shares: what it prints, and how it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from rich.console import Console

from edgeprune.errors import MissingPackageError

__all__ = ["display", "leave", "needs", "print_json", "progress", "warn"]

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
}
"""extra of edgeprune -> the packages that come with it"""


class _Console(Console):
    """Leaves a closed pipe to the group of verbs, which knows the exit code."""

    def on_broken_pipe(self) -> None:
        raise


def leave(message: str, code: int) -> NoReturn:
    """One line on stderr, then exit."""
    click.echo(f"edgeprune: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


def warn(message: str) -> None:
    """One line on stderr."""
    click.echo(f"edgeprune: warning: {' '.join(message.splitlines())}", err=True)


def display(*what: Any) -> None:
    """Tables, or lines, on stdout."""
    console = _Console(emoji=False, highlight=False)
    for one in what:
        console.print(one, soft_wrap=isinstance(one, str))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A function (done, total, what) that moves a bar on stderr; nothing is drawn where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = _Console(stderr=True)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of what an extra of edgeprune brings. Raises MissingPackageError that names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise MissingPackageError(error.name, extra) from None
