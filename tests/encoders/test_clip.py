"""CLIP: the features are transformers' own hidden states, whichever checkpoint they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import ModelError
from edgeprune.pruners import none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, Kind, processor

KIND = Kind("CLIPVisionModel", processor("CLIP", **CROPPED), family="clip", exported="none fastervlm divprune")
MakeFolder = Callable[..., Path]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["CLIPVisionModel", "CLIPModel"])
def test_unpruned_tokens_are_the_patches_of_last_hidden_state(
    clip_folder: MakeFolder, tmp_path: Path, architecture: str
) -> None:
    from transformers import CLIPModel, CLIPVisionModel

    folder = clip_folder(tmp_path / "clip", architecture)
    encoder = encoders.load(open_checkpoint(str(folder)))
    if architecture == "CLIPVisionModel":
        own: torch.nn.Module = CLIPVisionModel.from_pretrained(folder)
    else:
        own = CLIPModel.from_pretrained(folder).vision_model
    with torch.inference_mode():
        expected = own.eval()(PIXELS).last_hidden_state[:, 1:]
        tokens = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layer", "index"), [(-1, 4), (-2, 3), (1, 1), (4, 4)])
def test_layer_indexes_hidden_states_as_in_hugging_face_configs(
    clip_folder: MakeFolder, tmp_path: Path, layer: int, index: int
) -> None:
    from transformers import CLIPVisionModel

    folder = clip_folder(tmp_path / "clip")
    encoder = encoders.load(open_checkpoint(str(folder)), layer)
    own: torch.nn.Module = CLIPVisionModel.from_pretrained(folder)
    with torch.inference_mode():
        expected = own(PIXELS, output_hidden_states=True).hidden_states[index][:, 1:]
        tokens = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
    assert encoder.layer == index
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 5, -5, 99])
def test_a_layer_that_does_not_exist_is_refused(clip_folder: MakeFolder, tmp_path: Path, layer: int) -> None:
    checkpoint = open_checkpoint(str(clip_folder(tmp_path / "clip")))
    with pytest.raises(ModelError, match=rf"layer must be in 1\.\.4 or -4\.\.-1 for 4 layers, got {layer}"):
        encoders.load(checkpoint, layer)


def test_a_checkpoint_of_another_family_is_refused_with_what_there_is(clip_folder: MakeFolder, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(clip_folder(tmp_path / "clip")))
    checkpoint.config["model_type"] = "swin"
    refused = r"no model_type 'swin'; have .*clip, clip_vision_model, .*llava.* A new family is one file"
    with pytest.raises(ModelError, match=refused):
        encoders.load(checkpoint)


def test_weights_are_float32_whatever_the_checkpoint_stores() -> None:
    encoder = encoders.load(open_checkpoint())  # float16 on disk
    assert {value.dtype for value in encoder.tower.module.parameters()} == {torch.float32}
    assert {value.dtype for value in encoder.projector.parameters()} == {torch.float32}
