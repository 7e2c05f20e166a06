"""The methods of a sweep, each with its options: those that were asked for, and those that always stand beside them.

fastervlm                       as it comes
hiprune:alpha=0.2               with an option; one that is the default is as if it were not given
random:seed=0, 1, 2; uniform; pool; none        always: what a method has to beat, and what it is measured from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune import catalog
from edgeprune.errors import MethodError, unknown_name

__all__ = ["RANDOM", "UNPRUNED", "Variant", "variants"]


@dataclass(frozen=True, order=True)
class Variant:
    """A method with its options."""

    method: str
    options: tuple[tuple[str, str], ...] = ()
    """those that are not the default, by name, as text"""

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return ":".join([self.method, *(f"{option}={value}" for option, value in self.options)])


UNPRUNED = Variant("none")
RANDOM = tuple(Variant("random", (("seed", str(seed)),) if seed else ()) for seed in range(3))
CONTROLS = (*RANDOM, Variant("uniform"), Variant("pool"))


def variants(given: Sequence[str] = ()) -> tuple[Variant, ...]:
    """What was asked for, then what always stands beside it; without any, every method. `none` comes first.

    >>> [one.name for one in variants(["hiprune:alpha=0.2", "divprune"])][:4]
    ['none', 'hiprune:alpha=0.2', 'divprune', 'random']

    Raises MethodError for a name or an option that does not exist.
    """
    entries = {entry.name: entry for entry in catalog.methods()}
    asked = [_read(text, entries) for text in given] or [
        Variant(name) for name in entries if Variant(name) not in (UNPRUNED, *CONTROLS)
    ]
    return tuple(dict.fromkeys((UNPRUNED, *asked, *CONTROLS)))


def _read(text: str, entries: dict[str, catalog.Entry]) -> Variant:
    name, *settings = text.split(":")
    if name not in entries:
        raise MethodError(unknown_name("method", name, entries))
    options: dict[str, str] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise MethodError(f"an option in --methods must be NAME=VALUE behind a colon, got {setting!r} in {text!r}")
        typed = catalog.option_value(name, option, value, entries[name].options)
        if repr(typed) != entries[name].defaults[option]:
            options[option] = str(typed)
    return Variant(name, tuple(sorted(options.items())))
