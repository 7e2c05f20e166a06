"""Questions have the right answers, none twice, and are not to be answered without looking."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from edgeprune.probes import scenes as stored
from edgeprune.quality.questions import KINDS, MOST, NUMBERS, PLURALS, Question, ask
from edgeprune.quality.scenes import COLORS, SHAPES, Scene, held_out


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, tuple[Question, ...]]]:
    return [(scene, ask(scene)) for scene in held_out(300)]


def truth(scene: Scene, question: str) -> str:
    """From the list of objects, read anew from the question's words."""
    pairs = [(thing.color, thing.shape) for thing in scene.things]
    if found := re.fullmatch(r"what color is the (\w+)\?", question):
        (color,) = (color for color, shape in pairs if shape == found[1])
        return color
    if found := re.fullmatch(r"what shape is the (\w+) object\?", question):
        (shape,) = (shape for color, shape in pairs if color == found[1])
        return shape
    if found := re.fullmatch(r"how many (\w+) are there\?", question):
        wanted = {plural: shape for shape, plural in PLURALS.items()}.get(found[1])
        assert wanted or found[1] == "objects"
        return NUMBERS[sum(wanted in (None, shape) for _, shape in pairs)]
    found = re.fullmatch(r"is there a (\w+) (\w+)\?", question)
    assert found
    return "yes" if (found[1], found[2]) in pairs else "no"


def test_every_answer_is_right(asked: list[tuple[Scene, tuple[Question, ...]]]) -> None:
    for scene, questions in asked:
        for question in questions:
            assert truth(scene, question.text) == question.answer


def test_one_of_each_kind_comes_first_and_none_twice(asked: list[tuple[Scene, tuple[Question, ...]]]) -> None:
    for scene, questions in asked:
        assert ask(scene) == questions
        assert len(questions) <= MOST
        assert len({question.text for question in questions}) == len(questions)
        kinds = [question.kind for question in questions]
        possible = [kind for kind in KINDS if kind in kinds]
        assert kinds[: len(possible)] == possible
        assert {"count", "existence"} <= set(possible)
    assert sum(len(questions) for _, questions in asked) > 7 * len(asked)


def test_yes_and_no_are_as_frequent_and_half_of_the_vain_ones_are_lures(
    asked: list[tuple[Scene, tuple[Question, ...]]],
) -> None:
    answers, lures = Counter[str](), Counter[bool]()
    for scene, questions in asked:
        colors, shapes = {one.color for one in scene.things}, {one.shape for one in scene.things}
        possible = len({(one.color, one.shape) for one in scene.things}) < len(colors) * len(shapes)
        for question in (one for one in questions if one.kind == "existence"):
            answers[question.answer] += 1
            if question.answer == "no" and possible:
                color, shape = question.text.removeprefix("is there a ").removesuffix("?").split()
                assert color in colors or shape in shapes
                lures[color in colors and shape in shapes] += 1
    assert abs(answers["yes"] / answers.total() - 0.5) < 0.03
    assert abs(lures[True] / lures.total() - 0.5) < 0.08


def test_no_answer_is_most_of_a_kind(asked: list[tuple[Scene, tuple[Question, ...]]]) -> None:
    for kind, most in {"color": 0.25, "shape": 0.3, "count": 0.45}.items():
        answers = Counter(one.answer for _, questions in asked for one in questions if one.kind == kind)
        assert max(answers.values()) / answers.total() < most, answers


def test_the_stored_questions_are_worded_alike() -> None:
    lines = (stored()[0].parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    words = {word for line in lines for word in json.loads(line)["question"].rstrip("?").split()}
    known = {"what", "color", "shape", "is", "the", "object", "objects", "how", "many", "are", "there", "a"}
    assert words <= known | set(COLORS) | set(SHAPES) | set(PLURALS.values())
