"""DeSAP's scores and merges: written here in numpy float64, image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders._attention import recording
from edgeprune.errors import MethodError
from edgeprune.ports import ALIGNED, TEXT, TEXT_MASK
from edgeprune.pruners import Eager, Selection
from edgeprune.pruners.desap import Method
from edgeprune.runtime.parity import Verdict
from edgeprune.taps import Attention, Taps

Floats = NDArray[np.float64]
IMAGES, GRID, PATCHES, WIDTH, ROWS = 36, (5, 8), 40, 16, 5
DRAWN = np.random.default_rng(12)
QUERY, KEY = DRAWN.normal(size=(2, IMAGES, 2, 1 + PATCHES, 8))
FEATURES, BRANCH = DRAWN.normal(size=(2, IMAGES, PATCHES, WIDTH))
WORDS = DRAWN.normal(size=(IMAGES, ROWS, WIDTH))
MASK = (np.arange(ROWS) < np.arange(IMAGES)[:, None] % (ROWS + 1)).astype(float)
"""from no word at all to as many as there may be"""
BUDGETS = (2, 9, 24)


def maps() -> Floats:
    logits = QUERY @ KEY.swapaxes(-1, -2) * 8**-0.5
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def formula(attended: Floats, v: Floats, h: Floats, words: Floats, keep: int) -> tuple[list[int], Floats]:
    """One image: the [CLS] row, the branch, the features, the words alone -> what is kept, and the merged features."""
    c = (unit(v) @ unit(words).T).max(axis=1) if len(words) else np.zeros(len(v))
    score = attended / attended.max() + np.exp((c - c.max()) / 0.1)
    kept = sorted(np.argsort(-score)[:keep].tolist())
    members: dict[int, list[int]] = {one: [one] for one in kept}
    for patch in set(range(len(h))) - set(kept):
        members[kept[int((unit(h)[kept] @ unit(h)[patch]).argmax())]].append(patch)
    return kept, np.stack([h[members[one]].mean(axis=0) for one in kept])


def both(method: Method, mask: Floats = MASK, words: Floats = WORDS) -> tuple[Selection, Selection]:
    """The static form and the official one, in float32."""
    h, v = (torch.tensor(one).float() for one in (FEATURES, BRANCH))
    given = {TEXT: torch.tensor(words).float(), TEXT_MASK: torch.tensor(mask).float()}
    attention = {0: Attention(torch.tensor(QUERY).float(), torch.tensor(KEY).float(), 8**-0.5)}
    static = method.select(Taps(attention, h, h, GRID, 1, 1, aligner=nn.Identity(), given=given, branch=v))
    seen = [torch.tensor(maps()).float()]
    return static, method.official(Eager(seen, h, h, GRID, 1, aligned_branch=v, given=given))


@pytest.mark.parametrize("keep", BUDGETS)
def test_both_forms_equal_the_formula(keep: int, judged: Callable[..., Verdict]) -> None:
    method, attended = Method(keep, ROWS), maps()[:, :, 0, 1:].mean(axis=1)
    static, official = both(method)
    for chosen in (static, official):
        assert chosen.merge is not None
        for image in range(IMAGES):
            words = WORDS[image, : int(MASK[image].sum())]
            kept, merged = formula(attended[image], BRANCH[image], FEATURES[image], words, keep)
            assert chosen.indices[image].tolist() == kept
            got = chosen.merge[image].double().numpy() @ FEATURES[image]
            np.testing.assert_allclose(got, merged, rtol=1e-4, atol=1e-5)
    assert not judged(method, FEATURES, official, static).reasons


def test_what_stands_in_rows_that_are_no_words_is_not_read() -> None:
    other = np.where(MASK[..., None] > 0, WORDS, 1e3)
    for one, changed in zip(both(Method(9, ROWS)), both(Method(9, ROWS), words=other), strict=True):
        assert torch.equal(one.scores, changed.scores)


def test_what_attention_adds_is_what_its_module_hands_on() -> None:
    encoder = encoders.load(open_checkpoint(None))
    tower, pixels = encoder.tower, torch.randn(1, 3, 96, 96)
    layer = encoder.sources[0]
    with torch.inference_mode(), recording(tower.module, tower.attention[layer : layer + 1]) as seen:
        out = tower.module(pixels, output_hidden_states=True)
        before, block = out.hidden_states[layer], cast(Any, tower.blocks[layer])
        added = seen.attention[tower.attention[layer]].output
        behind = before + added
        torch.testing.assert_close(behind + block.mlp(block.layer_norm2(behind)), out.hidden_states[layer + 1])


def test_a_text_has_as_many_rows_as_clip_has_places() -> None:
    text, mask = Method(9).ports
    assert (text.shape, text.blank, text.beside, mask.shape) == ((77, ALIGNED), 0.0, "text_mask", (77,))
    with pytest.raises(MethodError, match="option texts of desap must be 1 or more, got 0"):
        Method(9, texts=0)
