"""Weights of heads by leaving out one after the other: on the embedded model, against its own layers."""

from __future__ import annotations

import pytest
import torch

from edgeprune.errors import RequestError
from edgeprune.export.request import Request
from edgeprune.quality.language import load_language
from edgeprune.quality.sweep.items import Item, drawn
from edgeprune.train.heads import weigh_heads, without_head


def test_a_head_that_is_left_out_hands_on_nothing() -> None:
    language = load_language()
    attention = language.model.model.language_model.layers[0].self_attn
    hidden = torch.randn(1, 5, attention.o_proj.in_features)
    with torch.inference_mode():
        whole = attention.o_proj(hidden)
        with without_head(language, 1):
            without = attention.o_proj(hidden)
        own = attention.o_proj.weight[:, 32:64] @ hidden[0, :, 32:64].mT
        torch.testing.assert_close(whole - without, own.mT[None], rtol=1e-4, atol=1e-5)
        assert torch.equal(attention.o_proj(hidden), whole)


@pytest.mark.slow
def test_weights_are_what_is_lost_without_each_head() -> None:
    made = weigh_heads(Request("hawk", "cpu"), drawn(6, seed=41))
    lost = [max(0.0, made["right"] - one) for one in made["without"]]
    assert len(lost) == 4
    assert made["weights"] == pytest.approx([one / sum(lost) for one in lost], abs=1e-5)


def test_images_without_questions_weigh_nothing() -> None:
    with pytest.raises(RequestError, match="these images have no questions; leave --images out"):
        weigh_heads(Request("hawk", "cpu"), [Item("a", (0, 0))])
