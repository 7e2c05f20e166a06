"""Around what transformers builds of a config.json: what it raises there, of whatever type, is one line of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeprune.errors import EdgepruneError, ModelError

__all__ = ["building"]


@contextmanager
def building(id: str) -> Iterator[None]:
    """Raises ModelError for what transformers or torch cannot make of the config; id: of the checkpoint."""
    try:
        yield
    except EdgepruneError:
        raise
    except Exception as error:
        said = "".join(one if one.isprintable() else "?" for one in " ".join(str(error).split()))
        if isinstance(error, KeyError):
            said = f"{said} is missing, or unknown"
        elif not said.startswith("Validation error"):  # which names the field
            said = f"{type(error).__name__}: {said}"
        raise ModelError(f"{id}: transformers cannot build what config.json describes: {said:.240}") from error
