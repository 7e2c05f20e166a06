"""Questions about a drawn scene, with one-word answers: colour, shape, count and existence.

    one of each kind, then of any kind, up to eight, none twice

A colour or a shape is asked of an object that the question singles out. Half of the objects that are asked for in vain
are conjunctions: their colour is there and their shape is there, but not in one object; the rest share one of the two
with an object. So what the right answer takes is to see which colour belongs to which shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeprune.quality.scenes import COLORS, SHAPES, Scene

__all__ = ["KINDS", "MOST", "Question", "ask"]

MOST = 8
"""questions of a scene"""
NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}
CONJUNCTIONS = 0.5
"""share of the vain "is there" where the scene has such"""


@dataclass(frozen=True)
class Question:
    kind: str
    """one of KINDS"""
    text: str
    answer: str


def ask(scene: Scene) -> tuple[Question, ...]:
    """The questions of a scene: always the same, and one of each kind that the scene allows first.

    >>> from edgeprune.quality.scenes import draw
    >>> [question.kind for question in ask(draw(0, 3))][:4]
    ['color', 'shape', 'count', 'existence']
    """
    rng = np.random.default_rng(np.random.SeedSequence((scene.seed, scene.index, 1)))
    kinds = [*KINDS, *(KINDS[at] for at in rng.integers(len(KINDS), size=2 * MOST))]
    asked: dict[str, Question] = {}
    for kind in kinds:
        question = _DRAWN[kind](scene, rng)
        if question is not None and len(asked) < MOST:
            asked.setdefault(question.text, question)
    return tuple(asked.values())


def _color(scene: Scene, rng: np.random.Generator) -> Question | None:
    shapes = [one.shape for one in scene.things]
    single = [one for one in scene.things if shapes.count(one.shape) == 1]
    if not single:
        return None
    thing = single[rng.integers(len(single))]
    return Question("color", f"what color is the {thing.shape}?", thing.color)


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    colors = [one.color for one in scene.things]
    single = [one for one in scene.things if colors.count(one.color) == 1]
    if not single:
        return None
    thing = single[rng.integers(len(single))]
    return Question("shape", f"what shape is the {thing.color} object?", thing.shape)


def _count(scene: Scene, rng: np.random.Generator) -> Question:
    """Of all objects, of a shape that is there, or of any."""
    shapes, lot = [one.shape for one in scene.things], rng.random()
    if lot < 0.25:
        return Question("count", "how many objects are there?", NUMBERS[len(shapes)])
    shape = shapes[rng.integers(len(shapes))] if lot < 0.65 else SHAPES[rng.integers(len(SHAPES))]
    return Question("count", f"how many {PLURALS[shape]} are there?", NUMBERS[shapes.count(shape)])


def _existence(scene: Scene, rng: np.random.Generator) -> Question:
    there = {(one.color, one.shape) for one in scene.things}
    colors, shapes = {color for color, _ in there}, {shape for _, shape in there}
    if rng.random() < 0.5:
        color, shape = sorted(there)[rng.integers(len(there))]
        return Question("existence", f"is there a {color} {shape}?", "yes")
    both = [(color, shape) for color in COLORS for shape in SHAPES if color in colors and shape in shapes]
    lures = [pair for pair in both if pair not in there]
    if not lures or rng.random() >= CONJUNCTIONS:
        lures = [(color, shape) for color in COLORS for shape in SHAPES if (color in colors) != (shape in shapes)]
    color, shape = lures[rng.integers(len(lures))]
    return Question("existence", f"is there a {color} {shape}?", "no")


_DRAWN: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "color": _color,
    "shape": _shape,
    "count": _count,
    "existence": _existence,
}
KINDS = tuple(_DRAWN)
