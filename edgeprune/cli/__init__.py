"""The command line: one function per verb; everything heavier than click and rich is imported inside them.

Exit codes: 0 done, 1 failed, 2 the request cannot be met. Errors are one line on stderr; --debug shows where from.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgeprune import __version__
from edgeprune.cli.bavit import bavit
from edgeprune.cli.console import display, leave, print_json, progress, verb, warn
from edgeprune.errors import EdgepruneError, MissingPackageError, ParityError

if TYPE_CHECKING:
    from edgeprune.bundle import Manifest
    from edgeprune.estimate.bound import Bound
    from edgeprune.estimate.language_model import LanguageModel
    from edgeprune.export.audit import Report

__all__ = ["cli", "main"]

EXPORT_PACKAGES = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub"}


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    debug = "--debug" in sys.argv[1:]
    _leave_when_asked_to()
    try:
        sys.exit(cli.main(prog_name="edgeprune", standalone_mode=False) or 0)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help = f"{context.command_path if context else 'edgeprune'} --help"
        leave(f"{error.format_message().rstrip('.')} (see {help})", 2)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EdgepruneError):
            leave(str(error), error.exit_code)
        leave(f"unexpected {type(error).__name__}: {str(error)[:200]}; run it again with --debug and report it", 1)


def _leave_when_asked_to() -> None:
    """Clean up when a terminal is closed or a supervisor ends it, unless (nohup) it was told to go on."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda sent, _: leave("terminated; nothing was written", 128 + sent))


class _Verbs(click.Group):
    """Lists the verbs in their order here, and takes Ctrl-C before click, which would print an empty line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            leave("interrupted; nothing was written", 130)


class _Keep(click.ParamType[Any]):
    """A number of tokens, or with a point in it their share."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            return float(value) if "." in str(value) else int(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a number of tokens, such as 64, nor a share of them, such as 0.6", param, ctx
            )


_devices = click.Choice(["cpu", "cuda", "tensorrt"])
_path = click.Path(path_type=Path)
_bundle = click.argument("bundle", type=_path)
_target = click.option("--target", help="Name, or your own .toml; default the bundle's.")
_threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default ONNX Runtime's choice.")
_language_model = click.option(
    "--language-model", metavar="CONFIG",
    help="Estimate what pruning gains in front of it: config.json, its folder, or a Hugging Face id in the cache.",
)  # fmt: skip


