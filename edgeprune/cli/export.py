"""`edgeprune export`: a checkpoint and a method become a verified bundle."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import assemble, completion, options
from edgeprune.cli.console import display, needs, print_json, progress, warn
from edgeprune.precisions import PRECISIONS

if TYPE_CHECKING:
    from edgeprune.export.assemble.request import Request as Whole
    from edgeprune.export.request import Request

__all__ = ["command"]


@click.command("export")
@click.option(
    "--method", required=True, shell_complete=completion.methods,
    help="Pruning method, or what shortens the encoder itself; `edgeprune methods` lists both.",
)  # fmt: skip
@click.option(
    "--keep",
    type=options.Keep(),
    help="Tokens kept of an image, or their share (0.6), or auto. All but `none` need it.",
)
@click.option("--floor", type=float, metavar="SHARE", help="With --keep auto: the share of unpruned accuracy to keep.")
@click.option("--ceiling-ms", type=float, metavar="MS", help="With --keep auto: the time that a run may take here.")
@click.option(
    "--calibrate", metavar="DIR",
    help="With --floor: images, with questions.jsonl if it has one; of flowcut and position=fitted: those that counts "
    "and weights are taken of. Default scenes.",
)  # fmt: skip
@click.option(
    "--scorer", type=options.PATH,
    help="Trained weights: what `train` or `bavit train` wrote for the method; default <method>-scorer.",
)  # fmt: skip
@click.option(
    "--option", "settings", multiple=True, metavar="NAME=VALUE", shell_complete=completion.settings,
    help="Option of the method (repeat for several).",
)  # fmt: skip
@options.inside
@click.option(
    "--correction", type=options.PATH, metavar="FILE", help="With steps inside: what `edgeprune calibrate` wrote."
)
@click.option("--outputs", multiple=True, metavar="NAME", help="With --inside: origin, which token each patch went to.")
@click.option(
    "--target", default="cpu", show_default=True, shell_complete=completion.targets,
    help="Name from `edgeprune targets`, or your own .toml.",
)  # fmt: skip
@click.option(
    "--model", shell_complete=completion.models,
    help="Hugging Face id or local folder; default the tiny LLaVA that comes along.",
)  # fmt: skip
@click.option("--revision", help="Commit or branch of a Hugging Face id.")
@click.option("--output", type=options.PATH, help="Folder to write; default <model>-<method>-<keep>-<target>.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS),
    help="Float of the graph, default the target's; or what its products are quantised to.",
)  # fmt: skip
@click.option(
    "--calibration", "calibrated_on", metavar="DIR",
    help="With int8 or fp8: images that ranges of activations are taken of. Default scenes.",
)  # fmt: skip
@click.option(
    "--calibration-images", type=click.IntRange(min=2), default=64, show_default=True, metavar="N",
    help="How many of them, at most.",
)  # fmt: skip
@click.option(
    "--keep-float",
    metavar="PRODUCT,...",
    help="Products that are not quantised, as `inspect` names them; * stands for any.",
)
@click.option("--layer", type=int, help="Feature layer, an index into hidden_states; default the model's.")
@click.option(
    "--prior", metavar="mask|mul|fuse:W",
    help="Take `prior` [B, N] as well, what is known of each patch: keep those at 0 last, or rank by it, too.",
)  # fmt: skip
@click.option(
    "--text-model", metavar="CLIP",
    help="Folder or id of the CLIP that questions are put to, for a method that is asked in its space.",
)  # fmt: skip
@click.option("--split", is_flag=True, help="Two graphs as well: encode an image once, select for each question.")
@click.option(
    "--tiles", type=int, default=1, show_default=True,
    help="Images, frames or tiles of one image per run (LLaVA-NeXT, OneVision: tiles, which share --keep).",
)  # fmt: skip
@click.option("--grid", metavar="HxW", help="Patches of an image, for encoders that take any size (Qwen-VL).")
@click.option("--size", metavar="HxW", help="Pixels of an image, for all but tiles and --grid; default the model's.")
@click.option("--head", is_flag=True, help="Logits of the checkpoint's own image classifier in place of tokens.")
@click.option("--video", is_flag=True, help="Frames instead of images, where the model treats them differently.")
@click.option("--dynamic-batch", is_flag=True, help="Leave the number of images per run open (cpu, ort-cuda).")
@click.option(
    "--input", "input_kind", type=click.Choice(["float", "uint8"]), default="float", show_default=True,
    help="float: normalised pixels. uint8: RGB images as they are; the graph normalises.",
)  # fmt: skip
@click.option("--probes", type=options.PATH, help="Folder with images of yours to check parity on, too.")
@options.image_range
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Add the graphs for `bench`.")
@click.option(
    "--runtime/--no-runtime", default=True, show_default=True,
    help="Add edgeprune itself, as a wheel without its models, for the device to install.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--assemble", "whole", type=options.PATH, metavar="FOLDER",
    help="Put it in front of its language model as well, as `assemble` does by default, and write that here.",
)  # fmt: skip
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload it to the Hugging Face hub, with a model card.")
@click.option("--private", is_flag=True, help="With --push-to-hub: a repository of your own, if it is new.")
@options.language_model
@options.verb
def command(
    as_json: bool,
    input_kind: str,
    settings: tuple[str, ...],
    language_model: str | None,
    floor: float | None,
    ceiling_ms: float | None,
    calibrate: str | None,
    whole: Path | None,
    **given: Any,
) -> None:
    """Export a pruned encoder as a bundle, and check it.

    \b
    edgeprune export --method fastervlm --keep 64
    edgeprune export --method fastervlm --keep 64 --model llava-hf/llava-1.5-7b-hf
    edgeprune export --method flowcut --keep 64
    edgeprune export --method fastervlm --keep auto --floor 0.99
    edgeprune export --method fastervlm --keep 64 --assemble model
    """
    from edgeprune.export.assemble.request import check_asked
    from edgeprune.export.request import Request, check, takes_images

    own = options.named(settings)
    given["keep_float"] = tuple(name for name in (given["keep_float"] or "").split(",") if name)
    auto = given["keep"] == "auto"
    given |= {"keep": None, "output": given["output"] or _output(given)} if auto else {}
    if not auto and (floor, ceiling_ms) != (None, None):
        raise click.UsageError("--floor and --ceiling-ms go with --keep auto; leave them out")
    request = Request(uint8=input_kind == "uint8", options=own, **given)
    if not auto or takes_images(request):
        request = dataclasses.replace(request, calibrate=calibrate)
    if whole is not None:
        check_asked(_whole(request, Path(), whole))
    check(request)  # before torch and transformers are imported, which takes seconds
    if auto:
        from edgeprune.quality.sweep.auto import Goal, check_goal

        check_goal(Goal(floor, ceiling_ms), request, calibrate)
    model = options.read_language_model(language_model)
    with needs("export"):
        import transformers.modeling_utils  # noqa: F401  (every family imports it, later)

        from edgeprune.export.hub import push
        from edgeprune.export.job import export_bundle, steps_of

    if auto:
        request = _budgeted(request, floor, ceiling_ms, calibrate)
    with progress(each=True) as show:
        steps = steps_of(request)
        exported = export_bundle(request, lambda step: show(steps.index(step.partition(":")[0]), len(steps), step))
    for warning in exported.warnings:
        warn(warning)
    bound = options.bound_of(model, exported.manifest, request.target)
    page = None if request.push_to_hub is None else push(exported.folder, request.push_to_hub, request.private)
    if as_json:
        reports = [report.to_json() for report in exported.reports]
        manifest = dataclasses.asdict(exported.manifest)
        value = {"bundle": str(exported.folder), "manifest": manifest, "parity": reports}
        value |= {} if page is None else {"hub": page}
        value |= {} if bound is None else {"bound": bound.to_json()}
        if whole is not None:
            value["assembled"] = assemble.to_json(assemble.assembled(_whole(request, exported.folder, whole)))
        print_json(value)
        return
    from edgeprune.cli.tables.bound import bound_table
    from edgeprune.cli.tables.manifest import manifest_table
    from edgeprune.cli.tables.parity import parity_line

    display(manifest_table(exported.manifest), parity_line(exported.reports))
    if bound is not None:
        display(bound_table(bound))
    click.echo(f"wrote {exported.folder}")
    if page is not None:
        click.echo(f"pushed to {page}")
    if whole is not None:
        assemble.tell(assemble.assembled(_whole(request, exported.folder, whole)))


def _whole(request: Request, bundle: Path, folder: Path) -> Whole:
    """What --assemble asks for."""
    from edgeprune.export.assemble.request import Request as Whole

    return Whole(bundle, request.model, request.revision, output=folder, force=request.force)


def _output(given: dict[str, Any]) -> Path:
    """Before the budget is known."""
    model = "tiny" if given["model"] is None else os.path.basename(os.path.abspath(given["model"]))
    return Path(f"{model}-{given['method']}-auto-{Path(given['target']).stem}")


def _budgeted(request: Request, floor: float | None, ceiling_ms: float | None, calibrate: str | None) -> Request:
    """With the budget that --keep auto finds."""
    from edgeprune.quality.sweep.auto import Goal, find_keep

    with progress() as show:
        budget = find_keep(request, Goal(floor, ceiling_ms), calibrate, show)
    return dataclasses.replace(request, keep=budget.keep, calibration=budget.to_json())
