"""`edgeprune doctor`: what is here, and what it is good for."""

from __future__ import annotations

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json
from edgeprune.errors import EdgepruneError

__all__ = ["command"]


@click.command("doctor")
@options.verb
def command(as_json: bool) -> None:
    """Say what is here, what it can do, and what is missing.

    Packages beside the ranges they must lie in, GPU, TensorRT, JetPack, free memory and disk; a remedy for each thing
    that is missing. Exit code 1 when nothing can be exported for, built for or run.

    \b
    edgeprune doctor
    edgeprune doctor --json
    """
    from edgeprune.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
    else:
        from edgeprune.cli.tables.doctor import doctor_line, doctor_lines, doctor_tables

        display(*doctor_tables(report))
        for line in doctor_lines(report):
            click.echo(line)
        click.echo(doctor_line(report))
    if not report.can:
        raise EdgepruneError("nothing can be exported for, built for or run here; the first remedy is above")
