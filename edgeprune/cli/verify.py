"""`edgeprune verify`: every backend that is here, held against the reference."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json, progress
from edgeprune.errors import ParityError

__all__ = ["command"]


@click.command("verify")
@options.bundle
@click.option("--device", type=options.devices, help="Only this one; default every one that is here.")
@options.threads
@click.option("--polygraphy", is_flag=True, help="Run it by Polygraphy's runners, compared in the same way.")
@options.verb
def command(bundle: Path, device: str | None, threads: int | None, polygraphy: bool, as_json: bool) -> None:
    """Compare every backend that is here with the bundle's reference.

    Kept sets are compared, not positions; a difference counts only where the score margin exceeds the score error.
    Exit code 1 when an output differs unexplained.

    \b
    edgeprune verify my-bundle
    edgeprune verify my-bundle --device cuda --json
    """
    from edgeprune.cli.tables.parity import parity_line, parity_table
    from edgeprune.runtime.parity import polygraphy_verify
    from edgeprune.runtime.parity.verify import verify

    run = polygraphy_verify.verify if polygraphy else verify
    with progress() as show:
        reports = run(bundle, device, threads, show)
    if as_json:
        print_json({"passed": all(r.passed for r in reports), "backends": [report.to_json() for report in reports]})
    else:
        display(parity_table(reports), parity_line(reports))
    for report in reports:
        if not report.passed:
            raise ParityError(f"{bundle} differs from its reference on {report.device}: {report.worst.reasons[0]}")
