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

JUDGED = ("decided", "within\nrounding", "wrong", "regret /\ntolerance", "score\nerror", "token\nerror")
BOUND = ("decided", "lost", "lost by\nchance", "score\nerror", "token\nmedian", "token\nerror")
"""of a quantised graph, no single decision of which is held against it"""


def parity_table(reports: Iterable[BackendReport]) -> Table:
    """A row for each backend as a whole, and one for each of its probes below it.

    decided: of all decisions those whose margin exceeds the tolerance, so that a mistake there would be seen; the share
    leaves flat probes out
    within: something else was better, by less than rounding explains;  regret: the largest, over its tolerance
    lost: of what the best choice is worth, the share that this one lacks, and that one by chance would
    """
    reports = [*reports]
    bound = any(report.bounds is not None for report in reports)  # all, then: they are of one bundle
    headings = BOUND if bound else JUDGED
    shown = table("Parity with the reference", "backend\nand probe", *(f"{one} >" for one in headings), "")
    shown.padding = (0, 1, 0, 0)
    for backend in reports:
        measured = _measured if backend.bounds is None else _against_bounds
        name = f"{backend.device} {backend.dtype}"
        if len(name) > 15:  # else the table is wider than 80 columns
            name = name.replace(" ", "\n")
        if backend.not_run:
            shown.add_row(name, "", "", "not run", style="dim", end_section=True)
            continue
        shown.add_row(name, *measured(backend.worst), style="bold")
        for probe, report in backend.probes.items():
            shown.add_row(f"  {escape(probe)}", *measured(report))
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
        _passed(verdict),
    ]


def _against_bounds(verdict: Verdict) -> list[str]:
    tokens = [f"{one:.1e}" if verdict.tokens else "-" for one in (verdict.token_median, verdict.token_error)]
    return [
        f"{verdict.decided}/{verdict.decisions}",
        f"{verdict.lost:.2%}",
        f"{verdict.blind:.1%}",
        f"{verdict.error_relative:.1e}",
        *tokens,
        _passed(verdict),
    ]


def _passed(verdict: Verdict) -> str:
    return "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"


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
        if report.bounds is None:
            measured = f"{share}{rounding}, {worst.wrong} wrong, score error {worst.error_relative:.1e}, {tokens}"
        else:
            middle = f", {worst.token_median:.1e} in the median" if worst.tokens else ""
            measured = (
                f"{worst.lost:.2%} lost by the choice, {report.bounds['regret']:.2%} allowed, {share}, {tokens}{middle}"
            )
        lines.append(f"{verdict} on {report.device}: {proven}{measured}")
        lines += [f"  {escape(reason)}" for reason in worst.reasons]
    return "\n".join(lines)


def ran_line(folder: Path, reports: Sequence[BackendReport], not_run: Sequence[str]) -> str:
    """In one line what was held against the reference, and the plans that were not."""
    ran = ", ".join(f"{report.source} on {report.device}" for report in reports if not report.not_run)
    if not not_run:
        return f"ran {escape(ran)}"
    plans = f"[yellow]{escape(', '.join(not_run))} did not run[/]"
    return f"ran {escape(ran)}; {plans}: run it here with `edgeprune verify {escape(str(folder))} --device tensorrt`"
