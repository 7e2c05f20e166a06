"""A checkpoint in another layout, behind the face of one of ours: pickled, or under names of a wrapper.

Its tensors go by the names that they have without the wrapper. It remembers which of them were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from edgeprune.checkpoint import (
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    SINGLE,
    Checkpoint,
    printable,
    read_tensors,
    weight_map,
    weights,
)
from edgeprune.checkpoint._files import Absent, Files
from edgeprune.checkpoint._layout import unwrapped
from edgeprune.checkpoint._pickled import unpickled
from edgeprune.errors import ModelError

__all__ = ["Foreign", "Stored", "stored"]


@dataclass(frozen=True)
class Stored:
    """Where a tensor stands."""

    files: Files
    file: str
    name: str


@dataclass(frozen=True)
class Foreign(Checkpoint):
    """`shards` has the names that its tensors are to have."""

    places: Mapping[str, Stored] = field(default_factory=dict)
    """these names -> where they stand under their own"""
    read: set[str] = field(default_factory=set)
    unpickled: dict[Path, dict[str, Tensor]] = field(default_factory=dict)

    def values(self, names: list[str]) -> dict[str, Tensor]:
        self.read.update(names)
        values: dict[str, Tensor] = {}
        stands = {name: (self.places[name].files, self.places[name].file) for name in names}
        for files, file in dict.fromkeys(stands.values()):
            try:
                path = files.locate(file)
            except Absent as error:
                raise ModelError(f"{error}; tensors of the vision encoder are in it, so add it") from None
            here = {name: self.places[name].name for name in names if stands[name] == (files, file)}
            tensors = self._tensors(path, [*here.values()])
            values |= {name: tensors[own] for name, own in here.items()}
        return {name: values[name] for name in names}

    def _tensors(self, path: Path, names: list[str]) -> dict[str, Tensor]:
        if path.suffix == ".safetensors":
            return read_tensors(path, names)
        if path not in self.unpickled:
            self.unpickled[path] = unpickled(path)
        tensors = self.unpickled[path]
        if absent := sorted(set(names) - tensors.keys()):
            raise ModelError(f"{path} lacks the tensor {absent[0]} that the index promises; copy the shard again")
        return {name: tensors[name] for name in names}


def stored(files: Files) -> dict[str, Stored]:
    """Every tensor of a checkpoint, safetensors or pickled, by its name without those of wrappers.

    Raises ModelError when there are no weights, or two tensors would have one name.
    """
    by_name: dict[str, Stored] = {}
    for name, file in _names(files).items():
        plain = unwrapped(name)
        if plain in by_name:
            raise ModelError(
                f"{files.id}: without names of wrappers, {name} and {by_name[plain].name} are both {plain}"
            )
        by_name[plain] = Stored(files, file, name)
    return by_name


def _names(files: Files) -> Mapping[str, str]:
    """Tensor -> file; as far as they are to be had, safetensors."""
    for index, single in ((INDEX, SINGLE), (PICKLED_INDEX, PICKLED)):
        try:
            return weight_map(files.locate(index))
        except Absent:
            pass
        try:
            path = files.locate(single)
        except Absent:
            continue
        return printable(dict.fromkeys(unpickled(path), single), path) if single == PICKLED else weights(files)
    raise ModelError(f"{files.place} has neither {SINGLE} nor {PICKLED}; give a folder as save_pretrained() writes it")
