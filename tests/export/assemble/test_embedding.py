"""embedding.onnx, held against what it says it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.export.assemble.embedding import identity, text_and_images, write_graph

IMAGE, WIDTH, WORDS = 3, 5, 11
TABLE = torch.from_numpy(np.random.default_rng(0).normal(size=(WORDS, WIDTH)).astype(np.float32))
TOKENS = np.random.default_rng(1).normal(size=(4, WIDTH)).astype(np.float32)
IDS = np.array([[7, IMAGE, IMAGE, 1, IMAGE, IMAGE, 2]])


def opened(
    path: Path, *, scale: float = 1.0, features: str = "float32", dtype: str = "float32", table: Any = TABLE
) -> Any:
    write_graph(text_and_images(table, IMAGE, scale, features, dtype), path / "embedding.onnx")
    onnx.checker.check_model(str(path / "embedding.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(path / "embedding.onnx"))

    def run(ids: NDArray[Any], tokens: NDArray[Any]) -> NDArray[Any]:
        given = tokens if tokens.ndim == 3 else tokens[None]
        found: NDArray[Any] = session.run(None, {"input_ids": ids, "image_features": given})[0]
        return found

    return run


def formula(ids: NDArray[Any], tokens: NDArray[Any], scale: float = 1.0) -> NDArray[Any]:
    """Word by word."""
    left = iter(tokens)
    return np.array([[next(left) if id == IMAGE else TABLE[id].numpy() * np.float32(scale) for id in ids[0]]])


def test_tokens_stand_in_the_places_of_the_image_and_words_in_theirs(tmp_path: Path) -> None:
    np.testing.assert_array_equal(opened(tmp_path)(IDS, TOKENS), formula(IDS, TOKENS))


def test_tokens_of_two_images_follow_each_other(tmp_path: Path) -> None:
    np.testing.assert_array_equal(opened(tmp_path)(IDS, TOKENS.reshape(2, 2, WIDTH)), formula(IDS, TOKENS))


def test_words_are_scaled_and_tokens_are_not(tmp_path: Path) -> None:
    """Gemma multiplies its embedding by the root of its width."""
    np.testing.assert_allclose(
        opened(tmp_path, scale=WIDTH**0.5)(IDS, TOKENS), formula(IDS, TOKENS, WIDTH**0.5), rtol=1e-6
    )


@pytest.mark.parametrize("given", ["float32", "float16"])
@pytest.mark.parametrize("out", ["float32", "float16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_what_comes_out_has_the_decoders_dtype(tmp_path: Path, stored: torch.dtype, out: str, given: str) -> None:
    run = opened(tmp_path, features=given, dtype=out, table=TABLE.to(stored))
    found = run(IDS, TOKENS.astype(given))
    assert found.dtype == out
    np.testing.assert_allclose(found, formula(IDS, TOKENS), rtol=1e-2, atol=1e-2)


def test_more_places_than_tokens_fail(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ScatterND"):
        opened(tmp_path)(IDS, TOKENS[:3])


def test_behind_the_prompt_the_images_id_is_a_word(tmp_path: Path) -> None:
    """A decoder may say it, as transformers lets it; an engine hands in no tokens then."""
    found = opened(tmp_path)(np.array([[IMAGE, 4]]), TOKENS[:0])
    np.testing.assert_array_equal(found, TABLE[[IMAGE, 4]][None].numpy())


def test_it_is_a_dozen_nodes(tmp_path: Path) -> None:
    assert sum(1 for _ in text_and_images(TABLE, IMAGE, 1.0, "float32", "float32").graph) <= 13


def test_what_stands_in_for_an_encoder_hands_on(tmp_path: Path) -> None:
    write_graph(identity(WIDTH, "float32"), tmp_path / "tokens.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "tokens.onnx"))
    np.testing.assert_array_equal(session.run(["image_features"], {"image_tokens": TOKENS[None]})[0][0], TOKENS)
