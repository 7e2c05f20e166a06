"""What is asked for when a model is assembled, and what can be refused before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle, Kind, check_output
from edgeprune.bundle.manifest import parsed
from edgeprune.bundle.reading import read_manifest
from edgeprune.errors import BundleError, RequestError
from edgeprune.export.assemble.library import library_files
from edgeprune.runtime.generate.folder import KIND

__all__ = ["ENGINES", "MODEL", "PRECISIONS", "Request", "check", "check_asked", "output_of"]

ENGINES = ("genai", "onnxruntime", "transformersjs")
PRECISIONS = ("float32", "float16", "int4")


@dataclass(frozen=True)
class Request:
    bundle: Path
    """its folder, or a name that `edgeprune.bundle.find` knows"""
    model: str | None = None
    """folder or Hugging Face id of the checkpoint that the bundle was exported from; None for the embedded one"""
    revision: str | None = None
    engine: str = "genai"
    decoder_precision: str = "float32"
    output: Path | None = None
    """None for <bundle>-<engine> in the working folder"""
    questions: Path | None = None
    """JSON lines with image (a file beside it) and question, which torch answers; None for those of the model, or
    drawn scenes"""
    answers: bool = True
    """whether torch answers them: this takes the whole model in memory"""
    force: bool = False
    node_modules: Path | None = None
    """for transformersjs: where the page's copy of it is taken from; None for none"""


def output_of(request: Request) -> Path:
    return request.output or Path(f"{request.bundle.resolve().name}-{request.engine}")


def check(request: Request) -> Bundle:
    """The bundle. Raises RequestError (and its kinds) for what cannot be met, whatever the model says."""
    check_asked(request)
    bundle = bundles.load(request.bundle)
    manifest = bundle.manifest
    if "tokens" not in manifest.outputs:
        have = ", ".join(manifest.outputs)
        raise BundleError(
            f"{request.bundle} must give tokens for a language model, it gives {have}; export another encoder"
        )
    if manifest.dynamic_batch:
        raise BundleError(
            f"{request.bundle} must have a fixed batch, it was exported with --dynamic-batch; leave that out"
        )
    if manifest.tiles > 1 and not manifest.preprocessing.get("tiles"):
        raise BundleError(
            f"{request.bundle} must take one image at a time, or tiles of one; it was exported with --tiles "
            f"{manifest.tiles}, which are images of their own here; leave that out"
        )
    return bundle


def check_asked(request: Request) -> None:
    """Raises RequestError (and its kinds) for what cannot be met, whatever the bundle is; it need not be there."""
    if request.engine not in ENGINES:
        raise RequestError(f"--engine must be one of {', '.join(ENGINES)}, got {request.engine!r}")
    if request.decoder_precision not in PRECISIONS:
        raise RequestError(
            f"--decoder-precision must be one of {', '.join(PRECISIONS)}, got {request.decoder_precision!r}"
        )
    if request.questions is not None and not request.questions.is_file():
        raise RequestError(f"--questions must be a file of JSON lines, there is none at {request.questions}")
    if request.node_modules is not None:
        if request.engine != "transformersjs":
            raise RequestError(f"--node-modules goes with --engine transformersjs, got {request.engine}; leave it out")
        library_files(request.node_modules)
    check_output(output_of(request), request.force, MODEL)


def _is_model(folder: Path) -> bool:
    """Whether it was assembled here, damaged or not."""
    try:
        return not folder.is_symlink() and parsed(read_manifest(folder)).get("kind") == KIND
    except (OSError, ValueError, BundleError):
        return False


MODEL = Kind("an assembled model", _is_model)
