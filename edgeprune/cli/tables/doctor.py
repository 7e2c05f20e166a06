"""What is here, and what it is good for."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import facts, table
from edgeprune.doctor import Report
from edgeprune.doctor.abilities import Ability

__all__ = ["doctor_line", "doctor_lines", "doctor_tables"]


def doctor_tables(report: Report) -> list[Table]:
    packages = table("Packages", "name", "here", "wanted", "")
    for one in report.packages:
        wanted = ", ".join(f"{range_ or 'any'} ({extra})" for extra, range_ in one.wanted.items())
        state = "" if one.installed is None else "[green]fits[/]" if one.fits() else "[red]DOES NOT FIT[/]"
        packages.add_row(escape(one.name), escape(one.installed or one.instead or "-"), escape(wanted), state)
    every = table("Targets", "name", "export", "build", "run")
    for target in report.targets:
        every.add_row(target.name, *map(_word, (target.export, target.build, target.run)))
    return [facts("Here", dict(report.facts)), *([packages] if report.packages else []), every]


def _word(ability: Ability | None) -> str:
    return "as it is" if ability is None else "[green]yes[/]" if ability.can else "no"


def doctor_lines(report: Report) -> list[str]:
    """A line for each thing that is missing: what for, what must be there, and the remedy."""
    return [f"{' | '.join(what) or 'here'}: {one.what}; {one.remedy}" for one, what in report.missing.items()]


def doctor_line(report: Report) -> str:
    """What it comes to, in one line."""
    export, build, run = (report.able(kind) for kind in ("export", "build", "run"))
    named = f" ({', '.join(run)})" if run else ""
    return (
        f"of {len(report.targets)} targets, this machine can export for {len(export)}, build for {len(build)} "
        f"and run {len(run)}{named}"
    )
