"""What a sweep found, for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import table
from edgeprune.quality.sweep.rows import Sweep
from edgeprune.quality.sweep.texts import captions, headings, lines

__all__ = ["sweep_table"]


def sweep_table(sweep: Sweep, wide: bool = False) -> Table:
    """A row for each method and budget.

    wide: every share with its standard error, for more than 80 columns
    """
    columns, names = headings(sweep), 1
    if "inside" in columns:  # below its method, there is no room beside it
        columns.remove("inside")
        names = 2
    shown = table(f"Sweep: {sweep.about['model']}", *columns)
    shown.padding = (0, 0, 0, 0)
    last = [""] * names
    for line in lines(sweep, errors=wide):
        own = line[:names]
        if own[0] != last[0] and any(last):
            shown.add_section()
        name, steps = (*own, "")[:2]
        if steps:
            name = f"+ {steps}" if name == last[0] else f"{name} + {steps}"
        shown.add_row(*(escape(cell) for cell in (name if own != last else "", *line[names:])))
        last = own
    shown.caption = escape("\n".join(captions(sweep)))
    return shown
