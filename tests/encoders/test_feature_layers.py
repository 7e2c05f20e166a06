"""A `vision_feature_layer` that is a list (Granite Vision and its kin): the layers' features side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.errors import ModelError, RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.cost import formula
from edgeprune.pruners import Method, divprune, fastervlm, none, received
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder

Made = Callable[[str], tuple[Path, Encoder]]
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
NAMES = ("llava next granite", "llava clip layers")


def theirs(kind: Any, folder: Path) -> torch.Tensor:
    """The tokens of the model's own get_image_features, of an image that is one tile."""
    model = kind.own(folder)
    with torch.inference_mode():
        if "Next" in kind.architecture:  # of which every image is a whole one and two tiles
            found = [model.get_image_features(one.expand(1, 3, -1, -1, -1), torch.tensor([[48, 96]])) for one in PIXELS]
            return torch.stack([one.pooler_output[0][:36] for one in found])
        return torch.stack(list(model.get_image_features(PIXELS).pooler_output))


@pytest.mark.parametrize("name", NAMES)
def test_case_layer_list_tokens_are_those_of_transformers(made: Made, kind: Callable[..., Any], name: str) -> None:
    folder, encoder = made(name)
    expected = theirs(kind(name), folder)
    with torch.inference_mode():
        for path in (PrunedEncoder, OfficialEncoder):
            torch.testing.assert_close(path(encoder, none.Method(36))(PIXELS)[0], expected, **CLOSE)


def test_the_layers_are_in_the_order_of_the_config_and_the_deepest_is_the_encoders(made: Made) -> None:
    encoder = made("llava clip layers")[1]
    assert (encoder.layer, encoder.beside, encoder.features) == (2, (2, 0, 1), "hidden_states[2, 0, 1]")


@pytest.mark.parametrize(
    ("name", "method"),
    [(NAMES[0], divprune.Method(9)), (NAMES[1], fastervlm.Method(9)), (NAMES[1], received.Method(9, layer=1))],
    ids=["projected", "attention of the deepest", "dropped inside"],
)
def test_kept_tokens_are_those_of_the_unpruned_features(made: Made, name: str, method: Method) -> None:
    encoder = made(name)[1]
    with torch.inference_mode():
        found, expected = (path(encoder, method)(PIXELS) for path in (PrunedEncoder, OfficialEncoder))
        every = PrunedEncoder(encoder, none.Method(36))(PIXELS)[0]
    torch.testing.assert_close(found[0], expected[0], **CLOSE)
    assert torch.equal(found[1], expected[1])
    if not method.traits.inside:
        every = every.reshape(len(found[1]), -1, every.shape[2])  # of tiles that are one pool, one image
        kept = every.gather(1, found[1].long()[:, :, None].expand(-1, -1, every.shape[2]))
        torch.testing.assert_close(found[0], kept, **CLOSE)


def test_a_method_that_reads_the_last_attention_reads_that_of_the_deepest_layer(
    made: Made, kind: Callable[..., Any]
) -> None:
    folder, encoder = made("llava clip layers")
    model = kind("llava clip layers").own(folder)
    with torch.inference_mode():
        model.model.vision_tower.set_attn_implementation("eager")
        maps = model.model.vision_tower(PIXELS, output_attentions=True).attentions
        found = PrunedEncoder(encoder, fastervlm.Method(9))(PIXELS)[2]
    torch.testing.assert_close(found, maps[1].mean(1)[:, 0, 1:], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_selection_moves_up_through_the_deepest_layer(made: Made, tmp_path: Path) -> None:
    """So that the graph costs what the formula says, whose projector is as wide as all the layers."""
    folder, encoder = made("llava clip layers")
    request = Request("fastervlm", "cpu", keep=9, model=str(folder), output=tmp_path / "bundle", baselines=False)
    exported = export_bundle(request)
    assert exported.reports[0].passed
    assert exported.manifest.model.features == "hidden_states[2, 0, 1]"
    patch_embedding = 36 * encoder.tower.patch_embedding.weight.numel()
    expected = formula(encoder, fastervlm.Method(9)) + patch_embedding - 37 * 32  # [CLS] meets keys alone
    assert exported.manifest.cost["graph"] == expected


@pytest.mark.parametrize("layer", [-1, 2])
def test_case_layer_list_one_layer_of_several_is_refused_before_a_weight_is_read(made: Made, layer: int) -> None:
    checkpoint = open_checkpoint(str(made(NAMES[0])[0]))
    checkpoint.shards.clear()
    with pytest.raises(RequestError, match=rf"takes 3 layers side by side \(-3, 1, -1\), --layer {layer} would give"):
        encoders.load(checkpoint, layer)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([-1, 9], r"layer must be in 0\.\.2 or -3\.\.-1 for 2 layers, got 9"),
        ([0, 0], r"layer must be in 1\.\.2"),
    ],
    ids=str,
)
def test_layers_that_are_not_there_are_refused(made: Made, given: list[int], says: str) -> None:
    checkpoint = open_checkpoint(str(made(NAMES[1])[0]))
    checkpoint.config["vision_feature_layer"] = given
    if len(given) < 3:  # as wide as the projector is
        given.extend(given[:1] * (3 - len(given)))
    with pytest.raises(ModelError, match=says):
        encoders.load(checkpoint)


def test_internvl_reads_one_layer_as_transformers_does(made: Made) -> None:
    checkpoint = open_checkpoint(str(made("internvl")[0]))
    checkpoint.config["vision_feature_layer"] = [-2, -1]
    with pytest.raises(ModelError, match="of an internvl must be one layer"):
        encoders.load(checkpoint)
