"""What a bundle is, and what is in it."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.bundle import Manifest
from edgeprune.cli.tables import count, facts, table

__all__ = ["files_table", "manifest_table"]


def manifest_table(manifest: Manifest) -> Table:
    """What a bundle is, and its cost by the formula and by its graph."""
    model, tensors = manifest.model, {**manifest.inputs, **manifest.outputs}
    formula, graph, unpruned = (manifest.cost.get(name, 0) for name in ("formula", "graph", "unpruned_formula"))
    return facts(
        f"{manifest.method} keeps {manifest.budget}",
        {
            "model": f"{model.id}, {model.family}, {model.layer} layers, {model.features}",
            "revision": "" if model.revision == "local" else model.revision,
            "target": f"{manifest.target}, {manifest.precision}",
            "engines": "\n".join(
                f"{one.plan}: {one.kind} {one.version}, SM {', '.join(map(str, one.sm))}"
                for one in manifest.engines.values()
            ),
            **{name: f"{list(spec.shape)} {spec.dtype}" for name, spec in tensors.items()},
            "formula": f"{count(formula)} multiply-adds, {formula / unpruned:.1%} of unpruned" if unpruned else "",
            "graph": f"{count(graph)} multiply-adds, {graph / formula - 1:+.1%} on the formula" if formula else "",
            "layout": manifest.layout,
            "deviations": "\n".join(manifest.deviations),
        },
    )


def files_table(manifest: Manifest) -> Table:
    shown = table("Files", "name", "bytes >", "sha256")
    for name, file in manifest.files.items():
        shown.add_row(escape(name), f"{file.size:,}", escape(file.sha256[:16]))
    return shown
