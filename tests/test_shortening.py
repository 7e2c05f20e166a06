"""Tokens dropped inside an encoder: what goes on is what was kept, with its own positions, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.encoders import Tower
from edgeprune.encoders._attention import recording
from edgeprune.shortening import dropping

GRID, PREFIX, SUFFIX, LAYERS, WIDTH = (3, 4), 1, 2, 4, 16
PATCHES = 12
PIXELS = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def tower(between: bool = True) -> Tower:
    """A YOLOS of transformers, all of whose tensors are random, so that no position is like another."""
    from transformers import YolosConfig, YolosModel

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=[12, 16],
        patch_size=4,
        num_detection_tokens=SUFFIX,
        use_mid_position_embeddings=between,
    )
    model: Any = YolosModel(config, add_pooling_layer=False)
    module = model.eval().requires_grad_(False)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    layers = list(module.encoder.layer)
    return Tower(
        module,
        [layer.attention.attention for layer in layers],
        module.embeddings.patch_embeddings.projection,
        (12, 16),
        GRID,
        PREFIX,
        True,
        WIDTH,
        24,
        suffix=SUFFIX,
        embeddings=module.embeddings,
        blocks=layers,
        between=module.encoder.interpolation,
    )


@pytest.fixture(scope="module", params=[True, False], ids=["positions between layers", "none between layers"])
def one(request: pytest.FixtureRequest) -> Tower:
    return tower(request.param)


def every(patches: Tensor) -> Tensor:
    return torch.arange(patches.shape[1]).expand(len(patches), -1)


ROWS = torch.tensor([[0, 3, 4, 9, 11], [1, 2, 3, 4, 5], [0, 5, 6, 7, 10]])
"""other ones of every image"""


def run(one: Tower, depth: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.inference_mode(), recording(one.module, ()), dropping(one, depth, choose):
        found: Tensor = one.module(PIXELS, output_hidden_states=True).last_hidden_state
    return found


def hooks(one: Tower) -> list[Any]:
    modules: Iterator[Any] = chain.from_iterable(
        (*module._forward_hooks.values(), *module._forward_pre_hooks.values()) for module in one.module.modules()
    )
    return list(modules)


@pytest.mark.parametrize("depth", range(LAYERS))
def test_keeping_every_patch_changes_nothing_bit_for_bit(one: Tower, depth: int) -> None:
    with torch.inference_mode(), recording(one.module, ()):
        expected = one.module(PIXELS).last_hidden_state
    assert torch.equal(run(one, depth, every), expected)


@pytest.mark.parametrize("depth", range(LAYERS))
def test_it_equals_the_whole_encoder_whose_later_layers_do_not_see_the_dropped_patches(one: Tower, depth: int) -> None:
    visible = torch.zeros(3, PREFIX + PATCHES + SUFFIX, dtype=torch.bool)
    visible[:, :PREFIX] = visible[:, -SUFFIX:] = True
    visible.scatter_(1, ROWS + PREFIX, True)
    blind = dict.fromkeys(one.attention[depth:], visible)
    with torch.inference_mode(), recording(one.module, (), written_out=True, visible=blind):
        whole = one.module(PIXELS).last_hidden_state
    expected = torch.stack([image[rows] for image, rows in zip(whole, visible, strict=True)])
    torch.testing.assert_close(run(one, depth, lambda patches: ROWS), expected, **CLOSE)


@pytest.mark.parametrize("depth", range(LAYERS))
def test_the_choice_sees_the_patches_at_that_place_and_is_asked_once(one: Tower, depth: int) -> None:
    seen: list[Tensor] = []

    def choose(patches: Tensor) -> Tensor:
        seen.append(patches)
        return ROWS

    run(one, depth, choose)
    entered: list[Tensor] = []
    handle = one.blocks[depth].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    with torch.inference_mode(), recording(one.module, ()):
        one.module(PIXELS)
    handle.remove()
    assert len(seen) == 1
    assert torch.equal(seen[0], entered[0][:, PREFIX:-SUFFIX])


def test_a_wrong_row_of_the_positions_between_layers_would_show() -> None:
    """The patches themselves are alike here; only the table tells them apart."""
    one = tower()
    one.patch_embedding.weight.data.zero_()
    one.module.get_parameter("embeddings.position_embeddings").data.zero_()
    one_row = torch.tensor([[4]] * 3)
    assert not torch.allclose(
        run(one, 0, lambda patches: one_row)[:, 1], run(one, 0, lambda patches: one_row + 1)[:, 1], atol=0.1
    )


def test_layers_behind_the_place_run_on_the_kept_tokens_alone() -> None:
    one, lengths = tower(), []
    handles = [
        block.register_forward_pre_hook(lambda module, given: lengths.append(given[0].shape[1])) for block in one.blocks
    ]
    run(one, 2, lambda patches: ROWS)
    for handle in handles:
        handle.remove()
    whole, kept = PREFIX + PATCHES + SUFFIX, PREFIX + ROWS.shape[1] + SUFFIX
    assert lengths[:2] == [whole, whole]
    assert lengths[3:] == [kept]  # the hook of layer 2 stands in front of the one that drops


@pytest.mark.parametrize("depth", [0, 2])
def test_no_hook_is_left_behind(one: Tower, depth: int) -> None:
    before = hooks(one)
    with dropping(one, depth, every):
        assert len(hooks(one)) > len(before)
    assert hooks(one) == before


@pytest.mark.parametrize("depth", [0, 2])
def test_no_hook_is_left_behind_when_the_choice_fails(one: Tower, depth: int) -> None:
    before = hooks(one)

    def fail(patches: Tensor) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        run(one, depth, fail)
    assert hooks(one) == before
    with torch.inference_mode(), recording(one.module, ()):
        assert one.module(PIXELS).last_hidden_state.shape[1] == PREFIX + PATCHES + SUFFIX
