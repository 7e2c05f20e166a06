"""What a sweep found, for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import table
from edgeprune.quality.sweep.rows import Sweep
from edgeprune.quality.sweep.texts import captions, headings, lines

__all__ = ["sweep_table"]


def sweep_table(found: Sweep, wide: bool = False) -> Table:
    """A row for each method and budget.

    wide: every share with its standard error, for more than 80 columns
    """
    shown = table(f"Sweep: {found.about['model']}", *headings(found))
    shown.padding = (0, 0, 0, 0)
    last = ""
    for line in lines(found, errors=wide):
        if last not in ("", line[0]):
            shown.add_section()
        shown.add_row(*(escape(cell) for cell in (line[0] if line[0] != last else "", *line[1:])))
        last = line[0]
    shown.caption = escape("\n".join(captions(found)))
    return shown
