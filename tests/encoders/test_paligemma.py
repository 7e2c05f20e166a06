"""PaliGemma and pi0: bare SigLIP features behind one linear layer, in every spelling of the tensors' names; the kept
tokens in the prefix of the language model, which attends both ways, and in front of the policy's actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.export.processor import read_processor
from edgeprune.integrations.pi0 import actions, prefix
from edgeprune.pruners import divprune, none, received
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import load
from edgeprune.trace import PrunedEncoder
from tests.encoders.kinds import LANGUAGE, SIGLIP, SQUARE, Kind, processor

GEMMA: dict[str, Any] = {"model_type": "gemma", **LANGUAGE, "num_hidden_layers": 2, "head_dim": 24}
CONFIG: dict[str, Any] = {
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": GEMMA,
    "image_token_index": 3,
    "projection_dim": 48,
    "hidden_size": 48,
}
PI0: dict[str, Any] = {
    "vlm_config": {"model_type": "paligemma", **CONFIG},
    "dit_config": GEMMA,
    "chunk_size": 4,
    "max_state_dim": 6,
    "max_action_dim": 5,
    "num_inference_steps": 3,
}
KINDS = {
    "paligemma": Kind(
        "PaliGemmaForConditionalGeneration",
        processor("Siglip", **SQUARE),
        prefix=0,
        config=CONFIG,
        family="paligemma",
        exported="divprune",
        unread=("language_model.", "model.language_model.", "lm_head."),
        given=lambda pixels: {"pixel_values": pixels},
    )
}
Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
FITTED = processor("PI0", size={"max_height": 48, "max_width": 48}, pad_size={"height": 48, "width": 48})


@pytest.mark.parametrize("name", ["", "model.", "vision_model"])
def test_the_names_of_older_and_newer_checkpoints_are_read(made: Made, tmp_path: Path, name: str) -> None:
    """name: in front of all, or, of transformers 4, in the tower's"""
    folder, expected = made("paligemma")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    parts = ("vision_tower.", "multi_modal_projector.")
    tensors = load_file(folder / "model.safetensors")
    names = {old: old[old.index(part) :] for old in tensors for part in parts if part in old}
    if name == "vision_model":
        names = {old: new.replace("vision_tower.", "vision_tower.vision_model.") for old, new in names.items()}
        name = ""
    save_file({name + new: tensors[old] for old, new in names.items()}, tmp_path / "model.safetensors")
    with torch.inference_mode():
        found, wanted = (
            PrunedEncoder(one, none.Method(36))(PIXELS)[0]
            for one in (encoders.load(open_checkpoint(str(tmp_path))), expected)
        )
    assert torch.equal(found, wanted)


def test_tokens_are_dropped_inside_the_tower_in_front_of_its_norm(made: Made) -> None:
    encoder, method = made("paligemma")[1], received.Method(9, layer=1)
    with torch.inference_mode():
        found, expected = (path(encoder, method)(PIXELS) for path in (PrunedEncoder, OfficialEncoder))
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], **CLOSE)


def test_at_another_size_tokens_are_those_of_transformers(made: Made, kind: Callable[[str], Any]) -> None:
    folder = made("paligemma")[0]
    encoder = encoders.load(open_checkpoint(str(folder)), size=(64, 48))
    pixels = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = kind("paligemma").own(folder).get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(PrunedEncoder(encoder, none.Method(48))(pixels)[0], expected, **CLOSE)


