"""`export --keep auto`: the budget is found, and the manifest keeps how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from edgeprune import bundle
from edgeprune.cli.export import command
from edgeprune.errors import EdgepruneError, RequestError
from edgeprune.export import Request
from edgeprune.probes import scenes
from edgeprune.quality.sweep import auto
from edgeprune.quality.sweep.auto import Calibration, Goal, check_goal, find_keep
from edgeprune.quality.sweep.items import Item, Query

REQUEST = Request("fastervlm", "cpu")


class Made:
    """Stands in for the search's exports and figures: figure(K) of every K, all nested or none."""

    def __init__(self, patch: pytest.MonkeyPatch, figure: Any, nested: bool) -> None:
        self.exported: list[int] = []

        def export(search: Any, method: str, keep: int) -> Any:
            if method != "none":
                self.exported.append(keep)
                search.exports += 1

            class Manifest:
                patches = 144

            return Manifest

        patch.setattr(auto._Search, "export", export)
        patch.setattr(auto._Search, "nested", lambda search, every: nested)
        patch.setattr(auto._Search, "data", lambda search, given: (None, (Item("a", (0, 0)), Item("b", (0, 1)))))
        patch.setattr(auto._Judge, "share", lambda judge, folder, keep: (figure(keep), 0.01))
        patch.setattr(auto, "_median_ms", lambda folder: (figure(int(folder.name.rpartition("-")[2])), 0.1))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("least", [1, 2, 37, 143, 144])
def test_the_fewest_tokens_that_reach_the_floor_are_found(
    monkeypatch: pytest.MonkeyPatch, nested: bool, least: int
) -> None:
    made = Made(monkeypatch, lambda keep: 0.9 + 0.1 * (keep - least) / 144, nested)
    found = find_keep(REQUEST, Goal(floor=0.9))
    assert (found.keep, found.measured, found.error, found.wanted) == (least, 0.9, 0.01, 0.9)
    assert found.tried[str(least)] == 0.9
    assert len(found.tried) <= 9
    assert (made.exported == []) == nested
    assert found.graphs == (1 if nested else len(made.exported))


@pytest.mark.parametrize("most", [1, 36, 144])
def test_the_most_tokens_under_the_ceiling_are_found(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    made = Made(monkeypatch, lambda keep: keep / 10, True)
    found = find_keep(REQUEST, Goal(ceiling_ms=most / 10))
    assert (found.keep, found.measured, found.what) == (most, most / 10, "ms")
    assert len(made.exported) == len(set(made.exported)) == found.graphs <= 9


def test_a_ceiling_below_one_token_says_what_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    Made(monkeypatch, lambda keep: keep / 10, True)
    with pytest.raises(
        RequestError, match=r"must be at least what one token takes, 0.10 ms with fastervlm here; got 0.05"
    ):
        find_keep(REQUEST, Goal(ceiling_ms=0.05))


def test_a_share_of_accuracy_has_an_error_clustered_by_image() -> None:
    items = [Item("", (0, at), (Query("a", "?", "x"),) * 2) for at in range(3)]
    ratio, error = auto._ratio([1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], items)
    assert ratio == 3 / 5
    off = [1 - 2 * 0.6, 2 - 2 * 0.6, 0 - 0.6]  # own - ratio * other, image by image
    assert error == pytest.approx((3 / 2 * sum(one**2 for one in off)) ** 0.5 / 5)
    with pytest.raises(RequestError, match="unpruned accuracy, which is 0"):
        auto._ratio([1, 0], [0, 0], items[:1])


@pytest.mark.parametrize(
    ("goal", "fields", "calibrate", "said"),
    [
        (Goal(), {}, None, "needs --floor .* or --ceiling-ms, one of them"),
        (Goal(0.9, 3.0), {}, None, "one of them"),
        (Goal(0.0), {}, None, r"--floor must be in \(0, 1\], got 0"),
        (Goal(None, 0.0), {}, None, "--ceiling-ms must be above 0, got 0"),
        (Goal(None, 1.0), {}, "scenes", "--calibrate goes with --floor"),
        (Goal(0.9), {"model": "some/model"}, None, "--calibrate must name a folder of images, or scenes"),
        (Goal(0.9), {}, "no-folder", "--calibrate must be a folder of images, or scenes; there is no folder no-folder"),
        (Goal(0.9), {"method": "tome", "encoder_cost": 0.6}, None, "--encoder-cost both say what tome leaves"),
        (Goal(None, 2.0), {"method": "tome"}, None, "needs a method that can keep all, tome cannot; give --floor"),
        (Goal(0.9), {"method": "tome", "schedule": "2:80"}, None, "and --schedule names one; give --keep a number"),
        (Goal(0.9), {"tiles": 5}, None, "--keep auto tries single images, got --tiles 5"),
        (Goal(0.9), {"inside": "tome", "encoder_cost": 0.6}, None, "got --inside tome; give --keep a number"),
    ],
)
def test_a_wrong_goal_is_refused(goal: Goal, fields: dict[str, Any], calibrate: str | None, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_goal(goal, replace(REQUEST, **fields), calibrate)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--calibrate must be a folder with images"):
        check_goal(Goal(0.9), REQUEST, str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "questions.jsonl").write_text('{"image": "b.png", "question": "?", "answer": "x"}')
    with pytest.raises(RequestError, match=r"questions.jsonl, line 1: there is no image"):
        check_goal(Goal(0.9), REQUEST, str(tmp_path))


@pytest.mark.slow
def test_the_manifest_keeps_what_was_measured_and_the_verbs_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From end to end, on the six images with questions that come along."""
    output = tmp_path / "out"
    goal = ("--keep", "auto", "--floor", "0.5", "--calibrate", str(scenes()[0].parent))
    monkeypatch.setattr(auto, "LONGEST", 2)
    done = CliRunner().invoke(command, ["--method", "fastervlm", *goal, "--no-baselines", "--output", str(output)])
    assert done.exit_code == 0, done.output
    manifest = bundle.load(output).manifest
    said = Calibration(**manifest.calibration)
    assert (said.keep, said.goal, said.wanted, said.what) == (manifest.keep, "floor", 0.5, "accuracy")
    assert (said.images, said.questions, said.graphs) == (6, 33, 1)
    assert 0.5 <= said.measured == pytest.approx(said.tried[str(said.keep)], abs=1e-6)
    below = [share for keep, share in said.tried.items() if int(keep) < said.keep]
    assert all(share < 0.5 for share in below)
    assert f"{100 * said.measured:.1f} ±{100 * (said.error or 0):.1f} % of the unpruned accuracy" in " ".join(
        done.output.split()
    )
    assert json.loads((output / "manifest.json").read_text())["calibration"]["data"] == "scenes"


def test_the_goal_without_auto_is_refused_before_anything_is_read() -> None:
    done = CliRunner().invoke(command, ["--method", "fastervlm", "--keep", "9", "--floor", "0.9"])
    assert done.exit_code == 2
    assert "--floor and --ceiling-ms go with --keep auto; leave them out" in done.output
    done = CliRunner().invoke(command, ["--method", "fastervlm", "--keep", "auto"])
    assert isinstance(done.exception, EdgepruneError)
    assert "--keep auto needs --floor" in str(done.exception)
