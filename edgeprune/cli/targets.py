"""`edgeprune targets`: the devices that can be exported for."""

from __future__ import annotations

import dataclasses

import click

from edgeprune.cli import completion, options
from edgeprune.cli.console import display, print_json

__all__ = ["command"]


@click.command("targets")
@click.argument("name", required=False, shell_complete=completion.targets)
@click.option("--wide", is_flag=True, help="All columns: the engine, and the float of the graph, too.")
@options.verb
def command(name: str | None, wide: bool, as_json: bool) -> None:
    """List the targets, or show one.

    \b
    edgeprune targets
    edgeprune targets jetson-orin
    """
    from edgeprune.targets import load, names

    if name is not None:
        one = load(name)
        if as_json:
            print_json(dataclasses.asdict(one))
        else:
            from edgeprune.cli.tables.targets import target_table

            display(target_table(one))
        return
    every = [load(one) for one in names()]
    if as_json:
        print_json([dataclasses.asdict(target) for target in every])
    else:
        from edgeprune.cli.tables.targets import targets_table

        display(targets_table(every, wide), wide=wide)
