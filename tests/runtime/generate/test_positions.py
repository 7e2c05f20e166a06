"""Positions of kept tokens are those that transformers gives the whole image, text goes on where it would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime.generate.positions import compact, kept, placeholders

IMAGE = 3
GRIDS = ((4, 6), (5, 2))
"""rows and columns of tokens"""


def whole(grid: tuple[int, int]) -> NDArray[np.int64]:
    """[3, N] of all tokens of an image."""
    rows, columns = grid
    return np.stack([np.zeros(rows * columns, np.int64), *np.divmod(np.arange(rows * columns), columns)])


def official(ids: list[int], grids: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    """[3, L] by Qwen2VLModel.get_rope_index."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLModel

    text = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "vocab_size": 16,
    }
    config = Qwen2VLConfig(text_config=text, vision_config={"depth": 1}, image_token_id=IMAGE, video_token_id=4)
    with torch.device("meta"):
        model: Any = Qwen2VLModel(config)
    given = torch.tensor([ids])
    patches = torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids])
    found, _ = model.get_rope_index(given, mm_token_type_ids=(given == IMAGE).int(), image_grid_thw=patches)
    positions: NDArray[np.int64] = found[:, 0].numpy()
    return positions


@pytest.mark.parametrize("front", [[], [5, 6]], ids=["image first", "text first"])
def test_with_all_tokens_they_are_those_of_transformers(front: list[int]) -> None:
    counts = [rows * columns for rows, columns in GRIDS]
    ids = [*front, *[IMAGE] * counts[0], 7, *[IMAGE] * counts[1], 8, 9]
    starts = placeholders(ids, IMAGE, counts)
    positions, behind = kept(len(ids), starts, [whole(one) for one in GRIDS], [max(one) for one in GRIDS])
    assert positions.tolist() == official(ids, GRIDS).tolist()
    assert behind == positions[0, -1] + 1


def test_a_token_that_is_kept_keeps_its_place_and_so_does_the_text_behind() -> None:
    chosen = [np.array([0, 7, 23]), np.array([1, 9])]
    full = [5, *[IMAGE] * 24, 7, *[IMAGE] * 10, 8, 9]
    stays = [0, *(1 + chosen[0]), 25, *(26 + chosen[1]), 36, 37]
    ids = [5, *[IMAGE] * 3, 7, *[IMAGE] * 2, 8, 9]
    places = [whole(grid)[:, cells].astype(np.int32) for grid, cells in zip(GRIDS, chosen, strict=True)]
    positions, behind = kept(len(ids), placeholders(ids, IMAGE, [3, 2]), places, [6, 5])
    assert positions.tolist() == official(full, GRIDS)[:, stays].tolist()
    assert behind == official(full, GRIDS)[0, -1] + 1


def test_text_alone_counts_from_0_on_one_axis_or_three() -> None:
    positions, behind = kept(3, [], [], [])
    assert (positions.tolist(), behind) == ([[0, 1, 2]] * 3, 3)
    assert compact(3).tolist() == [[0, 1, 2]]


def test_two_images_may_touch() -> None:
    assert placeholders([IMAGE] * 5, IMAGE, [3, 2]) == [0, 3]


@pytest.mark.parametrize(
    ("ids", "counts", "message"),
    [
        ([5, *[IMAGE] * 8, 6], [9], r"must have 9 placeholders \(token 3\) for image 1 of 1.*, got 8"),
        ([5, *[IMAGE] * 10, 6], [9], r"must have 9 placeholders \(token 3\).* of its 1 images, got 10"),
        ([5, *[IMAGE] * 9, 6], [9, 9], r"must have 9 placeholders \(token 3\) for image 2 of 2.*, got 0"),
        ([5, *[IMAGE] * 4, 6, *[IMAGE] * 5], [9], r"for image 1 of 1.*, got 4"),
        ([5, IMAGE], [], r"must have 0 placeholders .* 0 images, got 1"),
    ],
    ids=["one too few", "one too many", "an image too many", "torn apart", "no image"],
)
def test_placeholders_that_do_not_number_the_tokens_are_refused(
    ids: list[int], counts: list[int], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        placeholders(ids, IMAGE, counts)
