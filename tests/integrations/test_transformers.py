"""Generation from a bundle equals generation from the torch reference, token by token, in unmodified models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgeprune import encoders, pruners
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import TokenEncoder, load
from tests.covering import always

KEEP, IMAGE, NEW = 9, 3, 12
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 60, 3), dtype=np.uint8))
PROMPT = torch.tensor([[5, 6, 7, IMAGE, 8, 9, 10]])

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "image_size": 48,
    "patch_size": 8,
}
CLIP = {**VISION, "model_type": "clip_vision_model"}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 64,
}
TALL = {"image_grid_pinpoints": [[96, 48], [48, 96]]}
SQUARE = {"size": {"height": 48, "width": 48}}
CROPPED = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}


@dataclass(frozen=True)
class Kind:
    architecture: str
    method: str
    vision: dict[str, Any]
    text: str
    config: dict[str, Any]
    processor: dict[str, Any]
    request: dict[str, Any] = field(default_factory=dict)


ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
QWEN_TEXT: dict[str, Any] = {"head_dim": 24, "bos_token_id": None, "eos_token_id": None, "rope_parameters": ROTARY}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "hidden_size": 32,
    "out_hidden_size": 48,
    "intermediate_size": 64,
}
GRID = (8, 12)
"""patches, so 4x6 tokens: rows and columns differ"""
KINDS = {
    "llava": Kind(
        "Llava", "fastervlm", CLIP, "llama", {"image_token_index": IMAGE}, {"image_processor_type": "CLIP", **CROPPED}
    ),
    "llava next": Kind(
        "LlavaNext",
        "fastervlm",
        CLIP,
        "llama",
        {"image_token_index": IMAGE, **TALL},
        {"image_processor_type": "LlavaNext", **CROPPED, **TALL},
        {"tiles": 3},
    ),
    "llava onevision": Kind(
        "LlavaOnevision",
        "divprune",
        SIGLIP,
        "qwen2",
        {"image_token_index": IMAGE, "video_token_index": 4, "vision_feature_select_strategy": "full", **TALL},
        {"image_processor_type": "LlavaOnevision", **SQUARE, **TALL},
        {"tiles": 3},
    ),
    "internvl": Kind(
        "InternVL",
        "divprune",
        {**VISION, "patch_size": 4},
        "qwen2",
        {"image_token_id": IMAGE},
        {"image_processor_type": "GotOcr2", **SQUARE, "crop_to_patches": False},
    ),
    "qwen2.5 vl": Kind(
        "Qwen2_5_VL",
        "divprune",
        {**QWEN_VISION, "window_size": 48, "fullatt_block_indexes": [1]},
        "qwen2_5_vl_text",
        {"image_token_id": IMAGE, "video_token_id": 4, "vision_start_token_id": 5},
        {"image_processor_type": "Qwen2VL", "patch_size": 8, "temporal_patch_size": 2, "merge_size": 2},
        {"grid": "8x12"},
    ),
}
QWEN3 = Kind(
    "Qwen3VL",
    "divprune",
    {**QWEN_VISION, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]},
    "qwen3_vl_text",
    {"image_token_id": IMAGE, "video_token_id": 4, "vision_start_token_id": 5},
    {"image_processor_type": "Qwen2VL", "patch_size": 8, "temporal_patch_size": 2, "merge_size": 2},
    {"grid": "8x12"},
)


def write(kind: Kind, make: Callable[..., Path], folder: Path) -> Any:
    """The checkpoint into the folder; the whole model."""
    import transformers

    processor = {**kind.processor, "image_processor_type": f"{kind.processor['image_processor_type']}ImageProcessor"}
    text = {"model_type": kind.text, **TEXT, **(QWEN_TEXT if "grid" in kind.request else {})}
    architecture = f"{kind.architecture}ForConditionalGeneration"
    make(folder, architecture, processor, vision_config=kind.vision, text_config=text, **kind.config)
    model: Any = getattr(transformers, architecture).from_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module", params=always(KINDS, "llava next"))
def made(
    request: pytest.FixtureRequest, model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kind, Path, Any, TokenEncoder]:
    """(kind, checkpoint, the whole model, its bundle)"""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("model")
    model = write(kind, model_folder, folder)
    options: dict[str, Any] = {"keep": KEEP * kind.request.get("tiles", 1), "baselines": False, **kind.request}
    bundle = export_bundle(Request(kind.method, "cpu", model=str(folder), output=folder / "bundle", **options))
    return kind, folder, model, load(bundle.folder)


def spoken(model: Any, **inputs: Any) -> list[int]:
    """The new tokens alone, the likeliest ones."""
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    found = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, prompt:].tolist()  # type: ignore[no-any-return]


def spliced(model: Any, tokens: Tensor) -> Tensor:
    """The prompt's embeddings with an image's tokens where its placeholder was: [1, L'-1+K, D]."""
    embedded, at = model.get_input_embeddings()(PROMPT), PROMPT[0].tolist().index(IMAGE)
    return torch.cat((embedded[:, :at], tokens, embedded[:, at + 1 :]), dim=1)


def read_in_order(tokens: Tensor, indices: Tensor) -> Tensor:
    """The official order of three tiles, one below the other: the whole image, then row by row. [T, K, D] -> [1, L, D]

    Tiles that stand one below the other have no rows in common, so the order is that of the tiles, and of the indices.
    """
    assert bool((indices.diff(dim=1) > 0).all())
    return tokens.flatten(0, 1)[None]


def places(model: Any, kept: Tensor) -> Tensor:
    """[4, 1, L'] of the prompt with the kept tokens, from the positions that the model gives the whole image."""
    rows, columns = GRID
    patches = rows * columns // 4
    at = PROMPT[0].tolist().index(IMAGE)
    whole = torch.cat((PROMPT[:, :at], torch.full((1, patches), IMAGE), PROMPT[:, at + 1 :]), dim=1)
    axes, _ = model.model.get_rope_index(
        whole, mm_token_type_ids=(whole == IMAGE).int(), image_grid_thw=torch.tensor([[1, rows, columns]])
    )
    stays = torch.cat((torch.arange(at), at + kept.long(), torch.arange(at + patches, whole.shape[1])))
    return torch.cat((torch.arange(len(stays)).expand(1, 1, -1), axes[:, :, stays]))


@pytest.mark.slow
def test_a_model_says_the_same_from_the_bundle_and_from_the_reference(
    made: tuple[Kind, Path, Any, TokenEncoder],
) -> None:
    kind, folder, model, bundle = made
    kept = bundle.manifest.tiles * KEEP
    method: Any = pruners.get(kind.method)
    pixels, grid = torch.from_numpy(bundle.prepare(PHOTO)), GRID if "grid" in kind.request else None
    with torch.inference_mode():
        encoder = encoders.load(open_checkpoint(str(folder)), grid=grid)
        tokens, indices, *_ = OfficialEncoder(encoder, method(bundle.keep))(pixels)
        positions = {"position_ids": places(model, indices[0])} if grid else {}
        embedded = spliced(model, read_in_order(tokens, indices))
        expected = spoken(model, inputs_embeds=embedded, **positions)
    inputs = generation_inputs(model, bundle, PHOTO, PROMPT)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, *[IMAGE] * kept, 8, 9, 10]]
    assert spoken(model, **inputs) == expected
    with torch.inference_mode():  # a model that says the same of every image would prove nothing
        upside_down = generation_inputs(model, bundle, PHOTO.rotate(180), PROMPT)
        assert (model(**upside_down).logits[0, -1] - model(**inputs).logits[0, -1]).abs().max() > 0.01


