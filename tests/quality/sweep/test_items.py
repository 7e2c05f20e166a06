"""Images and questions: what a line of JSON may say, and what is told of one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeprune.errors import ImageError, RequestError
from edgeprune.probes import scenes
from edgeprune.quality.questions import KINDS
from edgeprune.quality.scenes import draw
from edgeprune.quality.sweep.items import Item, drawn, of_folder, of_questions, shards

GOOD = {"image": "a.png", "question": "what is it?", "answer": "a cat"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def read(folder: Path, *lines: Any, count: int | None = None) -> tuple[Item, ...]:
    file = folder / "q.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return of_questions(file, folder, count)


def test_lines_about_one_image_are_one_item_whose_questions_are_judged_by_their_fields(folder: Path) -> None:
    options = {**GOOD, "options": ["a dog", "a cat"]}
    first, second = read(
        folder, GOOD, {**GOOD, "image": "b.png"}, "", {**GOOD, "answers": ["cat"] * 4 + ["dog"] * 6},
        {**options, "answer": "B", "type": "animal"}, {**options, "answer": 1}, options,
    )  # fmt: skip
    assert (first.name, second.name) == ("a.png", "b.png")
    assert [one.kind for one in first.queries] == [
        "exact match", "VQA score", "animal", "multiple choice", "multiple choice",
    ]  # fmt: skip
    exact, people, *choices = first.queries
    assert (exact.score("A cat."), exact.score("cat")) == (1.0, 0.0)
    assert people.score("the cat") == 1.0
    assert [one.truth for one in choices] == [1, 1, 1]
    assert [one.score("B") for one in choices] == [1.0] * 3
    assert choices[0].text.splitlines()[1:3] == ["A. a dog", "B. a cat"]


def test_a_count_is_of_images_and_leaves_no_question_about_them_out(folder: Path) -> None:
    (only,) = read(folder, GOOD, {**GOOD, "image": "b.png"}, GOOD, count=1)
    assert len(only.queries) == 2


def test_the_questions_that_come_along_can_be_read() -> None:
    folder = scenes()[0].parent
    found = of_questions(folder / "questions.jsonl", folder)
    assert len(found) == 6
    assert {query.kind for item in found for query in item.queries} == {"color", "shape", "count", "exist"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "q.jsonl, line 2 must be a JSON object"),
        ("[1]", "q.jsonl, line 2 must be a JSON object, got"),
        ({"image": "a.png", "answer": "x"}, "line 2 must have question, a text; got None"),
        ({**GOOD, "image": 3}, "line 2 must have image, a text; got 3"),
        ({**GOOD, "image": "no.png"}, "line 2: there is no image .*no.png; check --images"),
        ({**GOOD, "image": "text.png"}, "line 2: .*text.png is not"),
        ({"image": "a.png", "question": "?"}, "line 2 must have answer, a text, or answers, or options"),
        ({**GOOD, "answer": 7}, "line 2 must have answer, a text, or answers, or options; got 7"),
        ({**GOOD, "answers": ["one"]}, "line 2: answers must be two texts or more"),
        ({**GOOD, "options": ["a dog"]}, "line 2: options must be 2 to 26 texts"),
        ({**GOOD, "options": ["a dog", "a bird"]}, "line 2: answer must be one of the options.* got 'a cat'"),
        ({**GOOD, "options": ["a dog", "a bird"], "answer": 2}, "line 2: answer must be one of the options.* got 2"),
        ({**GOOD, "options": ["a dog", "a bird"], "answer": True}, "line 2: answer must be one of the options"),
        ({**GOOD, "type": "a\tb"}, "line 2: type must be a text"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, line: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read(folder, GOOD, line)


def test_files_that_hold_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"must hold a question a line; .* has none"):
        read(folder, "", " ")
    with pytest.raises(RequestError, match="--questions must be a readable file of JSON lines"):
        of_questions(folder / "absent.jsonl", folder)
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ImageError, match=r"--images must be a folder with images .* has none"):
            of_folder(empty)
    with pytest.raises(ImageError, match=r"text\.png is not"):
        of_folder(folder)


def test_a_shard_is_known_by_its_images_and_questions(folder: Path) -> None:
    one, other = read(folder, GOOD), read(folder, {**GOOD, "answer": "a dog"})
    assert shards(one)[0].digest() == shards(read(folder, GOOD))[0].digest() != shards(other)[0].digest()
    assert shards(one)[0].packed().digest() == shards(one)[0].digest()
    before = shards(one)[0].digest()
    Image.new("RGB", (8, 8), "blue").save(folder / "a.png")
    assert shards(one)[0].digest() != before


def test_shards_do_not_change_with_the_count_and_none_holds_one_image() -> None:
    some, more = (shards([Item("", (0, at)) for at in range(count)]) for count in (100, 151))
    assert some == more[:2]
    assert [len(shard.items) for shard in more] == [50, 50, 51]
    assert [len(shard.items) for shard in shards([Item("", (0, 0))])] == [1]


def test_drawn_scenes_have_the_questions_of_their_kinds_and_their_object_patches_first() -> None:
    items = drawn(20)
    assert {query.kind for item in items for query in item.queries} == set(KINDS)
    assert drawn(3) == items[:3]
    for item in items[:5]:
        assert isinstance(item.source, tuple)
        labels = draw(*item.source).labels
        few, many = item.object_patches(4), item.object_patches(100)
        assert (len(set(few)), len(set(many)), sorted(many)) == (4, 100, many)
        assert (labels[few] >= 0).all()
        assert set(few) < set(many)
        assert set((labels >= 0).nonzero()[0].tolist()) <= set(many)
