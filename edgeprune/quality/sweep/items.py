"""The images of a sweep and what is asked about them: drawn scenes, or a folder with a file of JSON lines.

    {"image": "a.jpg", "question": "what is it?", "answer": "a cat"}                              exact match
    {"image": "a.jpg", "question": "what is it?", "answers": ["cat", "a cat", ...]}               VQA score
    {"image": "a.jpg", "question": "what is it?", "options": ["a dog", "a cat"], "answer": 1}     multiple choice

`boxes`, [[left, top, right, bottom], ...] in pixels, say where in the image it is, for `edgeprune train`.

`type` names the kind of a question, which has a column of its own; without it that is how the question is judged.
Images are run and cached in shards of SHARD.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from edgeprune.errors import ImageError, RequestError
from edgeprune.export.request import SCENES
from edgeprune.quality import judges
from edgeprune.quality.questions import ask
from edgeprune.quality.scenes import HELD_OUT_SEED, draw
from edgeprune.runtime.images.preprocess import ImageLike, check_file

__all__ = ["SCENES", "SHARD", "Item", "Query", "Shard", "drawn", "of_folder", "of_questions", "shards"]

SHARD = 50
"""images; a last one alone joins the shard before it: every image needs another one"""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Truth: TypeAlias = "str | int | tuple[str, ...]"


@dataclass(frozen=True)
class Query:
    """A question and how its answer is judged."""

    kind: str
    text: str
    """as the model is asked"""
    truth: Truth
    """the answer, the answers of several people, or which of the options is right"""
    options: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    """around what is asked about, left, top, right, bottom in pixels, for a scorer that learns from them"""

    def score(self, answer: str) -> float:
        """0..1"""
        if isinstance(self.truth, int):
            return judges.multiple_choice(answer, self.options, self.truth)
        if isinstance(self.truth, tuple):
            return judges.vqa_score(answer, self.truth)
        return judges.exact(answer, self.truth)


@dataclass(frozen=True)
class Item:
    """An image with its questions, of which there may be none."""

    name: str
    source: str | bytes | tuple[int, int]
    """the path of its file, what stands in that file, or seed and number of a drawn scene"""
    queries: tuple[Query, ...] = ()

    def image(self) -> ImageLike:
        """Raises ImageError where it cannot be read."""
        if isinstance(self.source, tuple):
            return draw(*self.source).image
        if isinstance(self.source, bytes):
            return Image.open(io.BytesIO(self.source))
        return self.source

    def object_patches(self, keep: int) -> list[int]:
        """So many patches of a drawn scene, ascending: objects first, within these and the others at random."""
        assert isinstance(self.source, tuple)
        labels = draw(*self.source).labels
        order = np.random.default_rng(self.source).permutation(len(labels))
        return sorted(sorted(order.tolist(), key=lambda patch: int(labels[patch] < 0))[:keep])

    def packed(self) -> Item:
        """The same with its file in it, for a machine that does not have that. Raises ImageError."""
        if not isinstance(self.source, str):
            return self
        try:
            return replace(self, source=Path(self.source).read_bytes())
        except OSError as error:
            raise ImageError(f"{self.source} cannot be read: {error.strerror}; check the file") from None


@dataclass(frozen=True)
class Shard:
    """Images that are run together."""

    number: int
    items: tuple[Item, ...]

    def digest(self) -> str:
        """sha256 of the images and of what is asked about them."""
        digest = hashlib.sha256()
        for item in self.items:
            drawn = isinstance(item.source, tuple)
            digest.update(json.dumps(item.source).encode() if drawn else _content(item))
            digest.update(json.dumps([[q.kind, q.text, q.truth, q.options] for q in item.queries]).encode())
        return digest.hexdigest()

    def packed(self) -> Shard:
        return replace(self, items=tuple(item.packed() for item in self.items))


def shards(items: Sequence[Item]) -> tuple[Shard, ...]:
    """In this order, SHARD at a time.

    >>> [len(shard.items) for shard in shards([Item("a", (0, at)) for at in range(101)])]
    [50, 51]
    """
    starts = [at for at in range(0, len(items), SHARD) if len(items) - at > 1 or not at]
    ends = [*starts[1:], len(items)]
    return tuple(Shard(at, tuple(items[start:end])) for at, (start, end) in enumerate(zip(starts, ends, strict=True)))


def drawn(count: int, seed: int = HELD_OUT_SEED) -> tuple[Item, ...]:
    """The first scenes of a seed, by default of the held-out one, each with its questions."""
    if count < 1:
        raise RequestError(f"scenes must be 1 or more, got {count}")
    return tuple(
        Item(
            f"scene{at:04}",
            (seed, at),
            tuple(Query(one.kind, one.text, one.answer) for one in ask(draw(seed, at))),
        )
        for at in range(count)
    )


def of_folder(folder: Path, count: int | None = None, option: str = "--images") -> tuple[Item, ...]:
    """The images of a folder, by name, without questions. Raises ImageError when there is none, or one is damaged."""
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not images:
        raise ImageError(f"{option} must be a folder with images ({', '.join(sorted(SUFFIXES))}); {folder} has none")
    for path in images[:count]:
        check_file(path)
    return tuple(Item(path.name, str(path)) for path in images[:count])


def of_questions(file: Path, folder: Path, count: int | None = None) -> tuple[Item, ...]:
    """The images that a file of JSON lines asks about, in its order, with their questions.

    folder: of the images
    count: of images, at most

    Raises RequestError (or ImageError) that names the line which lacks a field, is no JSON, or whose image is missing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"--questions must be a readable file of JSON lines; {file} is not: {error}") from None
    asked: dict[str, list[Query]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, query = _query(line, f"{file}, line {number}")
        query = replace(query, boxes=_boxes(line, f"{file}, line {number}"))
        if name not in asked:
            if count is not None and len(asked) == count:
                continue
            _check_image(folder / name, f"{file}, line {number}")
        asked.setdefault(name, []).append(query)
    if not asked:
        raise RequestError(f"--questions must hold a question a line; {file} has none")
    return tuple(Item(name, str(folder / name), tuple(queries)) for name, queries in asked.items())


def _query(line: str, where: str) -> tuple[str, Query]:
    try:
        given: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} must be a JSON object: {error}") from None
    if not isinstance(given, dict):
        raise RequestError(f"{where} must be a JSON object, got {line:.60}")
    for field in ("image", "question"):
        if not isinstance(given.get(field), str) or not given[field]:
            raise RequestError(f"{where} must have {field}, a text; got {given.get(field)!r:.60}")
    name, text = given["image"], given["question"]
    kind = given.get("type")
    if kind is not None and not (isinstance(kind, str) and kind and kind.isprintable()):
        raise RequestError(f"{where}: type must be a text, got {kind!r:.60}")
    if "options" in given:
        options, right = _options(given, where)
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        asked = f"{text}\n{listed}\nAnswer with the option's letter from the given choices directly."
        return name, Query(kind or "multiple choice", asked, right, options)
    if "answers" in given:
        answers = given["answers"]
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(one, str) for one in answers):
            raise RequestError(f"{where}: answers must be two texts or more, of several people; got {answers!r:.60}")
        return name, Query(kind or "VQA score", text, tuple(answers))
    if not isinstance(given.get("answer"), str):
        raise RequestError(f"{where} must have answer, a text, or answers, or options; got {given.get('answer')!r:.60}")
    return name, Query(kind or "exact match", text, given["answer"])


