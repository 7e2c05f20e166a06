"""What comes out of an encoder, and fewer of it: the first picks are what a smaller budget would keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import RequestError
from edgeprune.runtime import Output, TokenEncoder, load
from edgeprune.runtime.budgets import Budgets

MakeBundle = Callable[..., Path]
KEEP, N = 5, 24
NESTED: dict[str, Any] = {"picks": True, "nested": True, "rule": {"name": "topk"}}


def images(batch: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, 32, 48, 3), np.uint8)


@pytest.fixture
def encoder(make_bundle: MakeBundle) -> TokenEncoder:
    return load(make_bundle(batch=3, **NESTED), kind=TokenEncoder)


def made(greedy: bool = False, **changes: Any) -> Output:
    """Two images of 6 patches, of which 4 are kept; tokens are [patch, patch], and so are the rows of `deep`."""
    picks = np.array([[4, 1, 5, 2], [0, 3, 1, 2]], np.int32)
    indices = np.sort(picks, axis=1)
    scores = np.array([[0, 4, 1, 0, 8, 3], [2, 2, 2, 2, 0, 0]], np.float32)
    if greedy:
        scores = np.where(np.isin(np.arange(6), indices[0]) | (np.arange(6) == -1), scores, -np.inf).astype(np.float32)
        scores = np.stack([scores[0], np.array([2, 2, 2, 2, -np.inf, -np.inf], np.float32)])
    rows = np.repeat(indices[..., None], 2, axis=2).astype(np.float32)
    extras = {"deep": rows + 0.5, "width": np.array([6, 6], np.int32)}
    return replace(Output(rows, indices, scores, picks, extras, Budgets("", greedy)), **changes)


# An output.


def test_an_output_is_unpacked_as_tokens_indices_and_scores(encoder: TokenEncoder) -> None:
    output = encoder(images(3))
    tokens, indices, scores = output
    assert tokens is output.tokens is output[0]
    assert indices is output.indices is output[1]
    assert scores is output.scores is output[2]
    assert len(output) == 3
    assert output.picks is not None
    np.testing.assert_array_equal(np.sort(output.picks, axis=1), indices)


def test_a_graph_without_an_order_gives_no_picks(make_bundle: MakeBundle) -> None:
    assert load(make_bundle(), kind=TokenEncoder)(images(1)).picks is None


def test_an_output_is_shown_in_one_line_by_shapes_and_dtypes() -> None:
    assert repr(made()) == (
        "Output(tokens=float32[2, 4, 2], indices=int32[2, 4], scores=float32[2, 6], picks=int32[2, 4], "
        "deep=float32[2, 4, 2], width=int32[2])"
    )


# Fewer tokens.


@pytest.mark.parametrize("keep", range(1, KEEP + 1))
def test_a_cut_is_what_the_smaller_budget_keeps(encoder: TokenEncoder, keep: int) -> None:
    """The graph of the tests ranks patches by their mean; a budget of k keeps the k highest."""
    output = encoder(images(3))
    cut = output.cut(keep)
    wanted = np.sort(np.argsort(-output.scores, axis=1, kind="stable")[:, :keep], axis=1)
    np.testing.assert_array_equal(cut.indices, wanted)
    assert cut.picks is not None
    assert output.picks is not None
    np.testing.assert_array_equal(cut.picks, output.picks[:, :keep])
    np.testing.assert_array_equal(cut.scores, output.scores)
    for at in range(3):
        rows = output.tokens[at, np.isin(output.indices[at], wanted[at])]
        np.testing.assert_array_equal(cut.tokens[at], rows)


def test_a_cut_of_a_cut_is_the_cut(encoder: TokenEncoder) -> None:
    output = encoder(images(3))
    for name, value in output.cut(4).cut(2).tensors().items():
        np.testing.assert_array_equal(value, output.cut(2).tensors()[name])


def test_a_cut_leaves_the_output_as_it_was() -> None:
    for output in (made(), made(greedy=True)):
        before = {name: value.copy() for name, value in output.tensors().items()}
        output.cut(2)
        for name, value in output.tensors().items():
            np.testing.assert_array_equal(value, before[name])


def test_what_belongs_to_the_tokens_is_cut_with_them_and_nothing_else() -> None:
    cut = made().cut(2)
    assert cut.indices.tolist() == [[1, 4], [0, 3]]
    assert cut.tokens[..., 0].tolist() == [[1, 4], [0, 3]]
    assert cut.extras["deep"][..., 0].tolist() == [[1.5, 4.5], [0.5, 3.5]]
    assert cut.extras["width"].tolist() == [6, 6]


def test_the_gains_of_picks_that_go_are_minus_infinity() -> None:
    cut = made(greedy=True).cut(2)
    assert cut.scores[0].tolist() == [-np.inf, 4, -np.inf, -np.inf, 8, -np.inf]
    assert made().cut(2).scores[0].tolist() == [0, 4, 1, 0, 8, 3]


@pytest.mark.parametrize("keep", [0, -1, KEEP + 1, 2.0, True, "2", None])
def test_a_budget_that_is_not_there_is_refused(encoder: TokenEncoder, keep: Any) -> None:
    with pytest.raises(RequestError, match=rf"must be a whole one in 1\.\.{KEEP}, got {keep}"):
        encoder(images(3)).cut(keep)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"nested": False}, "the kept sets of brightest do not nest, or this bundle does not say so"),
     ({"picks": False}, "this bundle of brightest has no picks, the order in which it chose")],
)  # fmt: skip
def test_a_method_whose_sets_do_not_nest_is_refused_by_name(
    make_bundle: MakeBundle, changes: dict[str, Any], why: str
) -> None:
    output = load(make_bundle(**{**NESTED, **changes}), kind=TokenEncoder)(images(1))
    for call in (lambda: output.cut(2), lambda: output.until(0.5)):
        with pytest.raises(RequestError, match=f"needs kept sets that nest: {why}; export again with the --keep"):
            call()


def test_outputs_that_come_from_no_bundle_are_not_known_to_nest() -> None:
    plain = Output(*made())
    with pytest.raises(RequestError, match="not known to nest"):
        plain.cut(2)


# Until a share is reached.


@pytest.mark.parametrize(
    ("share", "counts"),
    # scores in the order of choice: 8, 4, 3, 1 of 16, and 2, 2, 2, 2 of 8
    [(0.5, (1, 2)), (0.51, (2, 3)), (0.75, (2, 3)), (0.76, (3, 4)), (1.0, (4, 4)), (1e-9, (1, 1)), (0.25, (1, 1))],
)
def test_each_image_keeps_as_many_as_hold_the_share(share: float, counts: tuple[int, int]) -> None:
    got = made().until(share)
    assert tuple(len(one.indices[0]) for one in got) == counts
    for at, one in enumerate(got):
        for name, value in made().cut(counts[at]).tensors().items():
            np.testing.assert_array_equal(one.tensors()[name][0], value[at])


def test_where_all_of_them_do_not_hold_the_share_all_are_kept() -> None:
    scores = made().scores + np.array([0, 0, 0, 100, 0, 0], np.float32)
    assert made(scores=scores).until(0.9)[0].indices.shape == (1, 4)


def test_the_share_of_a_greedy_method_is_of_the_gains_of_its_picks() -> None:
    assert [len(one.indices[0]) for one in made(greedy=True).until(0.75)] == [2, 3]


def test_rounding_asks_for_no_more_picks_than_the_share_does() -> None:
    tenths = made(scores=np.full((2, 6), 0.1, np.float32))
    assert [len(one.indices[0]) for one in tenths.until(0.5)] == [3, 3]


def test_scores_without_any_sum_keep_one() -> None:
    assert [len(one.indices[0]) for one in made(scores=np.zeros((2, 6), np.float32)).until(0.9)] == [1, 1]


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(RequestError, match=f"share must be above 0 and at most 1, got {share}"):
        made().until(share)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_scores_of_which_there_are_no_shares_are_refused(value: float) -> None:
    scores = made().scores.copy()
    scores[1, 2] = value
    with pytest.raises(RequestError, match="until needs scores that are finite and not below 0"):
        made(scores=scores).until(0.5)
