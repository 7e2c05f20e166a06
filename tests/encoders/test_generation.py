"""A family's whole model of transformers: its own get_image_features gives the unpruned tokens, and what it says of the
kept ones of a bundle is what it says of the reference's, token by token.

The reference's are rows of get_image_features, by the reference's indices: nothing of a bundle or of ours is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgeprune.encoders import Encoder
from edgeprune.fit import build_method
from edgeprune.integrations.transformers import PREFIX, generation_inputs
from edgeprune.pruners import get, none
from edgeprune.reference import OfficialEncoder
from edgeprune.runtime import TokenEncoder, load
from edgeprune.trace import PrunedEncoder
from tests.covering import always
from tests.encoders.kinds import declared
from tests.encoders.test_matrix import KEEP

WHOLE = [name for name, one in declared().items() if one.given]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 60, 3), dtype=np.uint8))
COVERING = ("qwen3.5",)
"""always asked: rotary positions in three axes"""
NEW = 12
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-4}
Made = Callable[[str], tuple[Path, Encoder]]


@pytest.fixture(scope="module")
def model(made: Made, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """(name) -> transformers' own whole model"""
    found: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in found:
            found[name] = kind(name).own(made(name)[0])
        return found[name]

    return make


def parts(out: Any) -> dict[str, Any]:
    """What the language model reads of what get_image_features returned: by field, of one image [N, D] or, of several
    layers, a list of such."""
    found = {"pooler_output": out.pooler_output[0]}
    deeper = getattr(out, "deepstack_features", None)
    return found if deeper is None else found | {"deepstack_features": [level[0] for level in deeper]}


@pytest.mark.parametrize("name", WHOLE)
def test_unpruned_tokens_are_those_of_get_image_features(
    made: Made, model: Callable[[str], Any], kind: Callable[[str], Any], name: str
) -> None:
    encoder = made(name)[1]
    pixels = torch.randn(1, 3, *encoder.tower.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = parts(model(name).model.get_image_features(**kind(name).given(pixels), return_dict=True))
        expected = [own["pooler_output"], *own.get("deepstack_features", ())]
        for path in (PrunedEncoder, OfficialEncoder):
            out = path(encoder, none.Method(encoder.patches))(pixels)
            found = [out[0], *(out[len(out) - len(encoder.extras) :])]
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one[0], other, **CLOSE)


def kept_of(out: Any, indices: Tensor) -> Any:
    """What get_image_features returned, with these rows alone, in the form that it has."""

    def rows(of: Any) -> Any:
        return of[:, indices] if isinstance(of, Tensor) else [one[indices] for one in of]

    out.pooler_output = rows(out.pooler_output)
    if getattr(out, "deepstack_features", None) is not None:
        out.deepstack_features = [rows(level) for level in out.deepstack_features]
    return out


def spoken(model: Any, **inputs: Any) -> list[int]:
    """The new tokens alone, the likeliest ones."""
    found = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


def places(model: Any, prompt: list[int], kept: Tensor, encoder: Encoder) -> Tensor:
    """[3, 1, L'] of the prompt with the kept tokens, from the positions that the model gives the whole image."""
    image = model.config.image_token_id
    at, (rows, columns) = prompt.index(image), encoder.tower.grid
    whole = torch.tensor([[*prompt[:at], *[image] * encoder.patches, *prompt[at + 1 :]]])
    axes, _ = model.model.get_rope_index(
        whole, mm_token_type_ids=(whole == image).int(), image_grid_thw=torch.tensor([[1, rows, columns]])
    )
    stays = torch.cat((torch.arange(at), at + kept.long(), torch.arange(at + encoder.patches, whole.shape[1])))
    found: Tensor = axes[:, :, stays]
    return found


@pytest.mark.parametrize("name", always(WHOLE, *COVERING))
def test_it_says_the_same_from_the_bundle_and_from_the_reference(
    made: Made,
    model: Callable[[str], Any],
    kind: Callable[[str], Any],
    cell: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    encoder, own, method = made(name)[1], model(name), kind(name).exported.split()[0]
    image = own.config.image_token_id
    bundle = load(cell(name, method, KEEP).folder, kind=TokenEncoder)
    prompt = [5, 6, 7, image, 8, 9, 10]
    inputs = generation_inputs(own, bundle, PHOTO, torch.tensor([prompt]))
    assert inputs["input_ids"].tolist() == [[5, 6, 7, *[image] * KEEP, 8, 9, 10]]

    pixels = torch.from_numpy(bundle.prepare(PHOTO))
    given = kind(name).given(pixels)
    with torch.inference_mode():
        indices = OfficialEncoder(encoder, build_method(get(method), method, encoder, KEEP))(pixels)[1][0].long()
        kept = kept_of(own.model.get_image_features(**given, return_dict=True), indices)
    features = own.model.get_image_features  # `generate` looks at its parameters
    monkeypatch.setattr(own.model, "get_image_features", wraps(features)(lambda *_, **__: kept))
    rest = {name: value for name, value in inputs.items() if name not in ("position_ids", "mm_encoder_outputs")}
    for mark in ("token_type_ids", "mm_token_type_ids"):  # of models whose image tokens see each other both ways
        of_image = (inputs["input_ids"] == image).long()
        wanted = torch.zeros_like(of_image) if own.config.model_type in PREFIX else of_image
        assert mark not in inputs or torch.equal(inputs[mark], wanted)
    if encoder.positions is not None:
        axes = places(own, prompt, indices, encoder)
        if inputs["position_ids"].shape[0] == 4:  # in front of the axes the place in the sequence
            axes = torch.cat((torch.arange(axes.shape[2]).expand(1, 1, -1), axes))
        assert torch.equal(inputs["position_ids"], axes)
        rest["position_ids"] = axes
    assert spoken(own, **inputs) == spoken(own, **rest, **given)
    with torch.inference_mode():  # a model that says the same of every image would prove nothing
        upside_down = generation_inputs(own, bundle, PHOTO.rotate(180), torch.tensor([prompt]))
        assert (own(**upside_down).logits[0, -1] - own(**inputs).logits[0, -1]).abs().max() > 0.001


@pytest.mark.parametrize("name", always(WHOLE, *COVERING))
def test_the_graph_costs_what_the_formula_says(
    made: Made, kind: Callable[[str], Any], cell: Callable[..., Any], name: str
) -> None:
    encoder, method = made(name)[1], kind(name).exported.split()[0]
    manifest = cell(name, method, KEEP).manifest
    embedding = encoder.tower.patch_embedding
    pixels = prod(encoder.tower.image_size) // prod(embedding.kernel_size) * embedding.weight.numel()
    own = {"divprune": encoder.patches**2 * manifest.outputs["tokens"].shape[-1]}.get(method, 0)  # at most
    least = manifest.cost["formula"] + pixels
    assert 0.99 * least <= manifest.cost["graph"] <= 1.01 * (least + own)
