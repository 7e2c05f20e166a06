"""A Hugging Face checkpoint, read selectively: only the tensors somebody asks for, only the files that hold them.

A folder of safetensors (one file, or shards with an index) or a model id of the hub. Shards without a wanted tensor
need not exist; from the hub they are not fetched. What is in another layout, or quantised, is refused with the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgeprune.checkpoint import _layout
from edgeprune.checkpoint._config import architecture, described
from edgeprune.checkpoint._files import (
    AS_SAVED,
    DEFAULT_MODEL,
    PROCESSORS,
    Absent,
    Files,
    find,
    read_config,
    read_json,
    read_processor,
)
from edgeprune.checkpoint._layout import beside, is_original_llava, not_read
from edgeprune.checkpoint._numbers import check_plain
from edgeprune.errors import ModelError

__all__ = [
    "DEFAULT_MODEL",
    "INDEX",
    "PICKLED",
    "PICKLED_INDEX",
    "PROCESSORS",
    "SINGLE",
    "Checkpoint",
    "Files",
    "architecture",
    "beside",
    "find",
    "is_original_llava",
    "not_read",
    "open_checkpoint",
    "printable",
    "read_config",
    "read_processor",
    "read_tensors",
    "weight_map",
    "weights",
]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class Checkpoint:
    files: Files
    stored: dict[str, Any]
    """config.json"""
    processor: dict[str, Any]
    """the image processor: preprocessor_config.json, or that part of transformers 5's processor_config.json"""
    shards: dict[str, str]
    """tensor name -> file that holds it"""

    @property
    def id(self) -> str:
        return self.files.id

    @property
    def revision(self) -> str:
        return self.files.revision

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json without what says how to load it."""
        return described(self.stored)

    def locate(self, name: str) -> Path:
        return self.files.locate(name)

    def tensors(self, *prefixes: str) -> dict[str, Tensor]:
        """The tensors below the first of the prefixes that has any, by name without it, in the checkpoint's dtype.

        Raises ModelError when no prefix has any, or another has some, too; when a shard is missing or damaged; when a
        value is no plain float, or not finite; and for tensors of adapters and of wrappers.
        """
        prefix = next((one for one in prefixes if any(name.startswith(one) for name in self.shards)), None)
        if prefix is None:
            _layout.check_names(self.shards, self.files.place, self.id)
            raise ModelError(
                f"{self.id} has no tensor {prefixes[0]}*; is it the checkpoint that its config.json describes?"
            )
        names = [name for name in sorted(self.shards) if name.rpartition(".")[2] not in _layout.HARMLESS]
        wanted = [name for name in names if name.startswith(prefix)]
        _layout.check_names(wanted, self.files.place, self.id)
        others = tuple(one for one in prefixes if one)
        if others_too := [name for name in names if name.startswith(others) and not name.startswith(prefix)]:
            raise not_read(self.id, others_too[0], f"what reads {prefix}*")
        values = self.values(wanted)
        check_plain(values, self.stored, self.files.place, self.id)
        return {name.removeprefix(prefix): value for name, value in values.items()}

    def values(self, names: list[str]) -> dict[str, Tensor]:
        """These tensors as they are stored. Raises ModelError when a shard is missing or damaged."""
        tensors: dict[str, Tensor] = {}
        for shard in sorted({self.shards[name] for name in names}):
            try:
                path = self.locate(shard)
            except Absent as error:
                raise ModelError(f"{error}; tensors of the vision encoder are in it, so add it") from None
            tensors |= read_tensors(path, [name for name in names if self.shards[name] == shard])
        return tensors


def open_checkpoint(model: str | None = None, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or under an id of the hub; without a name, the model that edgeprune brings.

    Raises ModelError when there is none, it has no config, image processor or safetensors, or another layout.
    """
    files = find(model, revision)
    stored = read_config(files)
    _layout.check_original(stored, files.place, files.id)
    return Checkpoint(files, stored, read_processor(files), weights(files))


def weights(files: Files) -> dict[str, str]:
    """Tensor name -> file that holds it."""
    try:
        return weight_map(files.locate(INDEX))
    except Absent:  # one file then; only now, because it may be large
        pass
    try:
        path = files.locate(SINGLE)
    except Absent as error:
        raise ModelError(f"{error}{_instead(files)}") from None
    with _safetensors(path) as file:
        return printable(dict.fromkeys(file.keys(), SINGLE), path)


def _instead(files: Files) -> str:
    convert = _layout.convertible(files.place)
    if files.revision != "local":  # whether it has any would be known only once it is fetched
        return f"; if it has a {PICKLED}, convert it once with {convert}"
    for name in (PICKLED, PICKLED_INDEX):
        if (Path(files.place) / name).is_file():
            return f", only {name}, which is pickled; convert it once, if you trust it: {convert.strip('`')}"
    return f"; {AS_SAVED}"


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file, as the index says."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{index} must have a weight_map from tensors to file names; copy it again")
    for name in sorted(set(shards.values())):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(f"{index} names {name!r}, which leaves the checkpoint; do not use it")
    return printable(shards, index)


def printable(names: Mapping[str, str], path: Path) -> dict[str, str]:
    """The same. Raises ModelError for a name that a terminal would not show as it is."""
    for name in names:
        if not name.isprintable():
            raise ModelError(f"{path} has a tensor of the name {name!r:.80}; is the file damaged?")
    return {**names}


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a safetensors file: {error}; copy it again") from None


def read_tensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Raises ModelError when the file is damaged, or lacks one of the tensors."""
    with _safetensors(path) as file:
        missing = sorted(set(names) - set(file.keys()))
        if missing:
            raise ModelError(f"{path} lacks the tensor {missing[0]} that the index promises; copy the shard again")
        try:
            return {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:  # dtypes that torch does not have
            raise ModelError(f"{path} cannot be read: {error}") from None
