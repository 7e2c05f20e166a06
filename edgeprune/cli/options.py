"""Arguments and options that several verbs have, and what becomes of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli import completion

if TYPE_CHECKING:
    from edgeprune.bundle import Manifest
    from edgeprune.estimate.bound import Bound
    from edgeprune.estimate.language_model import LanguageModel
    from edgeprune.export.request import Request

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # no subscript before click 8.2

__all__ = [
    "PATH",
    "Bundle",
    "Image",
    "Keep",
    "assembled",
    "bound_of",
    "bundle",
    "check_resumed",
    "devices",
    "first",
    "image_range",
    "inside",
    "language_model",
    "named",
    "pair",
    "read_language_model",
    "shortened",
    "shortened_request",
    "target",
    "threads",
    "verb",
]

Verb = TypeVar("Verb", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


class Bundle(ParamType):
    """The folder of a bundle, by whatever `edgeprune.bundle.find` knows it."""

    name = "bundle"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from edgeprune.bundle import find

        return find(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return completion.folders(incomplete)


class BundleOrModel(Bundle):
    """The folder of a bundle, or of an assembled model as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from edgeprune.bundle import finding

        path = Path(value)
        return path if finding.assembled(path) else super().convert(value, param, ctx)


class Image(ParamType):
    """The path of an image."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if re.match(r"[a-z]+://", str(value)):
            self.fail(f"must be a file on this machine, got the URL {value}; download it first", param, ctx)
        return Path(value)


class Keep(ParamType):
    """A number of tokens, or with a point in it their share, or `auto`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float | str:
        if value == "auto":
            return "auto"
        try:
            return float(value) if "." in str(value) else int(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a number of tokens, such as 64, nor a share of them, such as 0.6, nor auto",
                param,
                ctx,
            )


bundle = click.argument("bundle", type=Bundle())
devices = click.Choice(["cpu", "cuda", "tensorrt"])
target = click.option(
    "--target", shell_complete=completion.targets, help="Name, or your own .toml; default the bundle's."
)
first = click.option(
    "--keep", type=click.IntRange(min=1), metavar="K",
    help="The first so many of the kept tokens alone, where kept sets nest; default all.",
)  # fmt: skip
threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default ONNX Runtime's choice.")
language_model = click.option(
    "--language-model", metavar="CONFIG",
    help="Estimate what pruning gains in front of it: config.json, its folder, or a Hugging Face id in the cache.",
)  # fmt: skip


_INSIDE = (
    click.option(
        "--inside", metavar="REDUCER", shell_complete=completion.reducers,
        help="Shorten the sequence inside the encoder: tome, cells, drop and others.",
    ),
    click.option(
        "--schedule", metavar="LAYERS:TOKENS,...",
        help="With --inside: the steps; 8:288 leaves 288 tokens behind 8 layers. Or official: those of its paper.",
    ),
    click.option(
        "--encoder-cost", type=float, metavar="SHARE",
        help="With --inside: choose the steps for this share of the unpruned multiply-adds.",
    ),
    click.option(
        "--adapted", type=PATH, metavar="DIR", help="Weights or thresholds that `edgeprune adapt` wrote for such steps."
    ),
)  # fmt: skip
_SHORTENED = (
    click.option("--method", required=True, shell_complete=completion.methods, help="Pruning method behind the steps."),
    click.option("--keep", type=Keep(), help="Tokens kept of an image, or their share."),
    click.option(
        "--option", "settings", multiple=True, metavar="NAME=VALUE", shell_complete=completion.settings,
        help="Option of method or reducer (repeat for several).",
    ),
    *_INSIDE,
    click.option(
        "--target", default="cpu", show_default=True, shell_complete=completion.targets,
        help="That the steps are rounded for.",
    ),
    click.option(
        "--model", shell_complete=completion.models,
        help="Hugging Face id or local folder; default the tiny LLaVA that comes along.",
    ),
    click.option("--revision", help="Commit or branch of a Hugging Face id."),
    click.option("--layer", type=int, help="Feature layer, an index into hidden_states; default the model's."),
    click.option("--grid", metavar="HxW", help="Patches of an image, for encoders that take any size (Qwen-VL)."),
    click.option("--size", metavar="HxW", help="Pixels of an image; default the model's."),
)  # fmt: skip


def inside(function: Verb) -> Verb:
    """The options of steps inside the encoder."""
    return _all(_INSIDE, function)


def shortened(function: Verb) -> Verb:
    """Those that name an encoder with steps inside, where nothing is exported."""
    return _all(_SHORTENED, function)


def _all(several: Sequence[Callable[[Verb], Verb]], function: Verb) -> Verb:
    for one in reversed(several):
        function = one(function)
    return function


def shortened_request(given: dict[str, Any]) -> Request:
    """Of what `shortened` gave."""
    from edgeprune.export.request import Request, spelled_out

    own = named(given.pop("settings"))
    if given["keep"] == "auto":
        raise click.UsageError("--keep must be a number of tokens, or their share, got auto")
    return spelled_out(Request(options=own, **given))


def named(settings: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, each."""
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise click.UsageError(f"--option must be NAME=VALUE, got {wrong[0]}")
    return dict(setting.split("=", 1) for setting in settings)


image_range = click.option(
    "--image-range", type=float, nargs=2, metavar="LO HI",
    help="Values that become black and white in images of 16 bits or floats.",
)  # fmt: skip


def check_resumed(resume: bool, force: bool) -> None:
    """Raises UsageError for both of a training's --resume and --force."""
    if resume and force:
        raise click.UsageError("--resume and --force exclude each other; give one")


def verb(function: Verb) -> Verb:
    """The options that every verb has."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    function = debug(function)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(function)


def assembled(bundle: Path, option: str) -> Path:
    """The folder of an assembled model, of its bundle in it. Raises UsageError for a bundle that stands alone."""
    from edgeprune.bundle import finding

    if not finding.assembled(bundle.parent):
        raise click.UsageError(
            f"{option} goes with a folder that `edgeprune assemble` wrote, {bundle} is a bundle alone"
        )
    return bundle.parent


def pair(option: str, given: str | None) -> tuple[int, int] | None:
    """HxW, or None."""
    if given is None:
        return None
    if not (match := re.fullmatch(r"(\d+)x(\d+)", given)):
        raise click.UsageError(f"{option} must be HxW in pixels, as 512x864, got {given}")
    return int(match[1]), int(match[2])


def read_language_model(given: str | None) -> LanguageModel | None:
    """Of --language-model."""
    from edgeprune.estimate.language_model import read_language_model

    return None if given is None else read_language_model(given)


def bound_of(
    model: LanguageModel | None, manifest: Manifest, target: str | None = None, keep: int | None = None
) -> Bound | None:
    """What pruning gains in front of the language model, if one was named.

    target: name or path; None for the manifest's, of which no more than the name may be known here.
    keep: tokens that go to the language model; None for all that the bundle keeps.
    """
    from edgeprune import targets
    from edgeprune.estimate.bound import bound

    if model is None:
        return None
    if target is None and manifest.target in targets.names():
        target = manifest.target
    return bound(manifest, model, None if target is None else targets.load(target), keep=keep)
