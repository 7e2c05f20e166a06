"""Figures of a scorer, against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.quality.ranking import KEEP_SHARES, Ranking, evaluate, lines, plot, read


def drawn(images: int = 40, side: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of the labels, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, side, side)) < rng.uniform(0.1, 0.6, (images, 1, 1))
    scores = np.round(labels + rng.normal(0, 1, labels.shape) - 0.5, 1).astype(np.float32)
    return scores, labels


def test_auc_is_the_chance_that_foreground_scores_above_background() -> None:
    scores, labels = drawn(images=5)
    above, below = scores[labels][:, None], scores[~labels][None, :]
    expected = float((above > below).mean() + 0.5 * (above == below).mean())
    assert evaluate(scores, labels).auc == pytest.approx(expected, abs=1e-12)


def test_a_perfect_ranking_reaches_the_ideal_and_an_inverted_one_nothing() -> None:
    _, labels = drawn()
    perfect = evaluate(labels.astype(np.float32) - 0.5, labels)
    assert (perfect.auc, perfect.accuracy, perfect.balanced_accuracy) == (1.0, 1.0, 1.0)
    assert perfect.recall == pytest.approx(perfect.ideal)
    assert evaluate(0.5 - labels.astype(np.float32), labels).auc == 0.0


def test_recall_is_that_of_the_k_highest_scores_of_each_image_and_the_mean_over_images() -> None:
    scores, labels = drawn()
    found = evaluate(scores, labels)
    for share in KEEP_SHARES:
        keep, each = round(share * 100), []
        for one, true in zip(scores.reshape(40, -1), labels.reshape(40, -1), strict=True):
            kept = sorted(range(100), key=lambda at, one=one: (-one[at], at))[:keep]  # type: ignore[misc]
            each.append(true[kept].sum() / true.sum())
        assert found.recall[f"{share:g}"] == pytest.approx(np.mean(each))
        assert found.recall[f"{share:g}"] <= found.ideal[f"{share:g}"] + 1e-12


def test_an_image_without_foreground_does_not_count_for_recall() -> None:
    scores, labels = drawn()
    empty = np.concatenate([labels, np.zeros((40, 10, 10), bool)])
    found = evaluate(np.concatenate([scores, scores]), empty)
    assert found.recall == evaluate(scores, labels).recall
    assert found.foreground["mean"] == pytest.approx(labels.mean() / 2)


def test_calling_all_the_majority_has_the_accuracy_of_the_majority_and_half_when_balanced() -> None:
    _, labels = drawn()
    found = evaluate(np.full(labels.shape, -1, np.float32), labels)
    assert found.accuracy == pytest.approx(found.majority) == pytest.approx(1 - labels.mean())
    assert (found.balanced_accuracy, found.auc) == (0.5, 0.5)


def test_blocks_are_kept_whole() -> None:
    labels = np.zeros((1, 4, 4), bool)
    labels[0, 0, 0] = labels[0, 2:, 2:] = True
    scores = np.repeat(np.repeat(np.array([[[3, 1], [0, 2]]], np.float32), 2, 1), 2, 2)
    found = evaluate(scores, labels, block=2)
    assert found.recall["0.5"] == 1.0  # 2 of 4 blocks
    assert found.recall["0.3"] == pytest.approx(1 / 5)  # the first holds one foreground patch
    assert found.ideal["0.3"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("value", [True, False])
def test_labels_of_one_kind_only_are_refused(value: bool) -> None:
    with pytest.raises(RequestError, match=r"must have foreground and background patches, got (100|0)% foreground"):
        evaluate(np.zeros((2, 4, 4), np.float32), np.full((2, 4, 4), value))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = evaluate(*drawn(), training={"seed": 3})
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    assert read(tmp_path / "report.json") == report


def test_the_histogram_counts_every_image_once() -> None:
    report = evaluate(*drawn())
    assert sum(report.histogram) == report.images == 40


@pytest.mark.slow
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(evaluate(*drawn()), tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as image:
        assert image.size == (1200, 480)
        assert len(set(image.convert("RGB").get_flattened_data())) > 100  # lines, bars and letters


def test_the_lines_for_people_hold_the_figures() -> None:
    report: Ranking = evaluate(*drawn())
    assert f"AUC {report.auc:.4f}" in lines(report)
    assert f"{report.majority:.1%}" in lines(report)


def test_the_ideal_is_what_the_number_of_kept_patches_allows() -> None:
    _, labels = drawn()
    found = evaluate(np.zeros(labels.shape, np.float32), labels)
    foreground = labels.sum((1, 2))
    for share in KEEP_SHARES:
        assert found.ideal[f"{share:g}"] == pytest.approx(np.minimum(1, round(share * 100) / foreground).mean())
