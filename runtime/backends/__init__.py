"""What runs a graph: one file for each executor, and what all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

from numpy.typing import NDArray

from edgeprune.bundle import TensorSpec
from edgeprune.errors import BundleError, RequestError

__all__ = ["Backend", "Closed", "check_names"]


class Backend(Protocol):
    """An open graph or plan."""

    @property
    def raw(self) -> Any: ...
    @property
    def device(self) -> str: ...
    @property
    def source(self) -> str:
        """name of the file"""

    @property
    def flags(self) -> Sequence[str]:
        """what the builder of a plan was allowed, as FP16; none of a graph"""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...
    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """those that `run` returns, in its order"""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]: ...
    def run_on_device(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """`run`, with outputs that stay where they are made; whoever speaks DLPack takes them."""

    def close(self) -> None: ...


class Closed:
    """What stands in the place of a backend that was closed: whatever is asked of it is refused."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __getattr__(self, name: str) -> NoReturn:
        raise RequestError(f"{self._source} is closed; open the bundle again with load()")


def check_names(
    source: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], wanted: Sequence[str] | None, again: str
) -> tuple[str, ...]:
    """The outputs to return; `again` is the remedy. Raises BundleError when one is not there, or nothing goes in."""
    names = tuple(outputs if wanted is None else wanted)
    if not inputs or not set(names) <= set(outputs):
        have = f"{', '.join(inputs) or 'none'} and {', '.join(outputs) or 'none'}"
        raise BundleError(f"{source} must have an input and the outputs {', '.join(names)}; it has {have}; {again}")
    return names
