"""Reports for people: rich tables. rich is imported inside, so that the runtime works without it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeprune.errors import MissingPackageError
from edgeprune.runtime.parity import Report
from edgeprune.runtime.verify import BackendReport

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["parity_table"]

_MEASURES = ("sets\nequal", "flips\nok", "flips\nbad", "Jaccard", "score\nerror", "token\nmedian", "token\nmax")


def parity_table(reports: Iterable[BackendReport]) -> Table:
    """A row for the worst of each backend, and one for each of its probes below it; it fits 80 columns.

    flips ok, bad: patches that one side keeps and the other does not, which the score error explains or not
    score error: the largest, over the largest reference score;  token median, max: relative errors at shared indices
    """
    try:
        from rich import box
        from rich.table import Table
    except ImportError:
        raise MissingPackageError("rich", "cpu") from None
    table = Table(title="Parity with the reference", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column("backend\nand probe", no_wrap=True)
    for heading in _MEASURES:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for backend in reports:
        name = f"{backend.device} {backend.dtype}"
        if backend.not_run:
            table.add_row(
                name,
                *("not run" if measure == "Jaccard" else "" for measure in _MEASURES),
                style="dim",
                end_section=True,
            )
            continue
        table.add_row(name, *_cells(backend.worst), style="bold")
        for probe, report in backend.probes.items():
            table.add_row(f"  {probe}", *_cells(report))
        table.add_section()
    return table


def _cells(report: Report) -> list[str]:
    return [
        f"{report.exact}/{report.images}",
        str(report.explained),
        f"[red]{report.unexplained}[/]" if report.unexplained else "0",
        f"{report.jaccard:.3f}",
        f"{report.score_error_relative:.1e}",
        f"{report.token_error_median:.1e}",
        f"{report.token_error_max:.1e}",
        "[green]pass[/]" if report.passed else "[red]FAIL[/]",
    ]
