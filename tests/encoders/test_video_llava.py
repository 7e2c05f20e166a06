"""Video-LLaVA: images through one tower, frames through the other; the tokens are transformers' own, patches only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.export import Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.pruners import Method, divprune, fastervlm, none, pool, random, uniform
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import CROPPED, LLAVA_CLIP, SIZES, Kind, processor

KINDS = {
    "video llava": Kind(
        "VideoLlavaForConditionalGeneration",
        processor("VideoLlava", **CROPPED),
        config={**LLAVA_CLIP, "video_token_index": 4},
        family="video_llava",
        exported="todre",
    ),
}
SIDE, PATCHES, WIDTH = 48, 36, 48
CONFIG: dict[str, Any] = {
    "vision_config": {
        **SIZES,
        "model_type": "clip_vision_model",
        "num_hidden_layers": 3,
        "image_size": SIDE,
        "patch_size": 8,
    },
    "text_config": {
        **SIZES,
        "model_type": "llama",
        "hidden_size": WIDTH,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    },
    "image_token_index": 3,
    "video_token_index": 4,
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "VideoLlavaImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
PIXELS = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
VIDEO = pytest.mark.parametrize("video", [False, True], ids=["images", "frames"])


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("video"), "VideoLlavaForConditionalGeneration", PROCESSOR, **CONFIG)


@pytest.fixture(scope="module")
def both(folder: Path) -> dict[bool, Encoder]:
    """By whether it is for video."""
    return {video: encoders.load(open_checkpoint(str(folder)), video=video) for video in (False, True)}


@VIDEO
def test_unpruned_tokens_are_the_models_own(folder: Path, both: dict[bool, Encoder], video: bool) -> None:
    from transformers import VideoLlavaForConditionalGeneration

    model = VideoLlavaForConditionalGeneration.from_pretrained(folder).model.eval()
    with torch.inference_mode():
        images = model.get_image_features(PIXELS).pooler_output
        frames = model.get_video_features(PIXELS[None]).pooler_output
        assert frames.shape == (2, 1 + PATCHES, WIDTH)  # transformers leaves [CLS] in
        expected, other = (frames[:, 1:], images) if video else (images, frames[:, 1:])
        assert not torch.allclose(expected, other, atol=0.1)  # the towers differ
        assert ("[CLS] of each is left out" in both[video].layout) == video
        for path in (PrunedEncoder, OfficialEncoder):
            tokens = path(both[video], none.Method(PATCHES))(PIXELS)[0]
            torch.testing.assert_close(tokens, expected, **CLOSE)


@pytest.mark.parametrize("kind", [fastervlm, divprune, pool, uniform, random])
def test_both_paths_agree(both: dict[bool, Encoder], kind: Any) -> None:
    method: Method = kind.Method(9)
    with torch.inference_mode():
        found, expected = (path(both[True], method)(PIXELS) for path in (PrunedEncoder, OfficialEncoder))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert found[0].shape == (2, 9, WIDTH)


@VIDEO
def test_only_one_tower_and_the_projector_are_read(folder: Path, both: dict[bool, Encoder], video: bool) -> None:
    checkpoint, tower = open_checkpoint(str(folder)), "video_tower." if video else "image_tower."
    wanted = (f"model.{tower}", tower, "model.multi_modal_projector.", "multi_modal_projector.")
    shards = {name: file if name.startswith(wanted) else "absent" for name, file in checkpoint.shards.items()}
    assert {"absent"} < set(shards.values())
    encoder = encoders.load(replace(checkpoint, shards=shards), video=video)
    with torch.inference_mode():
        one, other = (PrunedEncoder(each, none.Method(PATCHES))(PIXELS)[0] for each in (encoder, both[video]))
    assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("video", "frames"), [(False, 1), (True, 3), pytest.param(True, 5, marks=pytest.mark.slow)])
def test_every_frame_has_the_budget_of_an_image(
    folder: Path, both: dict[bool, Encoder], tmp_path: Path, video: bool, frames: int
) -> None:
    from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

    request = Request("fastervlm", "cpu", keep=7, tiles=frames, video=video, model=str(folder), baselines=False)
    done = export_bundle(replace(request, output=tmp_path / "out"))
    assert done.reports[0].passed
    encoder = both[video]
    patch_embedding = PATCHES * encoder.tower.patch_embedding.weight.numel()
    expected = frames * (formula(encoder, fastervlm.Method(7)) + patch_embedding)
    assert done.manifest.cost["graph"] == pytest.approx(expected, rel=0.02)

    given = {name: value for name, value in PROCESSOR.items() if name != "image_processor_type"}
    images = list(np.random.default_rng(0).integers(0, 256, (frames, 60, 80, 3), np.uint8))
    processor: Any = VideoLlavaImageProcessor(**given)
    values = processor(images, return_tensors="np", return_legacy_image_output=False)
    (pixels,) = values.values()  # pixel_values_images until transformers 5.20
    run = load(done.folder)
    np.testing.assert_array_equal(run.prepare(images), pixels)
    assert run(images).tokens.shape == (frames, 7, WIDTH)
