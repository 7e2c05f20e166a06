"""Names of a sweep's rows taken apart: the method, and what shortens the sequence inside the encoder."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune import catalog
from edgeprune.quality.sweep.rows import Row

__all__ = ["Named", "named"]


@dataclass(frozen=True)
class Named:
    method: str
    """with its options"""
    inside: str = ""
    """the reducer with its options, if there is one"""
    cost: str = ""
    """of the encoder with its steps, of the unpruned one's"""

    @property
    def steps(self) -> str:
        """What is inside, in a word or two."""
        return f"{self.inside} {self.cost}".rstrip()

    @property
    def series(self) -> str:
        """Method and reducer, whatever they cost."""
        return f"{self.method} + {self.inside}" if self.inside else self.method


def named(row: Row) -> Named:
    """An option goes to the method that has one of that name, else to the reducer, as `variants` reads them.

    >>> from edgeprune.quality.sweep.rows import Row
    >>> asked = named(Row("hiprune+cells@0.5:alpha=0.2:bias=false", 32, "float32", None))
    >>> asked.method, asked.inside, asked.cost
    ('hiprune:alpha=0.2', 'cells:bias=false', '0.5')
    """
    whole, *settings = row.method.split(":")
    method, plus, inside = whole.partition("+")
    if not plus:
        return Named(row.method)
    reducer, _, cost = inside.partition("@")
    own = next((one.options for one in catalog.methods() if one.name == method), {}) if settings else {}
    of_method = [setting for setting in settings if setting.partition("=")[0] in own]
    of_reducer = [setting for setting in settings if setting not in of_method]
    return Named(":".join([method, *of_method]), ":".join([reducer, *of_reducer]), cost)
