"""`edgeprune build`: the TensorRT engine of a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options
from edgeprune.cli.audit import print_audit
from edgeprune.cli.console import needs, print_json, progress

if TYPE_CHECKING:
    from edgeprune.bundle import File, Plan

__all__ = ["command"]


@click.command("build")
@options.bundle
@options.target
@click.option("--sm", "sms", type=int, multiple=True, help="GPU to build for, as 86 (repeat); default the target's.")
@click.option("--audit", "audited", is_flag=True, help="See whether attention is fused, too, as `audit` does.")
@click.option("--adopt", type=options.PATH, metavar="PLAN", help="Build none: add this one, which trtexec built here.")
@click.option("--force", is_flag=True, help="Replace an existing engine.")
@options.verb
def command(
    bundle: Path,
    target: str | None,
    sms: tuple[int, ...],
    audited: bool,
    adopt: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build the TensorRT engine of a bundle, and add it.

    For RTX GPUs on any machine, without a GPU; for others on the device itself.

    \b
    edgeprune build my-bundle
    edgeprune build my-bundle --sm 86 --sm 89 --audit
    edgeprune build my-bundle --adopt encoder.jetson-orin.plan
    """
    if adopt is not None:
        _adopt(bundle, adopt, target, sms, audited, force, as_json)
        return
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
        print_json({"engine": _entry(engine, file), "audit": audit and audit.to_json()})
    else:
        fits, seconds = ", ".join(map(str, engine.sm)), engine.build_ms / 1000
        click.echo(f"built {bundle / engine.plan} for SM {fits}: {file.size / 1e6:,.1f} MB in {seconds:.1f} s")
    if audit is not None:
        audit.check()


def _adopt(
    bundle: Path, plan: Path, target: str | None, sms: tuple[int, ...], audited: bool, force: bool, as_json: bool
) -> None:
    from edgeprune.runtime.adopt import adopt

    if sms or audited:
        raise click.UsageError("--adopt builds nothing: leave out --sm and --audit")
    engine, file = adopt(bundle, plan, target, force)
    if as_json:
        print_json({"engine": _entry(engine, file), "audit": None})
        return
    verify = f"hold it against the reference with `edgeprune verify {bundle} --device tensorrt`"
    click.echo(f"opened {plan} with {engine.kind} {engine.version} and listed it as {engine.plan}; {verify}")


def _entry(engine: Plan, file: File) -> dict[str, Any]:
    return {**dataclasses.asdict(engine), **dataclasses.asdict(file)}
