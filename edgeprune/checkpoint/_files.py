"""Where the files of a checkpoint are, in a folder or on the hub, and the small ones among them."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgeprune.checkpoint import _layout
from edgeprune.checkpoint._config import check_numbers
from edgeprune.errors import MissingPackageError, ModelError

__all__ = [
    "AS_SAVED",
    "DEFAULT_MODEL",
    "PROCESSORS",
    "Absent",
    "Files",
    "find",
    "read_config",
    "read_json",
    "read_processor",
]

DEFAULT_MODEL = "edgeprune/tiny"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
AS_SAVED = "give a folder as save_pretrained() writes it"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Absent(ModelError):
    """A file that is not there, which may be no error: says only that."""


@dataclass(frozen=True)
class Files:
    """Where the files of a checkpoint are."""

    id: str
    revision: str
    place: str
    """the folder, or the id on the hub, to be named in advice"""
    locate: Callable[[str], Path]
    """file name -> local path, fetched first where it has to be; raises Absent, ModelError when it cannot be had"""


def find(model: str | None = None, revision: str | None = None) -> Files:
    """Where the files are. Raises ModelError as open_checkpoint does when there are none, or an adapter."""
    bundled = model is None or model == DEFAULT_MODEL
    if revision is not None and (bundled or os.path.isdir(model or "")):
        raise ModelError(f"--revision goes with a Hugging Face id, {model or DEFAULT_MODEL} is local; leave it out")
    if model is None or bundled:
        folder = Path(str(resources.files("edgeprune"))) / "models" / "tiny"
        return _from_folder(folder, DEFAULT_MODEL)
    if os.path.isdir(model):
        return _from_folder(Path(model), Path(model).resolve().name)
    if os.path.exists(model):
        raise ModelError(f"--model must be a folder or a Hugging Face id, got the file {model}; give its folder")
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"--model must be a folder or a Hugging Face id (owner/name); there is no folder {model}")
    return _from_hub(model, revision)


def _from_folder(folder: Path, id: str) -> Files:
    def locate(name: str) -> Path:
        if not (folder / name).is_file():
            raise Absent(f"{folder} has no {name}")
        return folder / name

    _check_adapter(str(folder), locate)
    try:
        locate("config.json")
    except Absent as error:
        raise ModelError(f"{error}; {AS_SAVED}") from None
    return Files(id, "local", str(folder), locate)


def _from_hub(id: str, revision: str | None) -> Files:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise MissingPackageError("huggingface_hub", "export") from None
    pinned = revision

    @functools.cache
    def away() -> bool:
        """Whether the hub cannot be reached: asked once and without retries, which last half a minute for each file."""
        url = huggingface_hub.hf_hub_url(id, "config.json", revision=revision)
        try:
            huggingface_hub.get_hf_file_metadata(url)
        except (errors.HfHubHTTPError, errors.HFValidationError):
            return False  # it says what is wrong
        except Exception:  # those of what the package speaks HTTP with, which differ from release to release
            return True
        return False

    def locate(name: str) -> Path:
        try:
            held = isinstance(huggingface_hub.try_to_load_from_cache(id, name, revision=pinned), str)
            alone = not held and away()
            return Path(huggingface_hub.hf_hub_download(id, name, revision=pinned, local_files_only=alone))
        except errors.LocalEntryNotFoundError:
            raise Absent(f"{id} has no {name} in the cache, and the hub cannot be reached") from None
        except errors.EntryNotFoundError:
            raise Absent(f"{id} has no {name} on the hub") from None
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
    try:
        pinned = locate("config.json").parent.name
    except Absent as error:
        _check_adapter(id, locate)
        raise ModelError(f"{error}; give a local folder with --model instead") from None
    _check_adapter(id, locate)
    return Files(id, pinned, id, locate)


def _check_adapter(place: str, locate: Callable[[str], Path]) -> None:
    """Raises ModelError when an adapter is all there is, or stands beside a model, which transformers would change."""
    try:
        settings = read_json(locate("adapter_config.json"))
    except Absent:
        return
    base = settings.get("base_model_name_or_path")
    local = Path(base) / "config.json" if isinstance(base, str) else Path()
    raise _layout.adapter(settings, read_json(local) if local.is_file() else None, place)


def read_config(files: Files) -> dict[str, Any]:
    """config.json. Raises ModelError when it is none, or a number in it is none of a model."""
    config = read_json(files.locate("config.json"))
    check_numbers(config, files.id)
    return config


def read_processor(files: Files) -> dict[str, Any]:
    """The image processor, as transformers 5 finds it: what is nested in processor_config.json first, which most older
    files lack. Raises ModelError when there is none.
    """
    try:
        processor = read_json(files.locate(PROCESSORS[1])).get("image_processor")
    except Absent:
        processor = None
    if isinstance(processor, dict):
        return processor
    try:
        return read_json(files.locate(PROCESSORS[0]))
    except Absent as error:
        raise ModelError(
            f"{error}, nor an image_processor in {PROCESSORS[1]}; save its processor there as well"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError when the file is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must be a JSON object, got {type(value).__name__}")
    return value
