"""`edgeprune audit`: whether attention is still fused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, needs, print_json, progress, say

if TYPE_CHECKING:
    from edgeprune.export.audit import FusionAudit

__all__ = ["command", "print_audit"]


@click.command("audit")
@options.bundle
@options.target
@click.option("--sm", type=int, help="GPU to compile for, as 86; default one of the target's.")
@options.verb
def command(bundle: Path, target: str | None, sm: int | None, as_json: bool) -> None:
    """See whether attention is still fused, as without pruning.

    Compiles with TensorRT-RTX, on any machine, without a GPU; for Jetson that is a proxy.
    Exit code 1 when a layer is not fused that is fused there.

    \b
    edgeprune audit my-bundle
    edgeprune audit my-bundle --target jetson-orin --json
    """
    with needs("export"):
        from edgeprune.export.audit import audit_bundle

    with progress() as show:
        audit = audit_bundle(bundle, target, sm, show)
    if as_json:
        print_json(audit.to_json())
    else:
        print_audit(audit)
    audit.check()


def print_audit(audit: FusionAudit) -> None:
    """The table, what keeps layers from being fused, and in one line what it comes to."""
    from edgeprune.cli.tables.audit import audit_table

    display(audit_table(audit))
    for line in (*audit.lines(), audit.verdict()):
        say(line)
