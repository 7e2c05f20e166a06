"""The tree of exceptions that errors.py draws, and the message for an unknown name."""

from __future__ import annotations

import inspect
import re

import pytest

from edgeprune import errors
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError, unknown_name

DEPTH = len("├── ")


def drawn_tree(text: str) -> dict[str, str]:
    """Class -> parent, as a docstring draws them."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"    ([ │├└─]*)([A-Z]\w+Error)\b", line):
            depth = len(match[1]) // DEPTH
            above[depth:] = [match[2]]
            parents[match[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert drawn_tree(errors.__doc__ or "") == {cls.__name__: cls.__mro__[1].__name__ for cls in classes}


def test_every_class_of_the_tree_is_public() -> None:
    assert set(errors.__all__) == {*drawn_tree(errors.__doc__ or ""), "unknown_name"}


def test_a_wrong_request_exits_2_and_a_failure_1() -> None:
    codes = {name: getattr(errors, name).exit_code for name in drawn_tree(errors.__doc__ or "")}
    assert {name for name, code in codes.items() if code == 1} == {"EdgepruneError", "ParityError"}
    assert {name for name, code in codes.items() if code == 2} == codes.keys() - {"EdgepruneError", "ParityError"}


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    with pytest.raises(RequestError, match=r"onnxruntime, .*pip install 'edgeprune\[cpu\]'"):
        raise MissingPackageError("onnxruntime", "cpu")


def test_an_unknown_name_gets_the_nearest_one() -> None:
    assert unknown_name("method", "hipune", ["none", "hiprune"]) == (
        "no method 'hipune'; have hiprune, none. Did you mean 'hiprune'?"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("jetson-oirn", "jetson-orin"), ("ORIN", "jetson-orin"), ("jetson", "jetson-orin"), ("jp51", "jetson-orin-jp51")],
)
def test_the_nearest_name_holds_it_or_is_spelt_alike(name: str, near: str) -> None:
    names = ["cpu", "jetson-orin", "jetson-orin-jp51", "jetson-thor"]
    assert unknown_name("target", name, names).endswith(f" Did you mean '{near}'?")


def test_an_unknown_name_far_from_all_gets_the_list_only() -> None:
    assert unknown_name("target", "xyz", ["cpu"]) == "no target 'xyz'; have cpu."


def test_one_clause_catches_everything_raised_on_purpose() -> None:
    assert all(issubclass(getattr(errors, name), EdgepruneError) for name in drawn_tree(errors.__doc__ or ""))