@pytest.fixture(scope="module")
def llava(llava_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from transformers import LlavaForConditionalGeneration

    folder = llava_folder(tmp_path_factory.mktemp("llava"))
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    return model.eval(), folder


@pytest.fixture(scope="module")
def whole(llava: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> TokenEncoder:
    output = tmp_path_factory.mktemp("bundles") / "whole"
    done = export_bundle(Request("none", "cpu", model=str(llava[1]), output=output, baselines=False))
    return load(done.folder, kind=TokenEncoder)


def test_with_every_token_kept_it_says_what_the_model_says(llava: tuple[Any, Path], whole: TokenEncoder) -> None:
    inputs = generation_inputs(llava[0], whole, PHOTO, PROMPT)
    pixels = torch.from_numpy(whole.prepare(PHOTO))
    assert spoken(llava[0], **inputs) == spoken(llava[0], input_ids=inputs["input_ids"], pixel_values=pixels)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(KINDS["qwen2.5 vl"], id="qwen2.5 vl", marks=pytest.mark.slow), pytest.param(QWEN3, id="qwen3 vl")],
)
def test_so_does_qwen_with_its_positions_and_deeper_features(
    kind: Kind, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = write(kind, model_folder, tmp_path / "model")
    request = Request("none", "cpu", model=str(tmp_path / "model"), output=tmp_path / "bundle", baselines=False)
    bundle = load(export_bundle(replace(request, **kind.request)).folder)
    inputs = generation_inputs(model, bundle, PHOTO, PROMPT)
    patches = torch.from_numpy(bundle.prepare(PHOTO))[0].reshape(3, 4, 2, 8, 6, 2, 8).permute(1, 4, 2, 5, 0, 3, 6)
    own = {  # two equal frames, 2x2 patches by 2x2
        "input_ids": inputs["input_ids"],
        "pixel_values": patches.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(96, -1),
        "image_grid_thw": torch.tensor([[1, *GRID]]),
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
    }
    assert spoken(model, **inputs) == spoken(model, **own)
    with torch.inference_mode():
        shifted = {**inputs, "position_ids": inputs["position_ids"].clone()}
        shifted["position_ids"][1:, :, 5:] += 3
        first, second = (
            model(**one).logits[0, -1]
            for one in (
                {**inputs, "position_ids": inputs["position_ids"][1:]},
                {**shifted, "position_ids": shifted["position_ids"][1:]},
            )
        )
        assert (first - second).abs().max() > 0.01  # positions matter


def test_a_placeholder_may_already_be_as_long_as_the_processor_makes_it(
    llava: tuple[Any, Path], whole: TokenEncoder
) -> None:
    long = torch.tensor([[5, *[IMAGE] * 576, 8]])
    assert generation_inputs(llava[0], whole, PHOTO, long)["input_ids"].tolist() == [[5, *[IMAGE] * 36, 8]]


def test_two_images_take_two_placeholders(llava: tuple[Any, Path], whole: TokenEncoder) -> None:
    prompt = torch.tensor([[IMAGE, 5, IMAGE]])
    inputs = generation_inputs(llava[0], whole, [PHOTO, PHOTO.rotate(90)], prompt)
    assert inputs["input_ids"].tolist() == [[*[IMAGE] * 36, 5, *[IMAGE] * 36]]
    one, other = inputs["mm_encoder_outputs"]["image"].pooler_output
    assert not torch.equal(one, other)
    with pytest.raises(RequestError, match=r"one image placeholder \(token 3\) for each image, got 2 for 1"):
        generation_inputs(llava[0], whole, PHOTO, prompt)
