"""A value passes as it is, or is refused by the path of the field; JSON and TOML differ in what they let pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from edgeprune.typed import JSON, TOML, read


@dataclass(frozen=True)
class Part:
    size: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    part: Part
    kind: Literal["a", "b"] = "a"
    share: float | None = None
    pair: tuple[int, str] = (0, "")
    shape: tuple[int | str, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    flag: bool = False
    anything: Any = None


GIVEN = {
    "part": {"size": 3, "names": ["x", "y"]}, "kind": "b", "share": 2, "pair": [1, "z"], "shape": ["batch", 3],
    "steps": [[1, 2], [3, 4]], "parts": {"p": {"size": 0}}, "flag": True, "anything": [{"a": None}],
}  # fmt: skip


@pytest.mark.parametrize("format", [JSON, TOML], ids=["JSON", "TOML"])
def test_every_kind_of_field_is_read(format: Any) -> None:
    assert read(Whole, GIVEN, format) == Whole(
        Part(3, ("x", "y")), "b", 2.0, (1, "z"), ("batch", 3), ((1, 2), (3, 4)), {"p": Part(0)}, True, [{"a": None}]
    )


def test_what_has_a_default_may_be_left_out() -> None:
    assert read(Whole, {"part": {"size": 1}}, JSON) == Whole(Part(1))


def test_toml_takes_one_for_an_array_of_one_and_json_does_not() -> None:
    assert read(Part, {"size": 1, "names": "x"}, TOML) == Part(1, ("x",))
    with pytest.raises(ValueError, match="names must be an array, got 'x'"):
        read(Part, {"size": 1, "names": "x"}, JSON)


def test_json_lets_unknown_fields_pass_and_toml_names_the_nearest() -> None:
    assert read(Part, {"size": 1, "sizes": 2}, JSON) == Part(1)
    with pytest.raises(ValueError, match=r"part\.sizes: .*size"):
        read(Whole, {"part": {"size": 1, "sizes": 2}}, TOML)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"part": {}}, "part.size must be given"),
        ({"part": {"size": "3"}}, "part.size must be an integer, got '3'"),
        ({"part": {"size": True}}, "part.size must be an integer, got True"),
        ({"part": {"size": 1.0}}, "part.size must be an integer, got 1.0"),
        ({"part": {"size": 1, "names": [1]}}, "part.names[0] must be a string, got 1"),
        ({"part": [1]}, "part must be an object, got [1]"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"share": "all"}, "share must be a number, got 'all'"),
        ({"share": True}, "share must be a number, got True"),
        ({"pair": [1]}, "pair must be an array of 2, got [1]"),
        ({"pair": [1, 2]}, "pair[1] must be a string, got 2"),
        ({"shape": [1.5]}, "shape[0] must be an integer or a string, got 1.5"),
        ({"steps": [[1, 2], [3]]}, "steps[1] must be an array of 2, got [3]"),
        ({"parts": {"p": {"size": None}}}, "parts['p'].size must be an integer, got None"),
        ({"flag": 1}, "flag must be true or false, got 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_its_path(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is compared whole
        read(Whole, {"part": {"size": 1}, **given}, JSON)
    assert str(refused.value) == message
