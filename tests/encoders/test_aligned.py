"""Patches in the space of texts: the norm and the projection that CLIP has for [CLS], on every row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders._aligned import aligned
from edgeprune.errors import ModelError
from tests.conftest import TINY_VISION

CLIP = Callable[..., Path]
WIDTH = TINY_VISION["hidden_size"]


@pytest.fixture(scope="module")
def folder(clip_folder: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("whole") / "clip", "CLIPModel", layer_norm_eps=0.1)


def changed(folder: Path, place: Path, lost: str = "", **fields: object) -> str:
    """A copy without the tensors whose names begin so, with these fields of config.json."""
    place.mkdir()
    for path in folder.glob("*.json"):
        (place / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not lost or not name.startswith(lost)}
    save_file(kept, place / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **fields}))
    return str(place)


def test_of_cls_it_is_what_transformers_has(folder: Path) -> None:
    """image_embeds is the [CLS] of the last layer behind both; so are patches, by the same weights."""
    from transformers import CLIPModel

    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    clip: Any = CLIPModel.from_pretrained(folder)  # in evaluation mode
    with torch.no_grad():
        last = clip.vision_model(pixels).last_hidden_state
        image_embeds = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        module = aligned(open_checkpoint(str(folder)), WIDTH)
        given = module(last)
    torch.testing.assert_close(given[:, 0], image_embeds, rtol=0, atol=1e-5)
    assert given.shape == (2, 37, module.width) == (2, 37, 512)


def test_every_row_is_normed_and_projected_by_itself(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    scale, shift = (stored[f"vision_model.post_layernorm.{name}"] for name in ("weight", "bias"))
    hidden = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    centred = hidden - hidden.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * scale + shift
    expected = normed @ stored["visual_projection.weight"].T
    torch.testing.assert_close(aligned(open_checkpoint(str(folder)), WIDTH)(hidden), expected, rtol=0, atol=1e-5)


def test_only_its_own_weights_are_read(folder: Path, tmp_path: Path) -> None:
    """The rest may lie in a shard that is not there."""
    place = Path(changed(folder, tmp_path / "part"))
    tensors = load_file(place / "model.safetensors")
    own = {name: value for name, value in tensors.items() if "post_layernorm" in name or "visual_projection" in name}
    save_file(own, place / "one.safetensors", {"format": "pt"})
    (place / "model.safetensors").unlink()
    where = {name: "one.safetensors" if name in own else "absent.safetensors" for name in tensors}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    module = aligned(open_checkpoint(str(place)), WIDTH)
    assert torch.equal(module.visual_projection.weight, tensors["visual_projection.weight"])
    assert not any(one.requires_grad for one in module.parameters())


def test_a_tower_of_another_width_is_refused(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"was taken from, of width 1024; clip has a tower of width 32; name the other"
    ):
        aligned(open_checkpoint(str(folder)), 1024)


@pytest.mark.parametrize("architecture", ["CLIPVisionModel", "llava"])
def test_what_is_no_whole_clip_is_refused(
    clip_folder: CLIP, llava_folder: CLIP, tmp_path: Path, architecture: str
) -> None:
    made = (llava_folder if architecture == "llava" else clip_folder)(tmp_path / "other")
    kind = "llava" if architecture == "llava" else "clip_vision_model"
    with pytest.raises(
        ModelError, match=rf"need a CLIP with both of its towers \(model_type clip\), other is a {kind};"
    ):
        aligned(open_checkpoint(str(made)), WIDTH)


@pytest.mark.parametrize(
    ("lost", "fields", "message"),
    [
        ("visual_projection", {}, r"has no tensor visual_projection\.\*"),
        ("vision_model.post_layernorm", {}, r"has no tensor vision_model\.post_layernorm\.\*"),
        ("vision_model.post_layernorm.bias", {}, r"lacks the tensor post_layernorm\.bias of Aligned"),
        ("", {"vision_config": None}, "clip has no vision_config"),
        ("", {"vision_config": {"hidden_size": 96}}, r"tensor post_layernorm\.\w+ is \[32\], and a Aligned of"),
        ("", {"vision_config": {"hidden_size": "wide"}}, "cannot build what config.json describes"),
    ],
)
def test_weights_that_are_not_all_there_are_named(
    folder: Path, tmp_path: Path, lost: str, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        aligned(open_checkpoint(changed(folder, tmp_path / "clip", lost, **fields)), WIDTH)
