"""The command line: a file for each verb, imported when it is called or listed; nothing heavier than click and rich.

Arguments become a request, results become words; what a verb does stands elsewhere, and is imported inside it.

Exit codes: 0 done, 1 failed, 2 the request cannot be met, 128 + the signal that ended it (a closed pipe: 141).
Errors are one line on stderr; --debug shows where from.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from edgeprune import __version__
from edgeprune.cli.console import leave
from edgeprune.cli.lazy import LazyGroup
from edgeprune.errors import EdgepruneError

__all__ = ["cli", "main"]

VERBS = (
    "export",
    "build",
    "audit",
    "verify",
    "diff",
    "bench",
    "assemble",
    "ask",
    "sweep",
    "show",
    "report",
    "inspect",
    "methods",
    "targets",
    "doctor",
    "runtime-source",
    "convert",
    "calibrate",
    "adapt",
    "train",
    "bavit",
)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    gc.set_threshold(
        50_000, 20, 50
    )  # most of what there is are modules, and no garbage: a tenth of their imports' time
    atexit.register(gc.freeze)  # at its end Python would look for garbage in all of torch, for a second
    debug = "--debug" in sys.argv[1:]
    _leave_when_asked_to()
    try:
        sys.exit(cli.main(prog_name="edgeprune", standalone_mode=False) or 0)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help = f"{context.command_path if context else 'edgeprune'} --help"
        leave(f"{error.format_message().rstrip('.')} (see {help})", 2)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EdgepruneError):
            leave(str(error), error.exit_code)
        leave(f"unexpected {type(error).__name__}: {str(error)[:200]}; run it again with --debug and report it", 1)


def _leave_when_asked_to() -> None:
    """Clean up when a terminal is closed or a supervisor ends it, unless (nohup) it was told to go on."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda sent, _: leave("terminated; nothing was written", 128 + sent))


@contextmanager
def _ends_like_others() -> Iterator[None]:
    """Takes Ctrl-C before click, which would print an empty line, and a closed pipe, which click calls a failure."""
    try:
        yield
        sys.stdout.flush()  # here a closed pipe can still be told; at the interpreter's end it prints a traceback
    except KeyboardInterrupt:
        leave("interrupted; nothing was written", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes nowhere
        sys.exit(141)


class _Verbs(LazyGroup):
    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:  # prints the help and the version
        with _ends_like_others():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _ends_like_others():
            return super().invoke(ctx)


@click.group(
    cls=_Verbs,
    package="edgeprune.cli",
    names=VERBS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="edgeprune %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Put token-pruned vision encoders on edge devices.

    \b
    edgeprune export --method fastervlm --keep 64 --target jetson-orin
    edgeprune verify tiny-fastervlm-64-jetson-orin
    edgeprune bench tiny-fastervlm-64-jetson-orin

    \b
    Completion in bash, and alike in zsh and fish:
    eval "$(_EDGEPRUNE_COMPLETE=bash_source edgeprune)"
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
