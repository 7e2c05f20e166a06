"""A checkpoint in another layout as one that edgeprune reads: config, image processor, and the tensors of its encoder.

    pytorch_model.bin, one or shards     unpickled without running code of it
    names of a wrapper                   taken off
    the original LLaVA                   see `original_llava`

Which tensors these are is written down nowhere else: the family loads the encoder of what is to be written, and what it
reads on the way is written. So what is written does load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgeprune import bundle, encoders
from edgeprune.checkpoint import (
    PROCESSORS,
    SINGLE,
    beside,
    find,
    is_original_llava,
    read_config,
    read_processor,
)
from edgeprune.checkpoint.foreign import Foreign, stored
from edgeprune.errors import ModelError
from edgeprune.export import original_llava

__all__ = ["CONVERTED", "Converted", "convert"]

MARK = "edgeprune.convert"
CONFIG = "config.json"


def _is_converted(folder: Path) -> bool:
    """Whether `convert` wrote it, and nothing was added since."""
    try:
        with safe_open(folder / SINGLE, framework="np") as file:
            marked = MARK in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
    return (
        marked and not folder.is_symlink() and {one.name for one in folder.iterdir()} <= {CONFIG, SINGLE, *PROCESSORS}
    )


CONVERTED = bundle.Kind("a converted checkpoint", _is_converted)


@dataclass(frozen=True)
class Converted:
    folder: Path
    tensors: int
    nbytes: int
    notes: tuple[str, ...] = ()
    """what the user should know of it"""


def convert(
    model: str,
    output: Path | None = None,
    revision: str | None = None,
    vision_tower: str | None = None,
    force: bool = False,
) -> Converted:
    """Write what an export of the checkpoint reads, as it is stored, to a folder of its own.

    model: folder or Hugging Face id; output: default, beside it with -safetensors behind its name
    vision_tower: of an original LLaVA, the folder or id of its CLIP; default, the one that its config names

    Raises ModelError when there is nothing to convert, or what is there cannot be loaded when it is converted;
    BundleError when something is at the output, or it cannot be written.
    """
    files = find(model, revision)
    output = Path(beside(files.place, "-safetensors")) if output is None else output
    bundle.check_output(output, force, CONVERTED)
    config = read_config(files)
    notes: tuple[str, ...] = ()
    if is_original_llava(config):
        source, notes = original_llava.opened(files, config, vision_tower)
    elif vision_tower is not None:
        raise ModelError(
            f"--vision-tower is for checkpoints of the original LLaVA code, {files.id} is none; leave it out"
        )
    else:
        places = stored(files)
        shards = {name: one.file for name, one in places.items()}
        source = Foreign(files, config, read_processor(files), shards, places)
    _load(source)
    if all(one.file.endswith(".safetensors") and one.name == name for name, one in source.places.items()):
        raise ModelError(f"{files.place} has nothing to convert: edgeprune reads it as it is")
    tensors = {name: value.contiguous().clone() for name, value in source.values(sorted(source.read)).items()}
    with bundle.writing(output, force, CONVERTED) as folder:
        save_file(tensors, folder / SINGLE, {"format": "pt", MARK: files.id})
        (folder / CONFIG).write_text(bundle.json_text(source.stored), encoding="utf-8")
        (folder / PROCESSORS[0]).write_text(bundle.json_text(source.processor), encoding="utf-8")
    return Converted(output, len(tensors), sum(one.nbytes for one in tensors.values()), notes)


def _load(source: Foreign) -> None:
    """The encoder in every way that reads other tensors. Raises ModelError when it cannot be loaded."""
    options = getattr(encoders.family_of(source.config, source.id), "OPTIONS", ())
    given: dict[str, Any] = {}
    if "grid" in options:
        merge = source.config.get("vision_config", {}).get("spatial_merge_size", 2)
        given["grid"] = (2 * merge, 2 * merge)
    for video in _both("video" in options):
        encoders.load(source, **given, video=video)


def _both(video: bool) -> Iterable[bool]:
    return (False, True) if video else (False,)