@click.group(cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="edgeprune %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Put token-pruned vision encoders on edge devices.

    \b
    edgeprune export --method fastervlm --keep 64 --target jetson-orin
    edgeprune verify tiny-fastervlm-64-jetson-orin
    edgeprune bench tiny-fastervlm-64-jetson-orin
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@click.option("--method", required=True, help="Pruning method; `edgeprune methods` lists them.")
@click.option("--keep", type=_Keep(), help="Tokens kept of an image, or their share (0.6). All but `none` need it.")
@click.option(
    "--scorer", type=_path, help="Trained weights, for `bavit`: what `bavit train` wrote; default bavit-scorer."
)
@click.option(
    "--option", "settings", multiple=True, metavar="NAME=VALUE", help="Option of the method (repeat for several)."
)
@click.option("--target", default="cpu", show_default=True, help="Name from `edgeprune targets`, or your own .toml.")
@click.option("--model", help="Hugging Face id or local folder; default the tiny LLaVA that comes along.")
@click.option("--revision", help="Commit or branch of a Hugging Face id.")
@click.option("--output", type=_path, help="Folder to write; default <model>-<method>-<keep>-<target>.")
@click.option(
    "--precision", type=click.Choice(["float32", "float16"]), help="Float of the graph; default the target's."
)
@click.option("--layer", type=int, help="Feature layer, an index into hidden_states; default the model's.")
@click.option(
    "--tiles", type=int, default=1, show_default=True,
    help="Images, frames or tiles of one image per run (LLaVA-NeXT, OneVision: tiles, which share --keep).",
)  # fmt: skip
@click.option("--grid", metavar="HxW", help="Patches of an image, for encoders that take any size (Qwen-VL).")
@click.option("--size", metavar="HxW", help="Pixels of an image, for detectors (YOLOS); default the model's.")
@click.option("--video", is_flag=True, help="Frames instead of images, where the model treats them differently.")
@click.option("--dynamic-batch", is_flag=True, help="Leave the number of images per run open.")
@click.option(
    "--input", "input_kind", type=click.Choice(["float", "uint8"]), default="float", show_default=True,
    help="float: normalised pixels. uint8: RGB images as they are; the graph normalises.",
)  # fmt: skip
@click.option("--probes", type=_path, help="Folder with images of yours to check parity on, too.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Add the graphs for `bench`.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@_language_model
@verb
def export(
    as_json: bool, input_kind: str, settings: tuple[str, ...], language_model: str | None, **options: Any
) -> None:
    """Export a pruned encoder as a bundle, and check it.

    \b
    edgeprune export --method fastervlm --keep 64
    edgeprune export --method fastervlm --keep 64 --model llava-hf/llava-1.5-7b-hf
    """
    with _export_packages():
        from edgeprune.export import Request, export_bundle
        from edgeprune.export.job import STEPS

    if wrong := [setting for setting in settings if "=" not in setting]:
        raise click.UsageError(f"--option must be NAME=VALUE, got {wrong[0]}")
    own = dict(setting.split("=", 1) for setting in settings)
    model = _read_language_model(language_model)
    request, done = Request(uint8=input_kind == "uint8", options=own, **options), iter(range(len(STEPS)))
    with progress() as show:
        exported = export_bundle(request, lambda step: show(next(done), len(STEPS), step))
    for warning in exported.warnings:
        warn(warning)
    bound = None if model is None else _bound(model, exported.manifest, options["target"])
    if as_json:
        reports = [report.to_json() for report in exported.reports]
        manifest = dataclasses.asdict(exported.manifest)
        found = {"bundle": str(exported.folder), "manifest": manifest, "parity": reports}
        print_json(found if bound is None else {**found, "bound": bound.to_json()})
        return
    from edgeprune.cli import tables

    display(tables.manifest(exported.manifest), tables.parity_line(exported.reports))
    if bound is not None:
        display(tables.bound(bound))
    click.echo(f"wrote {exported.folder}")


@cli.command()
@_bundle
@_target
@click.option("--sm", "sms", type=int, multiple=True, help="GPU to build for, as 86 (repeat); default the target's.")
@click.option("--audit", "audited", is_flag=True, help="See whether attention is fused, too, as `audit` does.")
@click.option("--force", is_flag=True, help="Replace the engine that is there.")
@verb
def build(bundle: Path, target: str | None, sms: tuple[int, ...], audited: bool, force: bool, as_json: bool) -> None:
    """Build the TensorRT engine of a bundle, and add it.

    For RTX GPUs on any machine, without a GPU; for others on the device itself.

    \b
    edgeprune build my-bundle
    edgeprune build my-bundle --sm 86 --sm 89 --audit
    """
    with _export_packages():
        from edgeprune.export.audit import audit_bundle
        from edgeprune.export.engine import build_engine

    report = None
    if audited:  # first: it says something even where the engine cannot be built
        with progress() as show:
            report = audit_bundle(bundle, target, sms[0] if sms else None, show)
        _print_audit(report, as_json)
    with progress() as show:
        engine, file = build_engine(bundle, target, sms, force, show)
    if as_json:
        entry = {**dataclasses.asdict(engine), **dataclasses.asdict(file)}
        print_json({"engine": entry, "audit": report and report.to_json()})
    else:
        fits, seconds = ", ".join(map(str, engine.sm)), engine.build_ms / 1000
        click.echo(f"built {bundle / engine.plan} for SM {fits}: {file.size / 1e6:,.1f} MB in {seconds:.1f} s")
    if report is not None:
        report.check()


@cli.command()
@_bundle
@_target
@click.option("--sm", type=int, help="GPU to compile for, as 86; default one of the target's.")
@verb
def audit(bundle: Path, target: str | None, sm: int | None, as_json: bool) -> None:
    """See whether attention is still fused, as in the unpruned graph.

    Compiles with TensorRT-RTX, on any machine, without a GPU; for Jetson that is a proxy.
    Exit code 1 when a layer is not fused that is fused there.

    \b
    edgeprune audit my-bundle
    edgeprune audit my-bundle --target jetson-orin --json
    """
    with _export_packages():
        from edgeprune.export.audit import audit_bundle

    with progress() as show:
        report = audit_bundle(bundle, target, sm, show)
    if as_json:
        print_json(report.to_json())
    _print_audit(report, as_json)
    report.check()


@cli.command()
@_bundle
@click.option("--device", type=_devices, help="Only this one; default every one that is here.")
@_threads
@click.option("--polygraphy", is_flag=True, help="Run it by Polygraphy's runners, compared in the same way.")
@verb
def verify(bundle: Path, device: str | None, threads: int | None, polygraphy: bool, as_json: bool) -> None:
    """Compare every backend that is here with the bundle's reference.

    Kept sets are compared, not positions; a difference counts only where the score margin exceeds the score error.
    Exit code 1 when an output differs unexplained.

    \b
    edgeprune verify my-bundle
    edgeprune verify my-bundle --device cuda --json
    """
    from edgeprune.cli import tables
    from edgeprune.runtime.parity import polygraphy_verify
    from edgeprune.runtime.parity.verify import verify

    run = polygraphy_verify.verify if polygraphy else verify
    with progress() as show:
        reports = run(bundle, device, threads, show)
    if as_json:
        print_json({"passed": all(r.passed for r in reports), "backends": [report.to_json() for report in reports]})
    else:
        display(tables.parity(reports), tables.parity_line(reports))
    for report in reports:
        if not report.passed:
            raise ParityError(f"{bundle} differs from its reference on {report.device}: {report.worst.reasons[0]}")


@cli.command()
@_bundle
@click.option("--device", type=_devices, default="cpu", show_default=True, help="Where to run it.")
@_threads
@click.option("--rounds", type=click.IntRange(min=1), help="Timed runs of each graph; default 20 seconds' worth.")
@click.option("--against", multiple=True, help="Only this baseline, may be repeated; default all in the bundle.")
@_language_model
@verb
def bench(
    bundle: Path,
    device: str,
    threads: int | None,
    rounds: int | None,
    against: tuple[str, ...],
    language_model: str | None,
    as_json: bool,
) -> None:
    """Measure the encoder against its baselines, in turns.

    Medians of one run, next to the unpruned encoder, the official code exported as it is, and plain pooling.
    A plan (tensorrt) is measured alone, by trtexec where it is there.

    \b
    edgeprune bench my-bundle
    edgeprune bench my-bundle --device tensorrt
    edgeprune bench my-bundle --against unpruned --threads 2 --json
    """
    from edgeprune.bundle import load
    from edgeprune.cli import tables
    from edgeprune.runtime.ledger.bench import bench

    model = _read_language_model(language_model)
    bound = None if model is None else _bound(model, load(bundle).manifest)
    with progress() as show:
        ledger = bench(bundle, device, threads, rounds, against or None, show)
    if as_json:
        print_json(ledger.to_json() if bound is None else {**ledger.to_json(), "bound": bound.to_json()})
    else:
        display(tables.ledger(ledger), *([] if bound is None else [tables.bound(bound)]))


@cli.command()
@_bundle
@click.argument("image", type=_path)
@click.option("--output", type=_path, default=Path("kept.png"), show_default=True, help="A .png.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Of the scores of a detector's boxes.")
@verb
def show(bundle: Path, image: Path, output: Path, threshold: float, as_json: bool) -> None:
    """Draw an image with the patches that are kept.

    \b
    edgeprune show my-bundle photo.jpg --output kept.png
    """
    from edgeprune.runtime.show import draw

    picture = draw(bundle, image, output, threshold)
    if as_json:
        print_json({"picture": str(output), "size": list(picture.size)})
    else:
        click.echo(f"wrote {output}")


@cli.command()
@_bundle
@verb
def inspect(bundle: Path, as_json: bool) -> None:
    """Say what a bundle is, and what it costs.

    \b
    edgeprune inspect my-bundle
    """
    from edgeprune.bundle import load
    from edgeprune.cli import tables

    manifest = load(bundle).manifest
    if as_json:
        print_json(dataclasses.asdict(manifest))
    else:
        display(tables.manifest(manifest), tables.files(manifest))


@cli.command()
@click.option("--matrix", is_flag=True, help="Which method works on which encoder.")
@verb
def methods(matrix: bool, as_json: bool) -> None:
    """List the pruning methods, or where each works.

    \b
    edgeprune methods
    edgeprune methods --matrix
    """
    from edgeprune.catalog import families, methods, refusal
    from edgeprune.cli import tables

    entries, encoders = methods(), families()
    if as_json and matrix:
        cells = [
            {"encoder": family.name, "tower": family.tower, "method": entry.name, "refused": refusal(entry, family)}
            for family in encoders
            for entry in entries
        ]
        print_json(cells)
    elif as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        display(tables.matrix(entries, encoders) if matrix else tables.methods(entries))


@cli.command()
@click.argument("name", required=False)
@verb
def targets(name: str | None, as_json: bool) -> None:
    """List the targets, or show one.

    \b
    edgeprune targets
    edgeprune targets jetson-orin
    """
    from edgeprune.cli import tables
    from edgeprune.targets import load, names

    found = [load(one) for one in ([name] if name else names())]
    if as_json:
        print_json([dataclasses.asdict(target) for target in found] if name is None else dataclasses.asdict(found[0]))
    else:
        display(tables.target(found[0]) if name else tables.targets(found))


cli.add_command(bavit)


def _print_audit(report: Report, as_json: bool) -> None:
    from edgeprune.cli import tables

    if not as_json:
        display(tables.audit(report.rows()))
        for line in report.lines():
            click.echo(line)


def _read_language_model(given: str | None) -> LanguageModel | None:
    from edgeprune.estimate.language_model import read_language_model

    return None if given is None else read_language_model(given)


def _bound(model: LanguageModel, manifest: Manifest, target: str | None = None) -> Bound:
    """target: name or path; None for the manifest's, of which no more than the name may be known here."""
    from edgeprune import targets
    from edgeprune.estimate.bound import bound

    if target is None and manifest.target in targets.names():
        target = manifest.target
    return bound(manifest, model, None if target is None else targets.load(target))


@contextmanager
def _export_packages() -> Iterator[None]:
    """Around imports of edgeprune.export: says what a missing package belongs to."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXPORT_PACKAGES:
            raise
        raise MissingPackageError(error.name, "export") from None
