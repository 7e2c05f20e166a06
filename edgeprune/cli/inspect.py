"""`edgeprune inspect`: what a bundle says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.console import display, print_json

__all__ = ["command"]


@click.command("inspect")
@options.bundle
@options.verb
def command(bundle: Path, as_json: bool) -> None:
    """Say what a bundle is, and what it costs.

    \b
    edgeprune inspect my-bundle
    """
    from edgeprune.bundle import load

    manifest = load(bundle).manifest
    if as_json:
        print_json({**dataclasses.asdict(manifest), "layout": manifest.layout or None})
        return
    from edgeprune.cli.tables.manifest import files_table, layers_table, manifest_table

    layers = [layers_table(manifest)] if manifest.layers else []
    display(manifest_table(manifest), *layers, files_table(manifest))
