"""Questions about a drawn scene, with one-word answers: colour, shape, count and existence.

    one of each kind, then of any kind, up to eight, none twice

A colour or a shape is asked of an object that the question singles out. Half of the objects that are asked for in vain
are conjunctions: their colour is there and their shape is there, but not in one object; the rest share one of the two
with an object. So what the right answer takes is to see which colour belongs to which shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeprune.quality.scenes import COLORS, SHAPES, Scene

__all__ = ["KINDS", "MOST", "Question", "ask"]

MOST = 8
"""questions of a scene"""
NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}
ALL_BY = 4
""""how many objects" is among the first so many questions for a number"""

Item = TypeVar("Item")


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
    left = {kind: list(drawn(scene, rng)) for kind, drawn in _DRAWN.items()}
    asked = [questions.pop(0) for questions in left.values() if questions]
    while len(asked) < MOST and (kinds := [kind for kind, questions in left.items() if questions]):
        asked.append(left[kinds[rng.integers(len(kinds))]].pop(0))
    return tuple(asked)


def _color(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    shapes = Counter(thing.shape for thing in scene.things)
    for thing in _shuffled(rng, [thing for thing in scene.things if shapes[thing.shape] == 1]):
        yield Question("color", f"what color is the {thing.shape}?", thing.color)


def _shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    colors = Counter(thing.color for thing in scene.things)
    for thing in _shuffled(rng, [thing for thing in scene.things if colors[thing.color] == 1]):
        yield Question("shape", f"what shape is the {thing.color} object?", thing.shape)


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Of all objects at any place in the order; of a shape that is there, and of one that is not, by turns."""
    there = Counter(thing.shape for thing in scene.things)
    shapes = _by_turns(rng, list(there), [shape for shape in SHAPES if shape not in there])
    asked = [(PLURALS[shape], there[shape]) for shape in shapes]
    asked.insert(rng.integers(ALL_BY), ("objects", len(scene.things)))
    for name, count in asked:
        yield Question("count", f"how many {name} are there?", NUMBERS[count])


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """What is there and what is not, by turns, until there is no more that is."""
    there = {(thing.color, thing.shape) for thing in scene.things}
    colors, shapes = {color for color, _ in there}, {shape for _, shape in there}
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    both = [pair for pair in pairs if pair[0] in colors and pair[1] in shapes and pair not in there]
    one = [(color, shape) for color, shape in pairs if (color in colors) != (shape in shapes)]
    for color, shape in _by_turns(rng, sorted(there), _by_turns(rng, both, one)):
        yield Question("existence", f"is there a {color} {shape}?", "yes" if (color, shape) in there else "no")


def _shuffled(rng: np.random.Generator, items: list[Item]) -> list[Item]:
    return [items[at] for at in rng.permutation(len(items))]


def _by_turns(rng: np.random.Generator, some: list[Item], others: list[Item]) -> list[Item]:
    """As many of both, each shuffled, either first; all of the others where there is none."""
    if not some:
        return _shuffled(rng, others)
    pairs = list(zip(_shuffled(rng, some), _shuffled(rng, others), strict=False))
    return [one for pair in pairs for one in (pair if rng.random() < 0.5 else pair[::-1])]


_DRAWN: dict[str, Callable[[Scene, np.random.Generator], Iterator[Question]]] = {
    "color": _color,
    "shape": _shape,
    "count": _count,
    "existence": _existence,
}
KINDS = tuple(_DRAWN)
