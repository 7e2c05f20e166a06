"""Which patches a question is about: of drawn scenes by what it names, of files by boxes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import RequestError
from edgeprune.export.request import Request
from edgeprune.pruners.focusui import Method
from edgeprune.quality.questions import ask
from edgeprune.quality.scenes import Scene, draw
from edgeprune.quality.sweep.items import Item, Query, drawn, of_questions
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.priors.patches import Patches
from edgeprune.train.learn import LearnSettings, learn
from edgeprune.train.relevance import asked_about, boxed, covered

STEPS = Preprocessing((96, 96), {"height": 96, "width": 96}, 3, None, 1 / 255, (0.5,) * 3, (0.5,) * 3, True)


def about(scene: Scene, question: str) -> set[int]:
    """The objects that lie on the patches."""
    cells = asked_about(scene, question)[::8, ::8].ravel()
    return {int(one) for one in scene.labels[cells]}


def test_a_question_is_about_the_objects_that_it_names() -> None:
    for scene in (draw(5, at) for at in range(12)):
        for question in ask(scene):
            meant, words = about(scene, question.text), question.text.rstrip("?").split()
            named = {at for at, one in enumerate(scene.things) if one.color in words or one.shape in words}
            if question.kind in ("color", "shape") or (question.kind, question.answer) == ("existence", "yes"):
                assert len(meant) >= 1
                assert meant <= named
            elif question.kind == "existence":  # what shares one of the two has to be seen
                assert meant <= named
            elif "objects" in words:
                assert meant <= {*range(len(scene.things))}
                assert len(meant) == len(scene.things)
            else:
                assert len(meant) == ["zero", "one", "two", "three", "four"].index(question.answer)


def test_a_patch_is_covered_by_the_share_of_its_pixels_of_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (48, 24)).save(tmp_path / "a.png")
    item = Item("a.png", str(tmp_path / "a.png"))
    query = Query("exact", "what is it?", "a cat", boxes=((0.0, 0.0, 6.0, 24.0), (40.0, 12.0, 60.0, 99.0)))
    shares = covered(boxed(item, query), Patches.of((24, 48), (2, 4), STEPS))
    np.testing.assert_allclose(shares, [[0.5, 0, 0, 0], [0.5, 0, 0, 8 / 12]])


def test_boxes_are_read_and_what_is_none_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (48, 24)).save(tmp_path / "a.png")
    file = tmp_path / "asked.jsonl"
    line = '{"image": "a.png", "question": "what?", "answer": "cat", "boxes": '
    file.write_text(line + "[[0, 1, 2.5, 3]]}\n")
    assert of_questions(file, tmp_path)[0].queries[0].boxes == ((0.0, 1.0, 2.5, 3.0),)
    for wrong in ("[[0, 1, 2]]", '[["0", 1, 2, 3]]', "[[4, 1, 2, 3]]", "7"):
        file.write_text(line + wrong + "}\n")
        with pytest.raises(RequestError, match=r"asked\.jsonl, line 1: boxes must be \[\[left, top, right, bottom\]"):
            of_questions(file, tmp_path)


@pytest.mark.slow
def test_it_learns_where_questions_are_about(tmp_path: Path) -> None:
    made = learn(Request("focusui", "cpu"), drawn(16, seed=5), tmp_path / "scorer", LearnSettings(6, 8, 3e-3))
    assert made["loss"][-1] < 0.9 * made["loss"][0]
    scorer: Any = Method.read(tmp_path / "scorer")
    assert scorer.made == made


def test_questions_without_boxes_are_refused(tmp_path: Path) -> None:
    item = dataclasses.replace(drawn(1, seed=5)[0], source="a.png")
    with pytest.raises(RequestError, match=r"every question must have boxes, .* scene0000 lacks one"):
        learn(Request("focusui", "cpu"), [item] * 4, tmp_path / "a", LearnSettings(1, 4))
    assert not [*tmp_path.iterdir()]
