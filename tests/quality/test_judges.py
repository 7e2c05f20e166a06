"""Judging answers. The examples of the VQA score were worked out by hand from the formula."""

from __future__ import annotations

import pytest

from edgeprune.errors import RequestError
from edgeprune.quality.judges import CONTRACTIONS, WITHOUT_ONE, exact, multiple_choice, normalized, vqa_score


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [("Yes", "yes", 1), (" red. ", "Red", 1), ("dark  red", "dark red", 1), ("reds", "red", 0), ("", "red", 0)],
)
def test_exact(answer: str, truth: str, score: float) -> None:
    assert exact(answer, truth) == score


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_score_by_how_many_of_ten_agree(agreeing: int, score: float) -> None:
    assert vqa_score("cat", ["cat"] * agreeing + ["dog"] * (10 - agreeing)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("an apple on the table", "apple on table"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("yalld've", "yalld've"),  # two are missing
        ("somebody'd", "somebodyd"),
        ("john's", "john 's"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("what?!", "what"),
        ("a\tb\nc", "b c"),
    ],
)
def test_normalization(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


def test_a_contraction_that_is_whole_stays() -> None:
    assert not set(CONTRACTIONS.split()) & set(WITHOUT_ONE)


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "B: two cats", "two cats", "Two cats.", "The answer is B."])
def test_a_choice_is_recognised(answer: str) -> None:
    assert multiple_choice(answer, ["one cat", "two cats", "a dog"], 1) == 1
    assert multiple_choice(answer, ["one cat", "two cats", "a dog"], 0) == 0


@pytest.mark.parametrize("answer", ["", "a bird", "D", "Birds", "A bird and B"])
def test_what_is_no_choice_is_none(answer: str) -> None:
    assert multiple_choice(answer, ["one cat", "two cats", "a dog"], 0) == 0


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(RequestError, match="got 1"):
        vqa_score("cat", ["cat"])
    with pytest.raises(RequestError, match=r"0\.\.1.*got 2"):
        multiple_choice("A", ["one", "two"], 2)
