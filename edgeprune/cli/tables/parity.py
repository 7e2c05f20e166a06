"""How every backend compares with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import table
from edgeprune.runtime.parity.verdict import Verdict
from edgeprune.runtime.parity.verify import BackendReport

__all__ = ["parity_line", "parity_table", "ran_line"]


def parity_table(reports: Iterable[BackendReport]) -> Table:
    """A row for each backend as a whole, and one for each of its probes below it.

    decided: of all decisions those whose margin exceeds the tolerance, so that a mistake there would be seen
    within: something else was better, by less than rounding explains;  regret: the largest, over its tolerance
    """
    headings = ("decided", "within\nrounding", "wrong", "regret /\ntolerance", "score\nerror", "token\nerror")
    shown = table("Parity with the reference", "backend\nand probe", *(f"{one} >" for one in headings), "")
    shown.padding = (0, 1, 0, 0)
    for backend in reports:
        name = f"{backend.device} {backend.dtype}"
        if len(name) > 15:  # else the table is wider than 80 columns
            name = name.replace(" ", "\n")
        if backend.not_run:
            shown.add_row(name, "", "", "not run", style="dim", end_section=True)
            continue
        shown.add_row(name, *_measured(backend.worst), style="bold")
        for probe, report in backend.probes.items():
            shown.add_row(f"  {escape(probe)}", *_measured(report))
        shown.add_section()
    return shown


def _measured(verdict: Verdict) -> list[str]:
    return [
        f"{verdict.decided}/{verdict.decisions}",
        str(verdict.within),
        f"[red]{verdict.wrong}[/]" if verdict.wrong else "0",
        f"{verdict.regret:.2g}",
        f"{verdict.error_relative:.1e}",
        f"{verdict.token_error:.1e}" if verdict.tokens else "-",
        "[green]pass[/]" if verdict.passed else "[red]FAIL[/]",
    ]


def parity_line(reports: Sequence[BackendReport]) -> str:
    """One line on how every backend compares, and one for each reason why not."""
    lines = []
    for report in reports:
        if report.not_run:
            lines.append(f"[yellow]not run[/] on {report.device}: {escape(report.not_run)}")
            continue
        worst = report.worst
        verdict = "[green]parity[/]" if worst.passed else "[red]NO PARITY[/]"
        proven = "" if report.proven else "[yellow]not proven[/]: "
        share = f"{report.decided:.0%} decided" if worst.decisions else "nothing to decide"
        rounding = f", {worst.within} within rounding" if worst.within else ""
        tokens = f"token error {worst.token_error:.1e}" if worst.tokens else "no token to compare"
        lines.append(
            f"{verdict} on {report.device}: {proven}{share}{rounding}, {worst.wrong} wrong, "
            f"score error {worst.error_relative:.1e}, {tokens}"
        )
        lines += [f"  {escape(reason)}" for reason in worst.reasons]
    return "\n".join(lines)


def ran_line(folder: Path, reports: Sequence[BackendReport], not_run: Sequence[str]) -> str:
    """In one line what was held against the reference, and the plans that were not."""
    ran = ", ".join(f"{report.source} on {report.device}" for report in reports if not report.not_run)
    if not not_run:
        return f"ran {escape(ran)}"
    plans = f"[yellow]{escape(', '.join(not_run))} did not run[/]"
    return f"ran {escape(ran)}; {plans}: run it here with `edgeprune verify {escape(str(folder))} --device tensorrt`"
