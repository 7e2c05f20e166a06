"""What the command line prints for people, a file for each subject; here is what they share. Needs rich."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

__all__ = ["count", "facts", "ratio", "table"]


def table(title: str, *headings: str) -> Table:
    """Headings that end in ` >` stand right; the first column and those are never wrapped."""
    shown = Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE, pad_edge=False
    )
    for at, heading in enumerate(headings):
        name = heading.removesuffix(" >")
        right = name != heading
        shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right or at == 0)
    return shown


def facts(title: str, values: dict[str, str]) -> Table:
    """A row for each fact that is not empty."""
    shown = Table(
        title=escape(title), title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in values.items():
        if value:
            shown.add_row(escape(name), escape(value))
    return shown


def count(multiply_adds: int) -> str:
    """Four digits and a unit.

    >>> count(155_325_696), count(190_100_000_000)
    ('155.3 M', '190.1 G')
    """
    unit, size = ("G", 1e9) if multiply_adds >= 1e9 else ("M", 1e6)
    return f"{multiply_adds / size:.4g} {unit}"


def ratio(before: float, after: float) -> str:
    return f"{after / before:.3f}" if before else ""
