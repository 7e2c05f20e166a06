"""Which files and tensors of a checkpoint are read, from a folder and from the hub's cache, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.errors import MissingPackageError, ModelError

MakeFolder = Callable[..., Path]
INDEX = "model.safetensors.index.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIXELS = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is offline and its cache empty, whatever the environment says."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def refusal(model: str | Path, revision: str | None = None, load: bool = True) -> str:
    """The message with which a checkpoint is refused, which must be one line."""
    with pytest.raises(ModelError) as refused:
        encoders.load(open_checkpoint(str(model), revision)) if load else open_checkpoint(str(model), revision)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


def tokens(model: Path | Checkpoint) -> Tensor:
    """What the encoder of a checkpoint computes for PIXELS."""
    encoder = encoders.load(model if isinstance(model, Checkpoint) else open_checkpoint(str(model)))
    with torch.inference_mode():
        hidden = encoder.tower.module(PIXELS, output_hidden_states=True).hidden_states[encoder.layer]
        found: Tensor = encoder.projector(hidden[:, encoder.tower.prefix :])
    return found


def shards(folder: Path) -> dict[str, list[str]]:
    """File -> tensors, by the index."""
    found: dict[str, list[str]] = {}
    for name, file in json.loads((folder / INDEX).read_text())["weight_map"].items():
        found.setdefault(file, []).append(name)
    return found


def is_vision(name: str) -> bool:
    return "vision_tower" in name or "multi_modal_projector" in name


def split(folder: Path) -> tuple[list[str], list[str]]:
    """The shards that hold tensors of the encoder, and the others."""
    found = shards(folder)
    wanted = [file for file, names in found.items() if any(map(is_vision, names))]
    return sorted(wanted), sorted(set(found) - set(wanted))


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): value for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def change_tensor(folder: Path, part: str, change: Callable[[Tensor], Tensor]) -> str:
    """Change the first tensor whose name has that part; returns its name."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if part in name)
    save_file(tensors | {name: change(tensors[name])}, folder / "model.safetensors", {"format": "pt"})
    return name


# Folders.


def test_the_model_that_comes_along_needs_no_name() -> None:
    found = open_checkpoint()
    assert (found.id, found.revision) == ("edgeprune/tiny", "local")
    assert open_checkpoint("edgeprune/tiny").shards == found.shards
    assert encoders.load(found).patches == 144


def test_one_file_and_shards_give_the_same_encoder(llava_folder: MakeFolder, tmp_path: Path) -> None:
    single, sharded = llava_folder(tmp_path / "one"), llava_folder(tmp_path / "many", max_shard_size="60KB")
    assert (single / "model.safetensors").is_file()
    assert len(shards(sharded)) > 3
    assert torch.equal(tokens(single), tokens(sharded))
    assert (open_checkpoint(str(single)).id, open_checkpoint(str(single)).revision) == ("one", "local")


