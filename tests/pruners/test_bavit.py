"""BAViT: the classifier written once more in numpy; what is kept; and what the rest of the model makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune.encoders import Encoder
from edgeprune.errors import MethodError, RequestError
from edgeprune.fit import build_method
from edgeprune.pruners import Host, bavit, none
from edgeprune.pruners._scorer import Scorer
from edgeprune.pruners.bavit import Method
from edgeprune.reference import OfficialEncoder
from edgeprune.trace import PrunedEncoder
from tests.covering import always

MakeScorer = Callable[..., Scorer]
Array = NDArray[np.float64]
PIXELS = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
PATCHES, KEEP, DETECTING = 48, 20, 5
KINDS = ["front", "coarse", "trunk"]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def classified(scorer: Scorer, pixels: Tensor) -> Array:
    """[B, n, 2], the classifier of the head of `edgeprune.pruners._scorer` in float64."""
    state: dict[str, Array] = {name: value.double().numpy() for name, value in scorer.state_dict().items()}
    size, (batch, _, height, width) = scorer.config.patch_size, pixels.shape
    cut = pixels.double().numpy().reshape(batch, 3, height // size, size, width // size, size)
    rows = cut.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, 3 * size * size)
    x = rows @ state["patch_embedding.weight"].reshape(-1, 3 * size * size).T + state["patch_embedding.bias"]
    x = x + state["positions"]
    for layer in range(scorer.config.layers):
        block = {name.removeprefix(f"blocks.{layer}."): value for name, value in state.items()}
        x = x + attended(normed(x, block, "norm1"), block, scorer.config.heads)
        hidden = linear(normed(x, block, "norm2"), block, "mlp.0")
        x = x + linear(0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))), block, "mlp.2")
    return linear(normed(x, state, "norm"), state, "head")


def linear(x: Array, state: dict[str, Array], name: str) -> Array:
    found: Array = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    return found


def normed(x: Array, state: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    found: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return found * state[f"{name}.weight"] + state[f"{name}.bias"]


def attended(x: Array, state: dict[str, Array], heads: int) -> Array:
    query, key, value = (
        linear(x, state, name).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        for name in ("query", "key", "value")
    )
    weights = np.exp(query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1]))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ value
    return linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), state, "output")


def best(scores: Array, keep: int) -> NDArray[np.int64]:
    return np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :keep], axis=1)


def built(encoder: Encoder, scorer: Scorer, keep: int = KEEP, **options: str) -> Method:
    found = build_method(bavit.Method, "bavit", encoder, keep, options, scorer=scorer)
    assert isinstance(found, Method)
    return found


def run(encoder: Encoder, method: Any, pixels: Tensor = PIXELS) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        found: tuple[Tensor, ...] = PrunedEncoder(encoder, method).eval()(pixels)
    return found


def test_front_scores_are_foreground_minus_background_of_every_patch(
    detector: Encoder, make_scorer: MakeScorer
) -> None:
    scorer = make_scorer("front")
    logits = classified(scorer, PIXELS)
    _, _, indices, scores, *_ = run(detector, built(detector, scorer))
    expected = logits[..., 1] - logits[..., 0]
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(indices.numpy(), best(expected, KEEP))


def test_coarse_keeps_or_drops_blocks_of_four(detector: Encoder, make_scorer: MakeScorer) -> None:
    scorer = make_scorer("coarse")
    logits = classified(scorer, PIXELS)
    blocks = logits[..., 1] - logits[..., 0]
    _, _, indices, scores, *_ = run(detector, built(detector, scorer))
    expected = np.kron(blocks.reshape(3, 3, 4), np.ones((1, 2, 2)))
    np.testing.assert_allclose(scores.numpy(), expected.reshape(3, -1), rtol=1e-4, atol=1e-4)
    chosen = np.zeros((3, 12))
    np.put_along_axis(chosen, best(blocks, KEEP // 4), 1, axis=1)
    kept = np.kron(chosen.reshape(3, 3, 4), np.ones((1, 2, 2))).reshape(3, -1)
    np.testing.assert_array_equal(indices.numpy(), [np.flatnonzero(image) for image in kept])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_trunk_reads_the_hidden_state_behind_its_layers_with_the_position_that_is_added_there(
    detector: Encoder, yolos_folder: Path, make_scorer: MakeScorer, layers: int
) -> None:
    from transformers import YolosForObjectDetection

    own = cast(Any, YolosForObjectDetection).from_pretrained(yolos_folder).eval()
    entered: list[Tensor] = []
    own.vit.encoder.layer[layers].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    with torch.inference_mode():
        own(pixel_values=PIXELS)
    scorer = make_scorer("trunk", layers=layers)
    state: dict[str, Array] = {name: value.double().numpy() for name, value in scorer.state_dict().items()}
    logits = linear(normed(entered[0][:, 1:-DETECTING].double().numpy(), state, "norm"), state, "head")
    _, _, indices, scores, *_ = run(detector, built(detector, scorer))
    expected = logits[..., 1] - logits[..., 0]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(indices.numpy(), best(expected, KEEP))


def blinded(own: Any, indices: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """transformers' own model, whose layers from `depth` on do not attend to patches that are not kept."""
    from transformers import AttentionInterface

    visible = torch.ones(3, 1 + PATCHES + DETECTING, dtype=torch.bool)
    visible[:, 1:-DETECTING] = False
    visible.scatter_(1, 1 + indices.long(), True)
    later = {layer.attention.attention for layer in own.vit.encoder.layer[depth:]}

    def masked(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        weights = query @ key.transpose(2, 3) * scaling
        if module in later:
            weights = weights.masked_fill(~visible[:, None, None], -torch.inf)
        return (weights.softmax(-1) @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("masked", masked)
    own.set_attn_implementation("masked")
    with torch.inference_mode():
        out = own(pixel_values=PIXELS)
    return out.logits, out.pred_boxes


@pytest.mark.parametrize("kind", KINDS)
def test_the_pruned_model_equals_the_dense_one_that_does_not_see_the_dropped_patches(
    detector: Encoder, yolos_folder: Path, make_scorer: MakeScorer, kind: str
) -> None:
    from transformers import YolosForObjectDetection

    method = built(detector, make_scorer(kind))
    logits, boxes, indices, *_ = run(detector, method)
    own = cast(Any, YolosForObjectDetection).from_pretrained(yolos_folder).eval()
    assert method.steps(4) == ((2 if kind == "trunk" else 0),)
    expected = blinded(own, indices, method.steps(4)[0])
    torch.testing.assert_close((logits, boxes), expected, **CLOSE)
    dense = blinded(own, torch.arange(PATCHES).expand(3, -1), 0)
    assert not torch.allclose(dense[0], logits, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_every_patch_equals_the_unpruned_model_bit_for_bit(
    detector: Encoder, make_scorer: MakeScorer, kind: str
) -> None:
    everything = run(detector, built(detector, make_scorer(kind), PATCHES))
    unpruned = run(detector, none.Method(PATCHES))
    assert torch.equal(everything[0], unpruned[0])
    assert torch.equal(everything[1], unpruned[1])
    assert everything[2].tolist() == [[*range(PATCHES)]] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", always([4, 20, 44, 48], 20))
@pytest.mark.parametrize("spread", ["false", "true"])
def test_both_forms_agree(detector: Encoder, make_scorer: MakeScorer, kind: str, keep: int, spread: str) -> None:
    method = built(detector, make_scorer(kind), keep, spread=spread)
    found = run(detector, method)
    with torch.inference_mode():
        expected, _ = OfficialEncoder(detector, method).eval().choose(PIXELS)
    assert torch.equal(found[2], expected[2])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_a_batch_is_chosen_and_detected_by_itself(
    detector: Encoder, make_scorer: MakeScorer, kind: str
) -> None:
    method = built(detector, make_scorer(kind))
    together, alone = run(detector, method), run(detector, method, PIXELS[1:2])
    assert torch.equal(together[2][1], alone[2][0])
    assert together[2][0].tolist() != together[2][1].tolist()
    torch.testing.assert_close(together[0][1], alone[0][0], **CLOSE)


def host(**changes: Any) -> Host:
    own: dict[str, Any] = {"grid": (6, 8), "patch_size": 8, "width": 32, "layers": 4, "mean": (0.0,) * 3}
    return Host(**{**own, "std": (1.0,) * 3, **changes})


@pytest.mark.parametrize(
    ("kind", "scorer", "encoder", "said"),
    [
        ("front", {}, {"patch_size": 16}, r"patches of 8 pixels \(front the encoder's\), .* has patches of 16; .* 16$"),
        ("front", {"patch_size": 16}, {}, r"patches of 16 pixels .* this encoder has patches of 8; .*--patch-size 8"),
        ("coarse", {}, {"patch_size": 16}, r"patches of 16 pixels \(coarse, a multiple of the encoder's\)"),
        ("coarse", {"patch_size": 12}, {}, "patches of 12 pixels"),
        ("trunk", {"width": 48}, {}, "of width 48 behind layer 2, this encoder has width 32 and 4 layers; train one"),
        ("trunk", {"layers": 4}, {}, "of width 32 behind layer 4, this encoder has width 32 and 4 layers"),
        ("trunk", {"layers": 0}, {}, "behind layer 0"),
    ],
)  # fmt: skip
def test_a_scorer_of_another_encoder_is_refused(
    make_scorer: MakeScorer, kind: str, scorer: dict[str, Any], encoder: dict[str, Any], said: str
) -> None:
    with pytest.raises(MethodError, match=said) as error:
        Method.fitted(KEEP, make_scorer(kind, **scorer), host(**encoder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("keep", "near"), [(2, "4 would"), (18, "16 or 20 would"), (47, "44 or 48 would")])
def test_a_budget_that_breaks_a_block_is_refused_with_the_nearest(
    detector: Encoder, make_scorer: MakeScorer, keep: int, near: str
) -> None:
    with pytest.raises(RequestError, match=rf"multiple of the 4 patches of a block, got {keep}; {near}"):
        built(detector, make_scorer("coarse"), keep)


def test_a_grid_that_breaks_a_block_is_refused(make_scorer: MakeScorer) -> None:
    with pytest.raises(RequestError, match="blocks of 2x2 patches, got 5x8; choose a size of multiples of 16 pixels"):
        Method.fitted(KEEP, make_scorer("coarse"), host(grid=(5, 8)))


def test_it_must_have_a_scorer_and_others_must_have_none(detector: Encoder, make_scorer: MakeScorer) -> None:
    with pytest.raises(MethodError, match="bavit needs trained weights: give --scorer, made by `edgeprune"):
        build_method(bavit.Method, "bavit", detector, KEEP)
    with pytest.raises(MethodError, match="none has no weights: leave --scorer out"):
        build_method(none.Method, "none", detector, None, scorer=make_scorer())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"layer": "2"}, "no option of bavit 'layer'; have spread"),
        ({"side": "2"}, "no option of bavit 'side'"),  # the scorer's
        ({"spread": "evenly"}, "option spread of bavit must be true or false, got 'evenly'"),
    ],
)
def test_it_has_one_option(detector: Encoder, make_scorer: MakeScorer, option: dict[str, str], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        built(detector, make_scorer(), KEEP, **option)


def test_what_stands_in_the_manifest_says_which_scorer_it_is(detector: Encoder, make_scorer: MakeScorer) -> None:
    scorer = make_scorer("front")
    options = built(detector, scorer).options()
    assert (options["scorer"], options["layers"], options["width"]) == ("front", 2, 16)
    assert options["sha256"] == scorer.digest
    assert options["spread"] is False
    assert built(detector, scorer, spread="true").options() == {**options, "spread": True}


def test_pixels_of_another_normalisation_are_scored_as_the_same_image(
    detector: Encoder, make_scorer: MakeScorer
) -> None:
    image, mean, std = torch.rand(2, 3, 48, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    scorer = make_scorer("front")
    logits = classified(scorer, image)  # trained on pixels as they are
    method = build_method(bavit.Method, "bavit", detector, KEEP, scorer=scorer, pixels=(mean, std))
    given = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    scores = run(detector, method, given)[3]
    np.testing.assert_allclose(scores.numpy(), logits[..., 1] - logits[..., 0], rtol=1e-3, atol=1e-3)
