"""Tables of TOML or JSON as the dataclasses that say what may stand in them. Standard library only.

    @dataclass                          {"size": 3, "names": ["a"]}  ->  File(3, ("a",))
    class File:                         {"size": "3"}                ->  size must be an integer, got '3'
        size: int                       {}                           ->  size must be given
        names: tuple[str, ...] = ()

A field with a default may be left out. Values are taken as they are, never converted, but that a whole number will do
for a float, and an array becomes a tuple.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from edgeprune.errors import unknown_name

__all__ = ["JSON", "TOML", "Format", "read"]

_KINDS = {bool: "true or false", float: "a number", int: "an integer", str: "a string"}


@dataclass(frozen=True)
class Format:
    """What a kind of file calls its tables, and how strict it is."""

    table: str
    spare: bool
    """whether fields that are not known pass, and are left out"""
    single: bool
    """whether an array of one may be written as its element"""


JSON = Format("an object", spare=True, single=False)
TOML = Format("a table", spare=False, single=True)


def read(hint: Any, given: object, format: Format, where: str = "") -> Any:
    """A value as the type of a field: int, str, float, bool, Literal, `X | Y`, tuple, Mapping, Any or a dataclass.

    where: the path of the value, for messages

    Raises ValueError in one line that names the field, what must hold, and what was given.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return given
    if dataclasses.is_dataclass(hint):
        return _table(hint, given, format, where)
    if origin in (typing.Union, types.UnionType):
        return _union(args, given, format, where)
    if origin is Literal:
        if given not in args:
            raise ValueError(f"{where} must be one of {', '.join(args)}; got {given!r:.60}")
        return given
    if origin in (Mapping, dict):
        return {
            name: read(args[1], value, format, f"{where}[{name!r}]") for name, value in _items(given, format, where)
        }
    if origin is tuple:
        return _array(args, given, format, where)
    if hint is float and type(given) is int:
        return float(given)
    if not isinstance(given, hint) or (isinstance(given, bool) and hint is not bool):
        raise ValueError(f"{where} must be {_KINDS[hint]}, got {given!r:.60}")
    return given


def _table(hint: Any, given: object, format: Format, where: str) -> Any:
    """A dataclass; no field more than it has, unless the format lets them pass."""
    table, dot = dict(_items(given, format, where)), f"{where}." if where else ""
    hints, specs = _hints(hint), {spec.name: spec for spec in dataclasses.fields(hint)}
    for name in table:
        if name not in specs and not format.spare:
            raise ValueError(f"{dot}{name}: {unknown_name('field', name, specs)}")
    for name, spec in specs.items():
        if name not in table and spec.default is spec.default_factory is dataclasses.MISSING:
            raise ValueError(f"{dot}{name} must be given")
    return hint(**{name: read(hints[name], table[name], format, dot + name) for name in specs if name in table})


@cache
def _hints(table: Any) -> dict[str, Any]:
    """Evaluated from their text, which takes most of the time that a manifest is read in."""
    return typing.get_type_hints(table)


def _items(given: object, format: Format, where: str) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where or 'it'} must be {format.table}, got {given!r:.60}")
    return given.items()


def _union(args: tuple[Any, ...], given: object, format: Format, where: str) -> Any:
    """`X | None` or plain kinds side by side: JSON has null, TOML leaves the field out."""
    if given is None and type(None) in args:
        return None
    kinds = tuple(kind for kind in args if kind is not type(None))
    if len(kinds) == 1:
        return read(kinds[0], given, format, where)
    if not isinstance(given, kinds) or isinstance(given, bool):
        raise ValueError(f"{where} must be {' or '.join(_KINDS[kind] for kind in kinds)}, got {given!r:.60}")
    return given


def _array(args: tuple[Any, ...], given: object, format: Format, where: str) -> tuple[Any, ...]:
    count = None if args[-1] is ... else len(args)
    if format.single and not isinstance(given, (list, tuple)):
        return (read(args[0], given, format, where),)
    if not isinstance(given, (list, tuple)) or len(given) != (count or len(given)):
        raise ValueError(f"{where} must be an array{f' of {count}' if count else ''}, got {given!r:.60}")
    hints = [args[0]] * len(given) if count is None else args
    return tuple(
        read(hint, value, format, where if format.single else f"{where}[{at}]")
        for at, (hint, value) in enumerate(zip(hints, given, strict=True))
    )