def test_shards_of_the_language_model_may_be_absent(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    whole, (_, others) = tokens(folder), split(folder)
    assert others
    for name in others:
        (folder / name).unlink()
    assert torch.equal(tokens(folder), whole)


def test_shards_of_the_language_model_are_never_opened(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    whole = tokens(folder)
    for name in split(folder)[1]:
        (folder / name).write_bytes(b"garbage")
    assert torch.equal(tokens(folder), whole)


def test_a_checkpoint_shaped_like_llava_7b_without_its_language_model_loads(
    llava_7b_folder: Callable[[Path], Path], tmp_path: Path
) -> None:
    encoder = encoders.load(open_checkpoint(str(llava_7b_folder(tmp_path / "llava"))))
    assert (encoder.patches, encoder.layer, encoder.tower.width) == (576, 23, 1024)


def test_every_missing_shard_of_the_encoder_is_named(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    for name in split(folder)[0]:
        (folder / name).rename(tmp_path / "away")
        assert refusal(folder) == f"{folder} has no {name}; tensors of the vision encoder are in it, so add it"
        (tmp_path / "away").rename(folder / name)


def test_a_tensor_that_the_index_promises_and_no_shard_has_is_named(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "many", max_shard_size="60KB")
    shard, names = next((file, names) for file, names in shards(folder).items() if all(map(is_vision, names)))
    tensors = load_file(folder / shard)
    save_file({name: tensors[name] for name in names[1:]}, folder / shard, {"format": "pt"})
    assert (
        refusal(folder) == f"{folder / shard} lacks the tensor {names[0]} that the index promises; copy the shard again"
    )


@pytest.mark.parametrize("part", ["layernorm", "linear_2", "patch_embedding"])
def test_a_tensor_that_neither_index_nor_file_has_is_named(llava_folder: MakeFolder, tmp_path: Path, part: str) -> None:
    folder = llava_folder(tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if part in name and is_vision(name))[0]
    tensors.pop(gone)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert gone.rpartition(f"{part}")[2] in refusal(folder)


def test_a_truncated_file_is_named(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    whole = (folder / "model.safetensors").read_bytes()
    for content in (whole[:-100], whole[:10], b"", b"garbage"):
        (folder / "model.safetensors").write_bytes(content)
        assert refusal(folder).startswith(f"{folder / 'model.safetensors'} must be a safetensors file")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_named(
    clip_folder: MakeFolder, tmp_path: Path, bad: float, dtype: torch.dtype
) -> None:
    folder = clip_folder(tmp_path / "clip")

    def spoil(value: Tensor) -> Tensor:
        value = value.to(dtype)
        value.view(-1)[-1] = bad
        return value

    name = change_tensor(folder, "layers.2.mlp.fc1.weight", spoil)
    assert refusal(folder) == f"clip: tensor {name} has values that are not finite; the checkpoint is damaged"


def test_a_weight_that_nobody_reads_may_be_anything(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder = llava_folder(tmp_path / "llava")
    whole = tokens(folder)
    change_tensor(folder, "embed_tokens", lambda value: value * float("nan"))
    assert torch.equal(tokens(folder), whole)


def test_weights_in_half_precision_become_float32(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    change_tensor(folder, "fc1.weight", torch.Tensor.half)
    assert tokens(folder).dtype == torch.float32


def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        (folder / name).write_bytes(b"\x80\x04")
    assert open_checkpoint(str(folder)), "safetensors beside it are read"
    (folder / "model.safetensors").unlink()
    message = refusal(f"{folder}/", load=False)
    assert "never unpickles" in message
    assert f"from_pretrained('{folder}').save_pretrained('{folder}-safetensors')" in message


def test_a_folder_without_weights_is_refused(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder} has no model.safetensors; give a folder as save_pretrained() writes it"


@pytest.mark.parametrize("others", [(), ("pytorch_model.bin",), ("model.safetensors",)])
def test_a_folder_without_config_is_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == f"{tmp_path} has no config.json; give a folder as save_pretrained() writes it"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", INDEX])
def test_what_should_be_a_json_object_and_is_not_is_named(
    clip_folder: MakeFolder, tmp_path: Path, name: str, text: bytes
) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / name).write_bytes(text)
    assert refusal(folder).startswith(f"{folder / name} must be ")


@pytest.mark.parametrize("index", [{}, {"weight_map": "x"}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_weight_map_is_refused(clip_folder: MakeFolder, tmp_path: Path, index: object) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / INDEX).write_text(json.dumps(index))
    assert "must have a weight_map from tensors to file names" in refusal(folder)


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/etc/model.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(clip_folder: MakeFolder, tmp_path: Path, shard: str) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"embeddings.class_embedding": shard}}))
    assert f"names '{shard}', which leaves the checkpoint" in refusal(folder)


def test_an_unknown_architecture_is_named(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mystery"}))
    assert "clip has a model_type that no family knows: no model_type 'mystery'; have " in refusal(folder)


# The image processor.


def test_both_forms_of_the_image_processor_are_read(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    old = open_checkpoint(str(folder)).processor
    assert old["crop_size"] == 48
    (folder / "preprocessor_config.json").unlink()
    new = {"processor_class": "LlavaProcessor", "image_processor": old | {"crop_size": {"height": 48, "width": 48}}}
    (folder / "processor_config.json").write_text(json.dumps(new))
    assert open_checkpoint(str(folder)).processor == new["image_processor"]


@pytest.mark.parametrize("processor", [None, {}, {"image_processor": "CLIPImageProcessor"}, {"image_processor": None}])
def test_without_an_image_processor_it_is_refused(clip_folder: MakeFolder, tmp_path: Path, processor: object) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / "preprocessor_config.json").unlink()
    if processor is not None:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    message = refusal(folder)
    assert message.startswith(
        f"{folder} has no preprocessor_config.json, nor an image_processor in processor_config.json"
    )
    assert message.endswith("save its processor there as well")


# Layouts of keys: what save_pretrained of transformers 5 writes, and what older checkpoints have.


def layouts(name: str, *tower: str) -> list[Any]:
    return [pytest.param(name, prefix, id=f"{name} {prefix or 'bare'}") for prefix in tower]


@pytest.mark.parametrize(
    ("architecture", "prefix"),
    [
        *layouts("CLIPVisionModel", "", "vision_model."),
        *layouts("CLIPModel", "vision_model.", "clip.vision_model."),
        *layouts("Llava", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower."),
        *layouts("Llava", "model.vision_tower.vision_model."),
    ],
)
def test_every_layout_of_keys_gives_the_same_encoder(
    clip_folder: MakeFolder, llava_folder: MakeFolder, tmp_path: Path, architecture: str, prefix: str
) -> None:
    is_llava = architecture == "Llava"
    folder = llava_folder(tmp_path / "m") if is_llava else clip_folder(tmp_path / "m", architecture)
    whole = tokens(folder)
    saved = re.compile(
        {"CLIPVisionModel": "", "CLIPModel": r"vision_model\.", "Llava": r"vision_tower\."}[architecture]
    )
    before = "model." if prefix.startswith("model.") else ""

    def rename(name: str) -> str:
        found = saved.match(name)
        return prefix + name[found.end() :] if found else before + name

    rename_tensors(folder, rename)
    assert any(name.startswith(f"{prefix}embeddings.") for name in load_file(folder / "model.safetensors"))
    assert torch.equal(tokens(folder), whole)


def test_what_transformers_writes_is_what_transformers_computes(llava_folder: MakeFolder, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    folder = llava_folder(tmp_path / "llava")
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.inference_mode():
        wanted = model.get_image_features(pixel_values=PIXELS).pooler_output
    torch.testing.assert_close(tokens(folder)[0], torch.as_tensor(wanted[0]))


def test_a_checkpoint_without_the_tower_that_its_config_has_is_refused(
    llava_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = llava_folder(tmp_path / "llava")
    rename_tensors(folder, lambda name: f"mystery.{name}")
    assert "llava has no tensor model.vision_tower.vision_model.*" in refusal(folder)


# The hub.


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[Path], Path]:
    """(folder) -> the snapshot of owner/name in the hub's cache, with the files of that folder."""

    def make(folder: Path) -> Path:
        repository = tmp_path / "hub" / "models--owner--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "snapshots").mkdir()
        return folder.rename(repository / "snapshots" / COMMIT)

    return make


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """The files asked of the hub, each with the revision, in order."""
    import huggingface_hub

    names: list[tuple[str, str | None]] = []
    original = huggingface_hub.hf_hub_download

    def counting(id: str, name: str, revision: str | None = None) -> str:
        names.append((name, revision))
        return original(id, name, revision=revision)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", counting)
    return names


Cached = Callable[[Path], Path]
Fetched = list[tuple[str, "str | None"]]


def test_a_cached_model_works_offline_and_says_its_commit(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached
) -> None:
    whole = tokens(clip_folder(tmp_path / "clip"))
    cached(tmp_path / "clip")
    for revision in (None, "main", COMMIT):
        found = open_checkpoint("owner/name", revision)
        assert (found.id, found.revision) == ("owner/name", COMMIT)
        assert torch.equal(tokens(found), whole)


def test_with_an_index_only_the_shards_of_the_encoder_are_fetched(
    llava_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched
) -> None:
    folder = cached(llava_folder(tmp_path / "llava", max_shard_size="60KB"))
    (folder / "model.safetensors").write_bytes(b"the same again in one file")
    wanted, others = split(folder)
    tokens(open_checkpoint("owner/name"))
    names = {name for name, _ in fetched}
    assert {name for name in names if name.endswith(".safetensors")} == set(wanted)
    assert others


def test_without_an_index_the_one_file_is_fetched_after_everything_small(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched
) -> None:
    cached(clip_folder(tmp_path / "clip"))
    tokens(open_checkpoint("owner/name"))
    names = [name for name, _ in fetched]
    assert names.index(INDEX) < names.index("model.safetensors")
    assert not [name for name in names if name.endswith(".bin")]


def test_a_model_that_cannot_be_used_is_refused_before_its_weights_are_fetched(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched
) -> None:
    folder = cached(clip_folder(tmp_path / "clip"))
    (folder / "preprocessor_config.json").unlink()
    assert "owner/name has no preprocessor_config.json in the cache" in refusal("owner/name")
    assert "model.safetensors" not in [name for name, _ in fetched]


def test_every_file_comes_from_the_commit_of_the_first(
    clip_folder: MakeFolder, tmp_path: Path, cached: Cached, fetched: Fetched
) -> None:
    cached(clip_folder(tmp_path / "clip"))
    tokens(open_checkpoint("owner/name"))
    assert fetched[0] == ("config.json", None)
    assert {revision for _, revision in fetched[1:]} == {COMMIT}


def test_without_network_and_cache_a_hub_id_is_refused() -> None:
    assert refusal("owner/name") == (
        "owner/name has no config.json in the cache, and the hub cannot be reached; "
        "give a local folder with --model instead"
    )


def test_a_cached_model_without_weights_is_refused(clip_folder: MakeFolder, tmp_path: Path, cached: Cached) -> None:
    (cached(clip_folder(tmp_path / "clip")) / "model.safetensors").unlink()
    assert refusal("owner/name").startswith("owner/name has no model.safetensors in the cache, and the hub cannot")


def test_a_shard_that_is_not_cached_is_named(llava_folder: MakeFolder, tmp_path: Path, cached: Cached) -> None:
    folder = cached(llava_folder(tmp_path / "llava", max_shard_size="60KB"))
    gone = split(folder)[0][0]
    (folder / gone).unlink()
    assert refusal("owner/name").startswith(f"owner/name has no {gone} in the cache")


def test_an_unknown_revision_is_refused(clip_folder: MakeFolder, tmp_path: Path, cached: Cached) -> None:
    cached(clip_folder(tmp_path / "clip"))
    assert "owner/name has no config.json in the cache" in refusal("owner/name", revision="v9")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("EntryNotFoundError", "owner/name has no config.json on the hub; give a local folder"),
        ("GatedRepoError", "it is gated; accept its terms on its page and log in with `hf auth login`"),
        ("RepositoryNotFoundError", "the hub has no such model, or it is private"),
        ("RevisionNotFoundError", "it has no revision v9; check --revision"),
        ("HfHubHTTPError", "503 Server Error; give a local folder with --model instead"),
    ],
)
def test_what_the_hub_answers_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, error: str, says: str) -> None:
    import huggingface_hub

    cls = getattr(huggingface_hub.errors, error)
    raised = cls.__new__(cls)  # the constructor of some wants a response
    raised.args = ("503 Server Error\n\nMore about it.",)

    def answer(*_: object, **__: object) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
    assert says in refusal("owner/name", revision="v9")


# Names.


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "got the file" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["nowhere", "", " ", "a/b/c", "./nowhere/x/y", "/nowhere/model", "https://huggingface.co/a/b", "a b/c", "~/model",
     "x" * 5000, "a/" + "x" * 5000, "a/--b", "../nowhere", "a\\b", "a/b@main", "a/b\n"],
    ids=lambda name: repr(name[:30]),
)  # fmt: skip
def test_what_is_neither_a_folder_nor_an_id_is_refused(name: str) -> None:
    refusal(name)


def test_a_revision_of_something_local_is_refused(clip_folder: MakeFolder, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    assert refusal(folder, "main") == f"--revision goes with a Hugging Face id, {folder} is local; leave it out"
    with pytest.raises(ModelError, match="edgeprune/tiny is local"):
        open_checkpoint(None, "main")


def test_without_huggingface_hub_an_id_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"huggingface_hub, .*edgeprune\[export\]"):
        open_checkpoint("owner/name")
