"""`edgeprune build`: the TensorRT engine of a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edgeprune.cli import options
from edgeprune.cli.audit import print_audit
from edgeprune.cli.console import needs, print_json, progress

__all__ = ["command"]


@click.command("build")
@options.bundle
@options.target
@click.option("--sm", "sms", type=int, multiple=True, help="GPU to build for, as 86 (repeat); default the target's.")
@click.option("--audit", "audited", is_flag=True, help="See whether attention is fused, too, as `audit` does.")
@click.option("--force", is_flag=True, help="Replace the engine that is there.")
@options.verb
def command(bundle: Path, target: str | None, sms: tuple[int, ...], audited: bool, force: bool, as_json: bool) -> None:
    """Build the TensorRT engine of a bundle, and add it.

    For RTX GPUs on any machine, without a GPU; for others on the device itself.

    \b
    edgeprune build my-bundle
    edgeprune build my-bundle --sm 86 --sm 89 --audit
    """
    with needs("export"):
        from edgeprune.export.audit import audit_bundle
        from edgeprune.export.engine import build_engine

    audit = None
    if audited:  # first: it says something even where the engine cannot be built
        with progress() as show:
            audit = audit_bundle(bundle, target, sms[0] if sms else None, show)
        if not as_json:
            print_audit(audit)
    with progress() as show:
        engine, file = build_engine(bundle, target, sms, force, show)
    if as_json:
        entry = {**dataclasses.asdict(engine), **dataclasses.asdict(file)}
        print_json({"engine": entry, "audit": audit and audit.to_json()})
    else:
        fits, seconds = ", ".join(map(str, engine.sm)), engine.build_ms / 1000
        click.echo(f"built {bundle / engine.plan} for SM {fits}: {file.size / 1e6:,.1f} MB in {seconds:.1f} s")
    if audit is not None:
        audit.check()
