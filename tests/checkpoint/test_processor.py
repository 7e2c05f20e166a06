"""The image processor of a checkpoint, in both of the files that may have it; what is no folder and no id."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import MissingPackageError, ModelError

MakeFolder = Callable[..., Path]
Refusal = Callable[..., str]


def test_both_forms_of_the_image_processor_are_read(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    old = open_checkpoint(str(folder)).processor
    assert old["crop_size"] == 48
    (folder / "preprocessor_config.json").unlink()
    new = {"processor_class": "LlavaProcessor", "image_processor": old | {"crop_size": {"height": 48, "width": 48}}}
    (folder / "processor_config.json").write_text(json.dumps(new))
    assert open_checkpoint(str(folder)).processor == new["image_processor"]


@pytest.mark.parametrize("processor", [None, {}, {"image_processor": "CLIPImageProcessor"}, {"image_processor": None}])
def test_without_an_image_processor_it_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, processor: object, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / "preprocessor_config.json").unlink()
    if processor is not None:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    message = refusal(folder)
    assert message.startswith(
        f"{folder} has no preprocessor_config.json, nor an image_processor in processor_config.json"
    )
    assert message.endswith("save its processor there as well")


# Names.


def test_a_file_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "got the file" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["nowhere", "", " ", "a/b/c", "./nowhere/x/y", "/nowhere/model", "https://huggingface.co/a/b", "a b/c", "~/model",
     "x" * 5000, "a/" + "x" * 5000, "a/--b", "../nowhere", "a\\b", "a/b@main", "a/b\n"],
    ids=lambda name: repr(name[:30]),
)  # fmt: skip
def test_what_is_neither_a_folder_nor_an_id_is_refused(name: str, refusal: Refusal) -> None:
    refusal(name)


def test_a_revision_of_something_local_is_refused(clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal) -> None:
    folder = clip_folder(tmp_path / "clip")
    assert refusal(folder, "main") == f"--revision goes with a Hugging Face id, {folder} is local; leave it out"
    with pytest.raises(ModelError, match="edgeprune/tiny is local"):
        open_checkpoint(None, "main")


def test_without_huggingface_hub_an_id_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"huggingface_hub, .*edgeprune\[export\]"):
        open_checkpoint("owner/name")
