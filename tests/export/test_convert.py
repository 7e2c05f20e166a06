"""`convert`: what an export reads of a checkpoint, in the layout that it reads; nothing in a pickle is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import BundleError, ModelError
from edgeprune.export.convert import convert
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.covering import always

MakeFolder = Callable[..., Path]
PIXELS = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)


def computed(folder: Path, **options: Any) -> list[Tensor]:
    """Everything that the encoder gives for PIXELS, unpruned."""
    encoder = encoders.load(open_checkpoint(str(folder)), **options)
    with torch.inference_mode():
        return [*PrunedEncoder(encoder, none.Method(encoder.patches)).eval()(PIXELS)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def pickled(folder: Path, shards: int = 1, **options: Any) -> Path:
    """The folder with its tensors as torch.save() writes them, in place of safetensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **options)
        return folder
    files = {name: f"pytorch_model-{at % shards + 1:05}.bin" for at, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {*file.keys()}


def refused(model: Path, error: type[Exception] = ModelError, **options: Any) -> str:
    """The message, of one line; nothing was written."""
    before = sorted(model.parent.rglob("*"))
    with pytest.raises(error) as said:
        convert(str(model), **options)
    assert len(str(said.value).splitlines()) == 1
    assert sorted(model.parent.rglob("*")) == before
    return str(said.value)


def test_case_a_pickled_yolos_keeps_its_heads(model_folder: MakeFolder, tmp_path: Path) -> None:
    from transformers import YolosForObjectDetection

    processor = {"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 48, "longest_edge": 96}}
    sizes = {"image_size": [48, 48], "num_detection_tokens": 5, "num_labels": 3}
    folder = model_folder(tmp_path / "yolos", "YolosForObjectDetection", processor, **sizes)
    own: Any = YolosForObjectDetection.from_pretrained(folder)
    with torch.inference_mode():
        wanted = own.eval()(pixel_values=PIXELS)
    done = convert(str(pickled(folder)))
    assert done.folder == tmp_path / "yolos-safetensors"
    assert sorted(os.listdir(done.folder)) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert json.loads((done.folder / "preprocessor_config.json").read_text()) == processor
    logits, boxes = computed(done.folder)[:2]
    torch.testing.assert_close(logits, wanted.logits)
    torch.testing.assert_close(boxes, wanted.pred_boxes)


@pytest.mark.parametrize("shards", always([1, 3], 3))
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_what_is_exported_of_a_pickled_llava_is_written_and_no_more(
    llava_folder: MakeFolder, tmp_path: Path, shards: int, new: bool
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole, every = computed(folder), names(folder)
    done = convert(str(pickled(folder, shards, **({} if shards > 1 else {"_use_new_zipfile_serialization": new}))))
    assert same(computed(done.folder), whole)
    encoder = {name for name in every if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert (names(done.folder), done.tensors) == (encoder, len(encoder))
    assert encoder < every
    assert done.nbytes == sum(one.nbytes for one in load_file(done.folder / "model.safetensors").values())


@pytest.mark.slow
def test_shards_of_the_language_model_may_be_absent(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole, tensors = computed(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: "b.bin" if "language" in name or "lm_head" in name else "a.bin" for name in tensors}
    torch.save({name: value for name, value in tensors.items() if files[name] == "a.bin"}, folder / "a.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    assert same(computed(convert(str(folder)).folder), whole)
    (folder / "a.bin").unlink()
    assert "has no a.bin; tensors of the vision encoder are in it, so add it" in refused(folder, output=tmp_path / "b")


@pytest.mark.parametrize("key", always(["state_dict", "model", "module"], "state_dict"))
def test_the_model_of_a_training_is_found_in_what_it_saved(clip_folder: MakeFolder, tmp_path: Path, key: str) -> None:
    folder = clip_folder(tmp_path / "clip")
    whole, tensors = computed(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    saved = {key: {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3, "lr": 0.1}
    torch.save(saved, folder / "pytorch_model.bin")
    assert same(computed(convert(str(folder)).folder), whole)


@pytest.mark.parametrize(
    "prefix",
    always(["module.", "_orig_mod.", "_orig_mod.module.", "module._fsdp_wrapped_module."], "_orig_mod.module."),
)
def test_names_of_a_wrapper_are_taken_off(llava_folder: MakeFolder, tmp_path: Path, prefix: str) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole, tensors = computed(folder), load_file(folder / "model.safetensors")
    save_file({f"{prefix}{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    done = convert(str(folder))
    assert same(computed(done.folder), whole)
    assert names(done.folder) < tensors.keys()


def test_a_model_of_the_hub_is_converted_into_the_working_folder(
    clip_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--owner--name"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    folder = clip_folder(tmp_path / "clip")
    whole = computed(folder)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    pickled(folder).rename(repository / "snapshots" / commit)
    with pytest.raises(ModelError, match="convert it once with `edgeprune convert owner/name`"):
        open_checkpoint("owner/name")
    done = convert("owner/name")
    assert done.folder == Path("name-safetensors")
    assert same(computed(done.folder), whole)


def test_two_tensors_do_not_get_one_name(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    save_file(tensors | {f"module.{name}": tensors[name] + 1}, folder / "model.safetensors")
    assert f"without names of wrappers, module.{name} and {name} are both {name}" in refused(folder)


@pytest.mark.slow
def test_both_towers_of_a_video_llava_are_kept(model_folder: MakeFolder, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = {**sizes, "model_type": "clip_vision_model", "image_size": 48, "patch_size": 8}
    text = {**sizes, "model_type": "llama", "hidden_size": 48, "num_key_value_heads": 2, "vocab_size": 64}
    folder = model_folder(
        tmp_path / "video", "VideoLlavaForConditionalGeneration",
        vision_config=vision, text_config=text, image_token_index=3, video_token_index=4,
    )  # fmt: skip
    wholes = [computed(folder, video=video) for video in (False, True)]
    assert not same(*wholes)
    done = convert(str(pickled(folder)))
    assert all(same(computed(done.folder, video=video), wholes[video]) for video in (False, True))


def test_an_encoder_of_any_image_size_is_converted(model_folder: MakeFolder, tmp_path: Path) -> None:
    sizes = {"image_size": 48, "num_patches": 25, "num_hidden_layers": 2}
    folder = model_folder(tmp_path / "siglip2", "Siglip2VisionModel", **sizes)
    whole = computed(folder, grid=(6, 6))
    assert same(computed(convert(str(pickled(folder))).folder, grid=(6, 6)), whole)


class Attack:
    """What a pickle can do: call anything when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_refused_and_not_run(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = pickled(clip_folder(tmp_path / "clip"))
    torch.save({"weight": torch.ones(2), "more": Attack(tmp_path / "was run")}, folder / "pytorch_model.bin")
    message = refused(folder)
    start = f"{folder / 'pytorch_model.bin'} must hold nothing but tensors, and reading it would run "
    assert (message.startswith(start), message.endswith(".mkdir; it was not read")) == (True, True)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x02}q\x00."], ids=repr)
def test_a_damaged_pickle_is_refused(clip_folder: MakeFolder, tmp_path: Path, content: bytes) -> None:
    folder = pickled(clip_folder(tmp_path / "clip"))
    (folder / "pytorch_model.bin").write_bytes(content)
    assert refused(folder).startswith(f"{folder / 'pytorch_model.bin'} must be ")
    whole = (pickled(clip_folder(tmp_path / "other")) / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert refused(folder).startswith(f"{folder / 'pytorch_model.bin'} must be what torch.save() writes")


def test_what_could_not_be_loaded_is_not_written(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "encoder.layers.0.mlp.fc1.weight"
    torch.save(tensors | {name: tensors[name].to(torch.int8)}, folder / "pytorch_model.bin")
    assert "weights must be plain floats, and encoder.layers.0.mlp.fc1.weight is int8" in refused(folder)
    torch.save({one: value for one, value in tensors.items() if one != name}, folder / "pytorch_model.bin")
    assert "lacks the tensor encoder.layers.0.mlp.fc1.weight" in refused(folder)


def test_what_needs_no_conversion_is_left_as_it_is(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    assert refused(folder) == f"{folder} has nothing to convert: edgeprune reads it as it is"
    assert refused(folder, vision_tower="x").startswith("--vision-tower is for checkpoints of the original LLaVA code")


def test_force_replaces_what_convert_wrote_and_nothing_else(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder, output = pickled(clip_folder(tmp_path / "clip")), tmp_path / "out"
    convert(str(folder), output)
    assert refused(folder, BundleError, output=output).startswith(f"{output} exists; choose another --output")
    before = (output / "model.safetensors").stat().st_ino
    convert(str(folder), output, force=True)
    assert (output / "model.safetensors").stat().st_ino != before
    (output / "notes.txt").write_text("mine")
    for other in (output, clip_folder(tmp_path / "model"), folder):
        assert f"{other} exists and is not a converted checkpoint, so --force does not replace it" in refused(
            folder, BundleError, output=other, force=True
        )
