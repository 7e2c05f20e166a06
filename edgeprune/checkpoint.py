"""A Hugging Face checkpoint, read selectively: only the tensors somebody asks for, only the files that hold them.

A folder of safetensors (one file, or shards with an index) or a model id of the hub. Shards without a wanted tensor
need not exist; from the hub they are not fetched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgeprune.errors import MissingPackageError, ModelError

__all__ = ["DEFAULT_MODEL", "Checkpoint", "open_checkpoint"]

DEFAULT_MODEL = "edgeprune/tiny"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_CONVERT = (
    "edgeprune never unpickles; convert it once, where you trust it: "
    'python -c "from transformers import AutoModel as M; M.from_pretrained({0!r}).save_pretrained({1!r})"'
)
_AS_SAVED = "give a folder as save_pretrained() writes it"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    id: str
    revision: str
    config: dict[str, Any]
    """config.json"""
    processor: dict[str, Any]
    """the image processor: preprocessor_config.json, or that part of transformers 5's processor_config.json"""
    shards: dict[str, str]
    """tensor name -> file that holds it"""
    locate: Callable[[str], Path]
    """file name -> local path, fetched first where it has to be; raises ModelError when it cannot be had"""

    def tensors(self, *prefixes: str) -> dict[str, Tensor]:
        """The tensors below the first of the prefixes that has any, by name without it, in the checkpoint's dtype.

        Raises ModelError when no prefix has any, when a shard is missing or damaged, or a value is not finite.
        """
        prefix = next((one for one in prefixes if any(name.startswith(one) for name in self.shards)), None)
        if prefix is None:
            raise ModelError(
                f"{self.id} has no tensor {prefixes[0]}*; is it the checkpoint that its config.json describes?"
            )
        wanted = sorted(name for name in self.shards if name.startswith(prefix))
        found: dict[str, Tensor] = {}
        for shard in sorted({self.shards[name] for name in wanted}):
            names = [name for name in wanted if self.shards[name] == shard]
            try:
                path = self.locate(shard)
            except _Absent as error:
                raise ModelError(f"{error}; tensors of the vision encoder are in it, so add it") from None
            found |= _read(path, names)
        for name, value in found.items():
            if value.is_floating_point() and not torch.isfinite(value.float()).all():  # float() for float8
                raise ModelError(f"{self.id}: tensor {name} has values that are not finite; the checkpoint is damaged")
        return {name.removeprefix(prefix): value for name, value in found.items()}


def open_checkpoint(model: str | None = None, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or under an id of the hub; without a name, the model that edgeprune brings.

    Raises ModelError when there is none, or it has no config, no image processor or no safetensors.
    """
    bundled = model is None or model == DEFAULT_MODEL
    if revision is not None and (bundled or os.path.isdir(model or "")):
        raise ModelError(f"--revision goes with a Hugging Face id, {model or DEFAULT_MODEL} is local; leave it out")
    if model is None or bundled:
        return _from_folder(Path(str(files("edgeprune"))) / "models" / "tiny", DEFAULT_MODEL)
    if os.path.isdir(model):
        return _from_folder(Path(model), Path(model).resolve().name)
    if os.path.exists(model):
        raise ModelError(f"--model must be a folder or a Hugging Face id, got the file {model}; give its folder")
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"--model must be a folder or a Hugging Face id (owner/name); there is no folder {model}")
    return _from_hub(model, revision)


class _Absent(ModelError):
    """A file that is not there, which may be no error: says only that."""


def _from_folder(folder: Path, id: str) -> Checkpoint:
    def locate(name: str) -> Path:
        if not (folder / name).is_file():
            raise _Absent(f"{folder} has no {name}")
        return folder / name

    here = [name for name in (_SINGLE, _INDEX, *_PICKLED) if (folder / name).is_file()]
    if here and not {_SINGLE, _INDEX} & set(here) and (folder / "config.json").is_file():
        where = str(folder).rstrip("/")
        raise ModelError(f"{folder} has no {_SINGLE}, only {here[0]}; {_CONVERT.format(where, where + '-safetensors')}")
    return _open(id, "local", _located(locate, "config.json", _AS_SAVED), locate)


def _from_hub(id: str, revision: str | None) -> Checkpoint:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise MissingPackageError("huggingface_hub", "export") from None
    pinned = revision

    def locate(name: str) -> Path:
        try:
            return Path(huggingface_hub.hf_hub_download(id, name, revision=pinned))
        except errors.LocalEntryNotFoundError:
            raise _Absent(f"{id} has no {name} in the cache, and the hub cannot be reached") from None
        except errors.EntryNotFoundError:
            raise _Absent(f"{id} has no {name} on the hub") from None
        except errors.GatedRepoError:
            reason = "it is gated; accept its terms on its page and log in with `hf auth login`"
        except errors.RepositoryNotFoundError:
            reason = "the hub has no such model, or it is private; check the id, or log in with `hf auth login`"
        except errors.RevisionNotFoundError:
            reason = f"it has no revision {revision}; check --revision"
        except (errors.HFValidationError, OSError) as error:
            lines = str(error).split("\n")
            reason = f"{lines[0].strip() or type(error).__name__}; give a local folder with --model instead"
        raise ModelError(f"cannot fetch {name} of {id}: {reason}")

    # All files come from the commit of the first, whatever is pushed meanwhile; the cache's folder is named after it.
    config = _located(locate, "config.json", "give a local folder with --model instead")
    pinned = config.parent.name
    return _open(id, pinned, config, locate)


def _open(id: str, revision: str, config: Path, locate: Callable[[str], Path]) -> Checkpoint:
    settings, processor = _json(config), _processor(locate)
    try:
        shards = _weight_map(locate(_INDEX))
    except _Absent:  # one file then; only now, because it may be large
        path = _located(locate, _SINGLE, _AS_SAVED)
        with _safetensors(path) as file:
            shards = dict.fromkeys(file.keys(), _SINGLE)
    return Checkpoint(id, revision, settings, processor, shards, locate)


def _located(locate: Callable[[str], Path], name: str, remedy: str) -> Path:
    try:
        return locate(name)
    except _Absent as error:
        raise ModelError(f"{error}; {remedy}") from None


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file, as the index says."""
    shards = _json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{index} must have a weight_map from tensors to file names; copy it again")
    for name in sorted(set(shards.values())):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(f"{index} names {name!r}, which leaves the checkpoint; do not use it")
    return shards


def _processor(locate: Callable[[str], Path]) -> dict[str, Any]:
    try:
        return _json(locate("preprocessor_config.json"))
    except _Absent as error:
        absent = error
    try:
        processor = _json(locate("processor_config.json")).get("image_processor")
    except _Absent:
        processor = None
    if isinstance(processor, dict):
        return processor
    raise ModelError(f"{absent}, nor an image_processor in processor_config.json; save its processor there as well")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must be a JSON object, got {type(value).__name__}")
    return value


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a safetensors file: {error}; copy it again") from None


def _read(path: Path, names: list[str]) -> dict[str, Tensor]:
    with _safetensors(path) as file:
        missing = sorted(set(names) - set(file.keys()))
        if missing:
            raise ModelError(f"{path} lacks the tensor {missing[0]} that the index promises; copy the shard again")
        return {name: file.get_tensor(name) for name in names}
