"""`edgeprune diff`: what became of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json, progress, say
from edgeprune.errors import EdgepruneError

__all__ = ["command"]

AT_LEAST_0 = click.FloatRange(min=0)


@click.command("diff")
@click.argument("old", type=options.Bundle())
@click.argument("new", type=options.Bundle())
@click.option("--device", type=options.devices, default="cpu", show_default=True, help="Where to run both.")
@options.threads
@click.option("--max-set-change", type=click.FloatRange(0, 1), help="Fail above this share of changed kept patches.")
@click.option(
    "--max-token-error", type=AT_LEAST_0, help="Fail above this relative error of tokens of the same patches."
)
@click.option("--max-cost", type=AT_LEAST_0, help="Fail above these multiply-adds, new over old (1.02).")
@options.verb
def command(
    old: Path,
    new: Path,
    device: str,
    threads: int | None,
    max_set_change: float | None,
    max_token_error: float | None,
    max_cost: float | None,
    as_json: bool,
) -> None:
    """Compare two bundles, on the probes of the old one.

    Kept patches, tokens, cost, size, deviations, versions, and whatever else they say differently of themselves.
    Exit code 1 above a bound that was given.

    \b
    edgeprune diff old-bundle new-bundle
    edgeprune diff old-bundle new-bundle --max-set-change 0 --max-token-error 1e-3
    """
    from edgeprune.runtime.parity.diff import diff

    with progress() as show:
        compared = diff(old, new, device, threads, show)
    beyond = compared.beyond(max_set_change, max_token_error, max_cost)
    if as_json:
        print_json({"passed": not beyond, "beyond": beyond, **compared.to_json()})
    else:
        from edgeprune.cli.tables.diff import diff_lines, diff_tables

        display(*diff_tables(compared))
        for line in diff_lines(compared):
            say(line)
    if beyond:
        raise EdgepruneError(f"{new} differs from {old} by more than was allowed: {'; '.join(beyond)}")
