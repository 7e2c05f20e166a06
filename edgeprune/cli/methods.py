"""`edgeprune methods`: what can be chosen, and where it works."""

from __future__ import annotations

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json

__all__ = ["command"]


@click.command("methods", short_help="List the pruning methods and the reducers.")
@click.option("--matrix", is_flag=True, help="Which method works on which encoder.")
@click.option("--wide", is_flag=True, help="All columns: what each reads and needs, and its paper.")
@options.verb
def command(matrix: bool, wide: bool, as_json: bool) -> None:
    """List the pruning methods and what shortens the encoder itself, or where each method works.

    \b
    edgeprune methods
    edgeprune methods --matrix
    """
    from edgeprune import catalog

    entries, encoders = catalog.methods(), catalog.families()
    if as_json and matrix:
        print_json(
            [
                {
                    "encoder": family.name,
                    "tower": family.tower,
                    "method": entry.name,
                    "refused": catalog.refusal(entry, family, head),
                    **({"head": True} if head else {}),
                }
                for family in encoders
                for head in family.heads
                for entry in entries
            ]
        )
    elif as_json:
        print_json([*(entry.to_json() for entry in entries), *(entry.to_json() for entry in catalog.reducers())])
    else:
        from edgeprune.cli.tables.methods import matrix_table, methods_table, reducers_table

        if matrix:
            display(matrix_table(entries, encoders), wide=wide)
        else:
            display(methods_table(entries, wide), reducers_table(catalog.reducers(), wide), wide=wide)
