"""A checkpoint of LLaVA's authors becomes one of transformers with the same tokens; its CLIP says what its tower is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError
from edgeprune.export.convert import Converted, convert
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.covering import always

MakeFolder = Callable[..., Path]
PIXELS = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)
NAMES = {
    "vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    "multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "language_model.": "",
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_size": 48,
    "image_aspect_ratio": "pad",
    "mm_hidden_size": 32,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 2,
}
TILES = [[48, 96], [96, 48]]


def theirs(folder: Path) -> Tensor:
    """Tokens of transformers' own class, before they were renamed."""
    from transformers import LlavaForConditionalGeneration

    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.inference_mode():
        return torch.as_tensor(model.get_image_features(pixel_values=PIXELS).pooler_output[0])


def ours(folder: Path) -> Tensor:
    encoder = encoders.load(open_checkpoint(str(folder)))
    with torch.inference_mode():
        tokens: Tensor = PrunedEncoder(encoder, none.Method(encoder.patches)).eval()(PIXELS)[0][0]
    return tokens


def original(folder: Path, safe: bool = True, tower: bool = True, **config: Any) -> tuple[Path, Path]:
    """The LLaVA in the folder under the original names, and its CLIP in a folder of its own, with other weights unless
    the LLaVA is to have none.
    """
    tensors = load_file(folder / "model.safetensors")
    vision = {name: value for name, value in tensors.items() if name.startswith("vision_tower.")}
    clip = folder.with_name("clip")
    clip.mkdir()
    sizes = json.loads((folder / "config.json").read_text())["vision_config"]
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))
    (folder / "preprocessor_config.json").rename(clip / "preprocessor_config.json")
    both = {name.replace("vision_tower", "vision_model"): value + tower for name, value in vision.items()}
    torch.save(both | {"logit_scale": torch.ones(())}, clip / "pytorch_model.bin")
    renamed = {}
    for name, value in tensors.items():
        before = next((one for one in NAMES if name.startswith(one)), "")
        if tower or name not in vision:
            renamed[NAMES.get(before, "") + name.removeprefix(before)] = value
    (folder / "model.safetensors").unlink()
    save_file(renamed, folder / "model.safetensors") if safe else torch.save(renamed, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder, clip


def converted(folder: Path, clip: Path) -> Converted:
    return convert(str(folder), vision_tower=str(clip))


@pytest.mark.parametrize("model_type", always(["llava", "llava_llama"], "llava_llama"))
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_case_the_tokens_are_those_of_the_model(
    llava_folder: MakeFolder, tmp_path: Path, model_type: str, safe: bool
) -> None:
    folder = llava_folder(tmp_path / "llava")
    wanted = theirs(folder)
    done = converted(*original(folder, safe, model_type=model_type))
    torch.testing.assert_close(ours(done.folder), wanted)
    assert done.notes == ()


def test_without_weights_of_its_own_the_tower_is_the_clip_that_it_names(
    llava_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = llava_folder(tmp_path / "llava")
    wanted = theirs(folder)
    done = converted(*original(folder, tower=False))
    torch.testing.assert_close(ours(done.folder), wanted)
    assert done.notes == ("llava has no vision tower of its own: the weights are those of clip",)


def test_the_name_of_the_tower_may_be_a_folder(llava_folder: MakeFolder, tmp_path: Path) -> None:
    folder, clip = original(llava_folder(tmp_path / "llava"), mm_vision_tower=str(tmp_path / "clip"))
    assert clip == tmp_path / "clip"
    assert ours(convert(str(folder)).folder).shape == (36, 48)


@pytest.mark.slow
def test_padding_to_a_square_and_tiles_are_those_of_transformers(llava_folder: MakeFolder, tmp_path: Path) -> None:
    pad = converted(*original(llava_folder(tmp_path / "a" / "llava"), image_aspect_ratio="pad"))
    read = open_checkpoint(str(pad.folder))
    assert (read.processor["image_processor_type"], read.processor["do_pad"]) == ("LlavaImageProcessor", True)
    assert read.config["model_type"] == "llava"
    tiles: dict[str, Any] = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": TILES}
    tiled = converted(*original(llava_folder(tmp_path / "b" / "llava"), **tiles))
    read = open_checkpoint(str(tiled.folder))
    assert read.processor["image_processor_type"] == "LlavaNextImageProcessor"
    assert read.processor["image_grid_pinpoints"] == read.config["image_grid_pinpoints"] == TILES
    assert encoders.load(read).tiled
    torch.testing.assert_close(ours(tiled.folder), ours(pad.folder))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"mm_projector_type": "mlp3x_gelu"},
            "mm_projector_type must be mlp2x_gelu for transformers' LLaVA, got",
        ),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio must be square or pad or anyres"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature must be patch or cls_patch"),
        ({"mm_vision_select_layer": -9}, "layer must be in 1..4 or -4..-1 for 4 layers, got -9"),
        ({"hidden_size": 96}, "tensor linear_1.bias is [48]"),
    ],
    ids=str,
)
def test_what_transformers_does_not_have_is_refused(
    llava_folder: MakeFolder, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    folder, clip = original(llava_folder(tmp_path / "llava"), **config)
    with pytest.raises(ModelError) as refused:
        converted(folder, clip)
    assert says in str(refused.value)
    assert not (tmp_path / "llava-safetensors").exists()


def test_a_tower_that_is_not_to_be_had_is_named(
    llava_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, _ = original(llava_folder(tmp_path / "llava"))
    with pytest.raises(ModelError) as refused:
        convert(str(folder))
    assert str(refused.value) == (
        "llava says of its vision tower no more than its name, and openai/clip-vit-large-patch14-336 has no "
        "config.json in the cache, and the hub cannot be reached; give that CLIP with --vision-tower"
    )
