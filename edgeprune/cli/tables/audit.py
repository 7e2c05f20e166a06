"""Which layers of attention are fused."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import table
from edgeprune.export.audit import FusionAudit

__all__ = ["audit_table"]


def audit_table(audit: FusionAudit) -> Table:
    shown = table("Fusion audit", "graph", "kernels >", "fused attention >")
    for name, kernels, fused, layers in audit.rows():
        shown.add_row(escape(name), str(kernels), f"{fused} of {layers} layers")
    return shown
