"""What a bundle may be called by.

    out                                  its folder
    out/encoder.onnx                     a file in it
    model                                a folder that was assembled of one, which lies in it as encoder/
    owner/name, owner/name@revision      a repository of Hugging Face that lies in the cache, as `hf download` leaves it

What is there on the disk comes first. Nothing is fetched: a device runs what somebody put on it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from edgeprune.bundle.manifest import MANIFEST
from edgeprune.errors import BundleError

__all__ = ["HUB_ID", "assembled", "find"]

ENCODER = "encoder"
"""folder of the bundle in an assembled model"""
LONGEST = 1 << 20
"""bytes; far more than the manifest of one has"""
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
"""owner/name, as a regular expression"""


def find(name: str | os.PathLike[str]) -> Path:
    """The folder that is meant; whether it holds a bundle shows when it is read.

    Raises BundleError when the name is neither that of something here nor of a repository in the cache, or of an
    assembled model that has no bundle in it.
    """
    given, path = os.fspath(name), Path(name)
    if os.path.isfile(path) and os.path.isfile(path.parent / MANIFEST):
        return path.parent
    if os.path.isfile(path / ENCODER / MANIFEST) and assembled(path):
        return path / ENCODER
    if assembled(path):
        raise BundleError(
            f"{path} is an assembled model without a bundle in it, as for a browser; name the bundle that it is made of"
        )
    match = re.fullmatch(rf"({HUB_ID})(?:@([\w./-]+))?", given)
    if match is None or os.path.lexists(path) or os.path.isdir(path.parent):  # in a folder that is there: a typo
        return path
    return _cached(given, match[1], match[2])


def assembled(folder: Path) -> bool:
    """Whether an assembled model lies there, damaged or not (`edgeprune.runtime.generate`)."""
    if not os.path.isfile(folder / MANIFEST):  # a pipe would be waited for
        return False
    try:
        with (folder / MANIFEST).open("rb") as file:
            given = json.loads(file.read(LONGEST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and given.get("kind") == "model"


def _cached(given: str, id: str, revision: str | None) -> Path:
    fetch = f"hf download {id}" + (f" --revision {revision}" if revision else "")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BundleError(
            f"{given} is no folder, and the Hugging Face cache is found by huggingface_hub, which is not installed; "
            "make the bundle with `edgeprune export`, or pip install 'edgeprune[hub]'"
        ) from None
    try:
        return Path(snapshot_download(id, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # it is not there, or no id of the hub can be spelt like this
        raise BundleError(
            f"{given} is neither a folder nor a bundle in the Hugging Face cache; make one with `edgeprune export`, "
            f"or fetch it with `{fetch}`"
        ) from None
