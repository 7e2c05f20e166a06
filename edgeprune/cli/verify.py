"""`edgeprune verify`: every available backend, held against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json, progress
from edgeprune.errors import ParityError

if TYPE_CHECKING:
    from rich.table import Table

    from edgeprune.runtime.generate.verify import GenerateReport
    from edgeprune.runtime.parity.verify import BackendReport

__all__ = ["command"]


@click.command("verify")
@options.bundle
@click.option("--device", type=options.devices, help="Only this one; default every available one.")
@options.first
@options.threads
@click.option("--polygraphy", is_flag=True, help="Run it by Polygraphy's runners, compared in the same way.")
@click.option("--strict", is_flag=True, help="Fail, too, where less than half of the decisions are decided.")
@click.option("--generate", is_flag=True, help="Of a folder of `edgeprune assemble`: what it answers, too.")
@click.option("--junit", type=options.PATH, metavar="FILE", help="Write a JUnit report for CI, too: a case per probe.")
@options.verb
def command(
    bundle: Path,
    device: str | None,
    keep: int | None,
    threads: int | None,
    polygraphy: bool,
    strict: bool,
    generate: bool,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Compare every backend that is here with the reference.

    The decisions of each are judged one by one, given those before, by the reference's numbers (docs/parity.md).
    Exit code 1 when one is wrong, or an output differs.

    \b
    edgeprune verify my-bundle
    edgeprune verify my-bundle --device cuda --json
    edgeprune verify my-bundle --keep 16
    edgeprune verify my-bundle --strict --junit parity.xml
    edgeprune verify model --generate
    """
    from edgeprune.cli.tables.parity import parity_line, parity_table, ran_line
    from edgeprune.runtime.parity import polygraphy_verify
    from edgeprune.runtime.parity.junit import write_junit
    from edgeprune.runtime.parity.verify import plans_not_run, verify

    if polygraphy and keep is not None:
        raise click.UsageError(
            f"Polygraphy runs the whole graph and takes no --keep, got {keep}; leave one of them out"
        )
    model = options.assembled(bundle, "--generate") if generate else None
    with progress() as show:
        if polygraphy:
            reports = polygraphy_verify.verify(bundle, device, threads, show)
        else:
            reports = verify(bundle, device, threads, show, keep)
    not_run = plans_not_run(bundle, reports)
    said = None if model is None else _said(model, device, threads)
    if as_json:
        backends = [report.to_json() for report in reports]
        passed = all(r.passed for r in reports) and (said is None or said.passed)
        value = {"passed": passed, "backends": backends, "plans_not_run": not_run}
        print_json(value if said is None else {**value, "generate": said.to_json()})
    else:
        display(parity_table(reports), parity_line(reports), ran_line(bundle, reports, not_run))
        if said is not None:
            display(*_words(said))
    doubts = [_doubt(bundle, report) if strict else "" for report in reports]
    if junit is not None:
        write_junit(junit, str(bundle), reports, doubts if strict else ())
    for report, doubt in zip(reports, doubts, strict=True):
        if not report.passed:
            raise ParityError(f"{bundle} differs from its reference on {report.device}: {report.worst.reasons[0]}")
        if doubt:
            raise ParityError(doubt)
    if said is not None and not said.passed:
        raise ParityError(f"{model} does not say what torch says: {said.worst}")


def _said(model: Path, device: str | None, threads: int | None) -> GenerateReport:
    from edgeprune.runtime.generate.verify import verify_generate

    with progress() as show:
        return verify_generate(model, device or "cpu", threads, show)


def _words(said: GenerateReport) -> list[Table | str]:
    from edgeprune.cli.tables.assembled import differences_table, generate_line

    return [*differences_table(said), generate_line(said)]


def _doubt(bundle: Path, report: BackendReport) -> str:
    """Why parity says little there; empty where it says enough, and where nothing ran."""
    if report.not_run or report.proven:
        return ""
    if report.bounds is not None:
        return (
            f"{bundle} is not proven on {report.device}: on half of its probes a choice by chance must fail, and "
            "tokens must be compared; export it with images of yours (--probes), or leave out --strict"
        )
    return (
        f"{bundle} is not proven on {report.device}: half of the decisions on probes that are not "
        f"flat must be decided, {report.decided:.0%} are; export it with images of yours (--probes), or leave out "
        "--strict"
    )
