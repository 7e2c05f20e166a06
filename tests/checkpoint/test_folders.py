"""Which files and tensors of a folder are read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint

MakeFolder = Callable[..., Path]
Split = Callable[[Path], tuple[list[str], list[str]]]
Refusal = Callable[..., str]
Tokens = Callable[..., Tensor]
Change = Callable[[Path, str, Callable[[Tensor], Tensor]], str]
INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> dict[str, list[str]]:
    """File -> tensors, by the index."""
    found: dict[str, list[str]] = {}
    for name, file in json.loads((folder / INDEX).read_text())["weight_map"].items():
        found.setdefault(file, []).append(name)
    return found


def is_vision(name: str) -> bool:
    return "vision_tower" in name or "multi_modal_projector" in name


def test_the_model_that_comes_along_needs_no_name() -> None:
    found = open_checkpoint()
    assert (found.id, found.revision) == ("edgeprune/tiny", "local")
    assert open_checkpoint("edgeprune/tiny").shards == found.shards
    assert encoders.load(found).patches == 144


def test_one_file_and_shards_give_the_same_encoder(llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens) -> None:
    single, sharded = llava_folder(tmp_path / "one"), llava_folder(tmp_path / "many", max_shard_size="60KB")
    assert (single / "model.safetensors").is_file()
    assert len(shards(sharded)) > 3
    assert torch.equal(tokens(single), tokens(sharded))
    assert (open_checkpoint(str(single)).id, open_checkpoint(str(single)).revision) == ("one", "local")


def test_shards_of_the_language_model_may_be_absent(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, split: Split
) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    whole, (_, others) = tokens(folder), split(folder)
    assert others
    for name in others:
        (folder / name).unlink()
    assert torch.equal(tokens(folder), whole)


def test_shards_of_the_language_model_are_never_opened(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, split: Split
) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    whole = tokens(folder)
    for name in split(folder)[1]:
        (folder / name).write_bytes(b"garbage")
    assert torch.equal(tokens(folder), whole)


@pytest.mark.slow
def test_a_checkpoint_shaped_like_llava_7b_without_its_language_model_loads(
    llava_7b_folder: Callable[[Path], Path], tmp_path: Path
) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_7b_folder(tmp_path / "llava"))))
    assert (encoder.patches, encoder.layer, encoder.tower.width) == (576, 23, 1024)


def test_every_missing_shard_of_the_encoder_is_named(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal, split: Split
) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    for name in split(folder)[0]:
        (folder / name).rename(tmp_path / "away")
        assert refusal(folder) == f"{folder} has no {name}; tensors of the vision encoder are in it, so add it"
        (tmp_path / "away").rename(folder / name)


def test_a_tensor_that_the_index_promises_and_no_shard_has_is_named(
    llava_folder: MakeFolder, tmp_path: Path, refusal: Refusal
) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    shard, names = next((file, names) for file, names in shards(folder).items() if all(map(is_vision, names)))
    tensors = load_file(folder / shard)
    save_file({name: tensors[name] for name in names[1:]}, folder / shard, {"format": "pt"})
    assert (
        refusal(folder) == f"{folder / shard} lacks the tensor {names[0]} that the index promises; copy the shard again"
    )


@pytest.mark.parametrize("part", ["layernorm", "linear_2", "patch_embedding"])
def test_a_tensor_that_neither_index_nor_file_has_is_named(
    llava_folder: MakeFolder, tmp_path: Path, part: str, refusal: Refusal
) -> None:
    folder = llava_folder(tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if part in name and is_vision(name))[0]
    tensors.pop(gone)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert gone.rpartition(f"{part}")[2] in refusal(folder)


def test_a_truncated_file_is_named(clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal) -> None:
    folder = clip_folder(tmp_path / "clip")
    whole = (folder / "model.safetensors").read_bytes()
    for content in (whole[:-100], whole[:10], b"", b"garbage"):
        (folder / "model.safetensors").write_bytes(content)
        assert refusal(folder).startswith(f"{folder / 'model.safetensors'} must be a safetensors file")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_named(
    clip_folder: MakeFolder, tmp_path: Path, bad: float, dtype: torch.dtype, refusal: Refusal, change_tensor: Change
) -> None:
    folder = clip_folder(tmp_path / "clip")

    def spoil(value: Tensor) -> Tensor:
        value = value.to(dtype)
        value.view(-1)[-1] = bad
        return value

    name = change_tensor(folder, "layers.2.mlp.fc1.weight", spoil)
    assert refusal(folder) == f"clip: tensor {name} has values that are not finite; the checkpoint is damaged"


def test_a_weight_that_nobody_reads_may_be_anything(
    llava_folder: MakeFolder, tmp_path: Path, tokens: Tokens, change_tensor: Change
) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    change_tensor(folder, "embed_tokens", lambda value: value * float("nan"))
    assert torch.equal(tokens(folder), whole)


def test_weights_in_half_precision_become_float32(
    clip_folder: MakeFolder, tmp_path: Path, tokens: Tokens, change_tensor: Change
) -> None:
    folder = clip_folder(tmp_path / "clip")
    change_tensor(folder, "fc1.weight", torch.Tensor.half)
    assert tokens(folder).dtype == torch.float32


def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(
    clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "clip")
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        (folder / name).write_bytes(b"\x80\x04")
    assert open_checkpoint(str(folder)), "safetensors beside it are read"
    (folder / "model.safetensors").unlink()
    assert refusal(f"{folder}/") == (
        f"{folder} has no model.safetensors, only pytorch_model.bin, which is pickled; "
        f"convert it once, if you trust it: edgeprune convert {folder}"
    )
    (folder / "pytorch_model.bin").unlink()
    assert "only pytorch_model.bin.index.json, which is pickled" in refusal(folder)


def test_a_folder_without_weights_is_refused(clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder} has no model.safetensors; give a folder as save_pretrained() writes it"


@pytest.mark.parametrize("others", [(), ("pytorch_model.bin",), ("model.safetensors",)])
def test_a_folder_without_config_is_refused(tmp_path: Path, others: tuple[str, ...], refusal: Refusal) -> None:
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == f"{tmp_path} has no config.json; give a folder as save_pretrained() writes it"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", INDEX])
def test_what_should_be_a_json_object_and_is_not_is_named(
    clip_folder: MakeFolder, tmp_path: Path, name: str, text: bytes, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / name).write_bytes(text)
    assert refusal(folder).startswith(f"{folder / name} must be ")


@pytest.mark.parametrize("index", [{}, {"weight_map": "x"}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_weight_map_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, index: object, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / INDEX).write_text(json.dumps(index))
    assert "must have a weight_map from tensors to file names" in refusal(folder)


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/etc/model.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(
    clip_folder: MakeFolder, tmp_path: Path, shard: str, refusal: Refusal
) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"embeddings.class_embedding": shard}}))
    assert f"names '{shard}', which leaves the checkpoint" in refusal(folder)


def test_an_unknown_architecture_is_named(clip_folder: MakeFolder, tmp_path: Path, refusal: Refusal) -> None:
    folder = clip_folder(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mystery"}))
    assert "clip has a model_type that no family knows: no model_type 'mystery'; have " in refusal(folder)