@pytest.fixture(scope="module")
def policy(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from transformers import PI0ForConditionalGeneration

    folder = tmp_path_factory.mktemp("pi0")
    model_folder(folder, "PI0ForConditionalGeneration", FITTED, **PI0)
    model: Any = PI0ForConditionalGeneration.from_pretrained(folder)
    return folder, model.eval()


@pytest.mark.slow
def test_transformers_writes_a_policy_with_the_names_of_lerobot(policy: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = policy
    tensors = load_file(folder / "model.safetensors")
    roots = {name.partition("vision_tower.")[0] for name in tensors if "vision_tower." in name}
    assert roots == {"paligemma_with_expert.paligemma.model."}
    with torch.inference_mode():
        expected = model.model.vlm.get_image_features(PIXELS).pooler_output
    spelled = ("{}", "model.{}", "vlm.", "model.vlm.")
    for at, root in enumerate(spelled):
        place = tmp_path / str(at)
        place.mkdir()
        for path in folder.glob("*.json"):
            (place / path.name).write_text(path.read_text())
        (own,) = roots
        new = root.format(own)
        save_file({name.replace(own, new): value for name, value in tensors.items()}, place / "model.safetensors")
        encoder = encoders.load(open_checkpoint(str(place)))
        assert "cameras" in encoder.layout
        with torch.inference_mode():
            torch.testing.assert_close(PrunedEncoder(encoder, none.Method(36))(PIXELS)[0], expected, **CLOSE)


@pytest.mark.parametrize("size", [(96, 128), (40, 30), (48, 48), (7, 200)], ids=str)
def test_a_cameras_image_is_fitted_and_padded_behind_normalisation(
    of_torchvision: Callable[[str], Any], size: tuple[int, int]
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    from transformers.image_utils import SizeDict

    own = of_torchvision("pi0").PI0ImageProcessor()
    given = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    fitted = own.resize(given, SizeDict(**FITTED["size"]), own.resample)
    height, width = fitted.shape[2:]
    wanted = np.zeros((3, 48, 48), np.float32)
    wanted[:, :height, :width] = own.rescale_and_normalize(fitted, True, 1 / 255, True, (0.5,) * 3, (0.5,) * 3)[0]
    steps = read_processor(FITTED, (48, 48))
    np.testing.assert_array_equal(steps(image), wanted)
    np.testing.assert_array_equal(steps.pixels(image)[:height, :width], fitted[0].permute(1, 2, 0))
    assert steps.pixels(image).shape == (48, 48, 3)


def scene(cameras: int) -> tuple[list[Image.Image], torch.Tensor, dict[str, Any]]:
    """Images, the prompt of the processor (every camera's placeholders, <bos>, text), and what the policy is given."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(cameras)]
    seeded = torch.Generator().manual_seed(1)
    given = {"state": torch.randn(1, 6, generator=seeded), "noise": torch.randn(1, 4, 5, generator=seeded)}
    return images, torch.tensor([[*[3] * 36 * cameras, 2, 8, 9, 10]]), given


@pytest.mark.slow
@pytest.mark.parametrize(
    "together",
    [pytest.param(True, id="a batch of cameras"), pytest.param(False, id="a bundle for each")],
)
def test_a_policy_acts_on_kept_tokens_as_on_the_references(
    policy: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    folder, model = policy
    images, prompt, given = scene(2)
    request = Request("divprune", "cpu", keep=9, model=str(folder), output=tmp_path / "b", baselines=False)
    if together:
        bundles: Any = load(export_bundle(Request(**{**vars(request), "tiles": 2})).folder)
    else:
        bundles = [load(export_bundle(request).folder)] * 2
    found = actions(model, prefix(model, bundles, images, prompt), **given)

    steps = read_processor(FITTED, (48, 48))
    pixels = torch.from_numpy(np.stack([steps(image) for image in images]))
    short = torch.tensor([[*[3] * 9 * 2, 2, 8, 9, 10]])
    encoder = encoders.load(open_checkpoint(str(folder)))
    with torch.inference_mode():
        rows = OfficialEncoder(encoder, divprune.Method(9))(pixels)[1].long()
        out = model.model.vlm.get_image_features(pixels, return_dict=True)
        out.pooler_output = torch.stack([one[kept] for one, kept in zip(out.pooler_output, rows, strict=True)])
    features = model.model.vlm.get_image_features
    monkeypatch.setattr(model.model.vlm, "get_image_features", wraps(features)(lambda *_, **__: out))
    expected = model.sample_actions(
        input_ids=short,
        pixel_values=pixels[None],
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        attention_mask=torch.ones_like(short),
        **given,
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = actions(model, prefix(model, bundles, images[::-1], prompt), **given)
    assert (found - other).abs().max() > 1e-3  # a policy that does the same whatever it sees would prove nothing


@pytest.mark.slow
def test_a_policy_with_every_token_acts_as_transformers_does(policy: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = policy
    images, prompt, given = scene(1)
    request = Request("none", "cpu", model=str(folder), output=tmp_path / "b", baselines=False)
    done = export_bundle(request)
    encoder = encoders.load(open_checkpoint(str(folder)))
    embedding = 36 * encoder.tower.patch_embedding.weight.numel()
    assert done.manifest.cost["graph"] == pytest.approx(formula(encoder, none.Method(36)) + embedding, rel=0.01)
    bundle = load(done.folder)
    expected = model.sample_actions(
        input_ids=prompt,
        pixel_values=torch.from_numpy(bundle.prepare(images))[None],
        pixel_attention_mask=torch.ones(1, 1, dtype=torch.bool),
        attention_mask=torch.ones_like(prompt),
        **given,
    )
    torch.testing.assert_close(actions(model, prefix(model, bundle, images, prompt), **given), expected, **CLOSE)


@pytest.mark.slow
def test_a_prompt_has_a_run_for_all_cameras_or_one_for_each(policy: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = policy
    images, _, _ = scene(2)
    request = Request("uniform", "cpu", keep=9, model=str(folder), output=tmp_path / "b", baselines=False)
    bundle = load(export_bundle(request).folder)
    for prompt in ([3, 2, 8], [3, 4, 3, 2, 8]):
        lengths = prefix(model, bundle, images, torch.tensor([prompt]))["attention_mask"].shape
        assert lengths == (1, len(prompt) - prompt.count(3) + 18)
    with pytest.raises(RequestError, match="one run of placeholders for all 2 cameras, or one for each, got 3"):
        prefix(model, bundle, images, torch.tensor([[3, 4, 3, 4, 3]]))


def test_a_config_of_lerobot_says_what_is_missing(policy: tuple[Path, Any], tmp_path: Path) -> None:
    from edgeprune.errors import ModelError

    for path in policy[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"type": "pi0", "n_obs_steps": 1}))
    with pytest.raises(ModelError, match="model_type"):
        encoders.load(open_checkpoint(str(tmp_path)))
