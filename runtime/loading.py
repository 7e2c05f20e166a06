"""Open a bundle, as the kind of it that its outputs say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, overload

from edgeprune import bundle as bundles
from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError
from edgeprune.runtime.classifier import Classifier
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.devices import AUTO
from edgeprune.runtime.runner import Runner
from edgeprune.runtime.tokens import TokenEncoder

__all__ = ["KINDS", "load", "open_bundle"]

Kind = TypeVar("Kind", bound=Runner)

KINDS: tuple[type[Runner], ...] = (TokenEncoder, Detector, Classifier)
"""A bundle is of the first kind whose outputs it has. Another kind is a file of its own, and a line here."""


@overload
def load(
    folder: str | os.PathLike[str], device: str = AUTO, threads: int | None = None, *, keep: int | None = None
) -> Any: ...
@overload
def load(
    folder: str | os.PathLike[str],
    device: str = AUTO,
    threads: int | None = None,
    *,
    kind: type[Kind],
    keep: int | None = None,
) -> Kind: ...
def load(
    folder: str | os.PathLike[str],
    device: str = AUTO,
    threads: int | None = None,
    *,
    kind: type[Runner] = Runner,
    keep: int | None = None,
) -> Any:
    """Open a bundle, with every file checked against the manifest.

    folder: of the bundle, or owner/name of one in the Hugging Face cache (`edgeprune.bundle.find`); nothing is fetched
    device: "cpu" or "cuda" for the graph in ONNX Runtime; "tensorrt" for the plan of either kind that fits this
        machine; "auto" for the best of them that is here: a plan, else cuda, else cpu. What it took is the `device` of
        what is returned, and why not a better one stands in `passed_over`
    threads: CPU threads of one run, None for ONNX Runtime's own choice; a plan has none
    kind: what it must be; a type checker knows then what comes out
    keep: tokens per image, at most the K of the bundle, whose kept sets must nest; None for K

    Returns a `TokenEncoder`, for the bundle of a detector a `Detector`, of a classifier a `Classifier`; each is a
    `Runner`.

    Raises BundleError when it is no bundle, a damaged one or of another kind, RequestError when the device cannot be
    used, MissingPackageError without onnxruntime where it is needed.
    """
    return open_bundle(bundles.load(Path(folder)), device, threads, kind, keep)


def open_bundle(
    bundle: Bundle,
    device: str = AUTO,
    threads: int | None = None,
    kind: type[Runner] = Runner,
    keep: int | None = None,
) -> Runner:
    """`load` for a bundle whose files were checked."""
    have = ", ".join(bundle.manifest.outputs)
    for one in KINDS:
        if issubclass(one, kind) and set(one.OUTPUTS) <= set(bundle.manifest.outputs):
            return one(bundle, device, threads, keep)
    known = " or ".join(", ".join(one.OUTPUTS) for one in KINDS if issubclass(one, kind))
    raise BundleError(
        f"{bundle.folder} must give {known}, it gives {have}; open it as another kind, or upgrade edgeprune"
    )
