"""What a method reads is what the encoder computed, and reading it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune import encoders
from edgeprune import taps as taps_module
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.encoders._attention import attending, recording
from edgeprune.taps import Attention, Taps


@pytest.fixture(scope="module")
def encoder(clip_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoders.load(open_checkpoint(str(clip_folder(tmp_path_factory.mktemp("clip")))))


def taps(attention: Attention, prefix: int = 1) -> Taps:
    return Taps({3: attention}, torch.empty(0), torch.empty(0), (2, 3), prefix, depth=4)


def test_cls_attention_is_the_first_softmax_row_without_the_special_columns() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 3, 7, 4)), rng.normal(size=(2, 3, 7, 4))
    logits = np.einsum("bhqd,bhkd->bhqk", query, key) * 0.5
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    got = taps(Attention(torch.tensor(query), torch.tensor(key), 0.5)).cls_attention()
    np.testing.assert_allclose(got.numpy(), weights[:, :, 0, 1:], rtol=1e-5)


def test_cls_attention_is_not_renormalised_after_the_cls_column_is_dropped() -> None:
    seen = Attention(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 5, 2), 1.0)
    assert taps(seen).cls_attention().tolist() == [[[pytest.approx(0.2)] * 4]]


def test_cls_attention_is_float32_for_float16_weights() -> None:
    query, key = torch.randn(1, 2, 5, 8).half(), torch.randn(1, 2, 5, 8).half()
    got = taps(Attention(query, key, 0.3)).cls_attention()
    assert got.dtype == torch.float32
    exact = ((query[:, :, :1].double() @ key.double().mT) * 0.3).softmax(-1)[:, :, 0, 1:]
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=0)


def test_column_mean_is_over_heads_and_all_queries_without_the_special_columns() -> None:
    rng = np.random.default_rng(3)
    query, key = rng.normal(size=(2, 3, 7, 4)), rng.normal(size=(2, 3, 7, 4))
    logits = np.einsum("bhqd,bhkd->bhqk", query, key) * 0.5
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    got = taps(Attention(torch.tensor(query), torch.tensor(key), 0.5)).column_mean()
    np.testing.assert_allclose(got.numpy(), weights.mean(axis=(1, 2))[:, 1:], rtol=1e-5)


def test_case_the_map_of_many_patches_is_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Gemma 3's 4096, in float32 1 GiB."""
    rng = np.random.default_rng(4)
    query, key = (torch.tensor(rng.normal(size=(2, 3, 7, 4)), dtype=torch.float32) for _ in range(2))
    seen = Attention(query, key, 0.5)
    exact = (query.double() @ key.double().mT * 0.5).softmax(-1).mean(dim=(1, 2))
    largest: list[int] = []
    softmax = torch.Tensor.softmax

    def counted(given: torch.Tensor, dim: int) -> torch.Tensor:
        largest.append(given.numel())
        return softmax(given, dim)

    monkeypatch.setattr(torch.Tensor, "softmax", counted)
    for limit, parts in ((2 * 3 * 7 * 7, 1), (2 * 3 * 7 * 3, 3), (1, 7)):
        monkeypatch.setattr(taps_module, "LARGEST", limit)
        largest.clear()
        torch.testing.assert_close(taps(seen).column_mean().double(), exact[:, 1:], rtol=1e-6, atol=1e-8)
        assert len(largest) == parts
        assert max(largest) <= max(limit, 2 * 3 * 7)


def test_only_the_named_layers_are_recorded(encoder: Encoder) -> None:
    wanted = encoder.tower.attention[2]
    with recording(encoder.tower.module, [wanted]) as seen, torch.inference_mode():
        encoder.tower.module(torch.randn(1, 3, 48, 48))
    assert list(seen.attention) == [wanted]
    found = seen.attention[wanted]
    assert found.query.shape == found.key.shape == (1, 2, 37, 16)


def test_recorded_queries_and_keys_reproduce_the_layers_own_attention_map(encoder: Encoder) -> None:
    pixels, layer = torch.randn(2, 3, 48, 48), encoder.tower.attention[1]
    with torch.inference_mode():
        with recording(encoder.tower.module, [layer]) as seen:
            encoder.tower.module(pixels)
        with attending(encoder.tower.module, "eager"):
            own = encoder.tower.module(pixels, output_attentions=True).attentions[1]
    found = seen.attention[layer]
    torch.testing.assert_close(taps(found).cls_attention(), own[:, :, 0, 1:], rtol=1e-4, atol=1e-6)


def test_recording_leaves_the_output_and_the_implementation_as_they_were(encoder: Encoder) -> None:
    module, pixels = encoder.tower.module, torch.randn(1, 3, 48, 48)
    before = module.config._attn_implementation  # type: ignore[union-attr]
    with torch.inference_mode():
        plain = module(pixels).last_hidden_state
        with recording(module, encoder.tower.attention):
            recorded = module(pixels).last_hidden_state
    torch.testing.assert_close(recorded, plain)
    assert module.config._attn_implementation == before  # type: ignore[union-attr]


def test_the_implementation_is_restored_when_the_encoder_fails(encoder: Encoder) -> None:
    module = encoder.tower.module
    before = module.config._attn_implementation  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="image size"), recording(module, []):
        module(torch.randn(1, 3, 32, 32))
    assert module.config._attn_implementation == before  # type: ignore[union-attr]