def _boxes(line: str, where: str) -> tuple[tuple[float, ...], ...]:
    """Raises RequestError for what is no box."""
    boxes: Any = json.loads(line).get("boxes", [])
    for box in boxes if isinstance(boxes, list) else [boxes]:
        numbers = isinstance(box, list) and len(box) == 4 and all(type(one) in (int, float) for one in box)
        if not numbers or not (box[0] < box[2] and box[1] < box[3]):
            raise RequestError(f"{where}: boxes must be [[left, top, right, bottom], ...] in pixels, got {box!r:.60}")
    return tuple(tuple(map(float, box)) for box in boxes)


def _options(given: dict[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """The options, and which is right: by its place from 0, its letter, or as it stands."""
    options, answer = given["options"], given.get("answer")
    if not isinstance(options, list) or not 2 <= len(options) <= 26 or not all(isinstance(one, str) for one in options):
        raise RequestError(f"{where}: options must be 2 to 26 texts, got {options!r:.60}")
    if isinstance(answer, str) and answer in options:
        return tuple(options), options.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(options)]:
        return tuple(options), LETTERS.index(answer)
    if type(answer) is int and 0 <= answer < len(options):
        return tuple(options), answer
    raise RequestError(f"{where}: answer must be one of the options, its letter or its place, got {answer!r:.60}")


def _check_image(path: Path, where: str) -> None:
    if not path.is_file():
        raise ImageError(f"{where}: there is no image {path}; check --images")
    try:
        check_file(path)
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from None


def _content(item: Item) -> bytes:
    source = item.packed().source
    assert isinstance(source, bytes)
    return hashlib.sha256(source).digest()
