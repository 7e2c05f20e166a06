"""What every verb of the command line shares: its options, what it prints, and how it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console

__all__ = ["display", "leave", "print_json", "progress", "verb", "warn"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


def leave(message: str, code: int) -> NoReturn:
    """One line on stderr, then exit."""
    click.echo(f"edgeprune: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


def warn(message: str) -> None:
    """One line on stderr."""
    click.echo(f"edgeprune: warning: {' '.join(message.splitlines())}", err=True)


def verb(function: Verb) -> Verb:
    """The options that every verb has."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    function = debug(function)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(function)


def display(*what: Any) -> None:
    """Tables, or lines, on stdout."""
    console = Console(emoji=False, highlight=False)
    for one in what:
        console.print(one, soft_wrap=isinstance(one, str))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A function (done, total, what) that moves a bar on stderr; nothing is drawn where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
