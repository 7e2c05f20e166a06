"""C-RADIO: class tokens and registers in front, normalised inside, positions resampled to a square and cropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.pruners import fastervlm, none
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, Kind, processor

CONFIG: dict[str, Any] = {"mlp_ratio": 2.0, "max_img_size": 64, "num_registers": 2}
KIND = Kind(
    "RadioModel",
    processor("CLIP", **CROPPED, do_normalize=False),
    prefix=5,
    config=CONFIG,
    family="radio",
    exported="fastervlm",
)
Made = Callable[[str], tuple[Path, Encoder]]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (96, 32), (64, 64)], ids=str)
def test_unpruned_tokens_are_those_of_transformers_at_every_size(
    made: Made, kind: Callable[[str], Any], size: tuple[int, int]
) -> None:
    folder = made("radio")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), size=size)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = kind("radio").own(folder)(pixels).features
        found = PrunedEncoder(encoder, none.Method(encoder.patches))(pixels)[0]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_the_teacher_of_the_first_summary_is_attended_from(made: Made, kind: Callable[[str], Any]) -> None:
    folder = made("radio")[0]
    checkpoint = open_checkpoint(str(folder))
    checkpoint.config["summary_idxs"] = [2, 0]
    model = kind("radio").own(folder)
    model.set_attn_implementation("eager")
    pixels = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model(pixels, output_attentions=True).attentions[-1]
        for at, one in ((0, made("radio")[1]), (2, encoders.load(checkpoint))):
            tokens, indices, scores = PrunedEncoder(one, fastervlm.Method(9))(pixels)[:3]
            torch.testing.assert_close(scores, maps.mean(dim=1)[:, at, 5:], rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(tokens[0], model(pixels).features[0, indices[0].long()], **CLOSE)


def test_case_nvidias_files_are_read_as_transformers_reads_them(
    made: Made, kind: Callable[[str], Any], tmp_path: Path
) -> None:
    """Fused queries, keys and values, no layer scales, and an embedder of videos."""
    folder = made("radio")[0]
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    tensors = load_file(folder / "model.safetensors")
    hub = {name: value for name, value in tensors.items() if "layer_scale" not in name}
    assert any(name.startswith("radio_model.model.blocks.") for name in hub)
    hub["radio_model.model.patch_generator.video_embedder.weight"] = torch.ones(32, 2 * 192)
    save_file(hub, tmp_path / "model.safetensors")
    encoder = encoders.load(open_checkpoint(str(tmp_path)))
    pixels = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = PrunedEncoder(encoder, none.Method(36))(pixels)[0]
        torch.testing.assert_close(found, kind("radio").own(tmp_path)(pixels).features, **CLOSE)


def test_a_processor_that_normalises_too_is_refused(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("radio")[0]))
    checkpoint.processor["do_normalize"] = True
    with pytest.raises(ModelError, match="must not normalise, which the model does itself; set do_normalize to false"):
        encoders.load(checkpoint)


def test_a_size_between_patches_is_refused(made: Made) -> None:
    with pytest.raises(RequestError, match=r"multiple of the 8 pixels of a patch, got 50x96; 48x96 or 56x96"):
        encoders.load(open_checkpoint(str(made("radio")[0])), size=(50, 96))
