"""The probes of a bundle: what the graph is given, what the reference made of it, and how an output is held against it.

`reference.safetensors` holds, for each probe, `<probe>/<name>` for each input and output of the graph, with the
leading batch dimension B:

    scene00/pixel_values  [B, 3, H, W] float32, or uint8 [B, H, W, 3]
    scene00/tokens        [B, K, D] float32; of a detector logits and pred_boxes, [B, T, D] float32
    scene00/indices       [B, K] int32
    scene00/scores        [B, N] float32

    photo/images          [B, H, W, 3] uint8, of at least one probe: what pixel_values were made of, so that verify
                          runs the preprocessing, too; tiles of one image have B = 1

and what else the graph hands out, and where the reference is in doubt (`doubt`): `<probe>/order`, ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, MissingPackageError
from edgeprune.runtime.parity import Report, compare
from edgeprune.runtime.parity.doubt import DOUBTS, Doubt, doubt_of

__all__ = ["IMAGES", "REFERENCE", "Probe", "stored_probes"]

REFERENCE = "reference.safetensors"
IMAGES = "images"
"""of a probe that is run through the preprocessing as well"""


@dataclass(frozen=True)
class Probe:
    inputs: Mapping[str, NDArray[Any]]
    """what the graph is given, by name"""
    outputs: Mapping[str, NDArray[Any]]
    """what the reference made of it, by name"""
    doubt: Doubt
    images: NDArray[np.uint8] | None = None
    """[B, H, W, 3] uint8 of any size, before the preprocessing, from which pixel_values come; where there are such"""

    def compare(self, got: Mapping[str, NDArray[Any]], dtype: str) -> Report:
        """How the outputs of a backend compare with the reference's.

        dtype: what the backend computes in, which the bounds go with, whatever it hands out
        """
        (reference, more), (found, others) = _split(self.outputs), _split(got)
        if found.tokens is not None:
            found = found._replace(tokens=found.tokens.astype(dtype, copy=False))
        return compare(reference, found, dtype, self.doubt, (more, others))


class _Found(NamedTuple):
    tokens: NDArray[Any] | None
    indices: NDArray[Any]
    scores: NDArray[Any]


def _split(outputs: Mapping[str, NDArray[Any]]) -> tuple[_Found, dict[str, NDArray[Any]]]:
    """What every encoder has, a detector without tokens, and the rest."""
    rest = {name: value for name, value in outputs.items() if name not in _Found._fields}
    return _Found(*(outputs.get(name) for name in _Found._fields)), rest  # type: ignore[arg-type]


@contextlib.contextmanager
def stored_probes(bundle: Bundle) -> Iterator[tuple[list[str], Callable[[str], Probe]]]:
    """The names of the probes, and a function that reads one; one is in memory at a time."""
    try:
        import safetensors
    except ImportError:
        raise MissingPackageError("safetensors", "cpu") from None
    try:
        opened = safetensors.safe_open(bundle.path(REFERENCE), framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(f"{bundle.folder}: {REFERENCE} cannot be read ({error}); export the bundle again") from None
    with opened as file:
        have: dict[str, set[str]] = {}
        for key in file.keys():  # noqa: SIM118 - it is no dict
            probe, _, field = key.rpartition("/")
            have.setdefault(probe, set()).add(field)
        inputs, outputs = bundle.manifest.inputs, bundle.manifest.outputs
        doubts = sorted({field for fields in have.values() for field in fields} & DOUBTS)
        needed = (*inputs, *outputs, *doubts)  # what one probe has, every probe has
        missing = [f"{name}/{field}" for name in sorted(have) for field in needed if field not in have[name]]
        if missing or not have:
            raise BundleError(
                f"{bundle.folder}: {REFERENCE} lacks {missing[0] if missing else 'any probe'}; export the bundle again"
            )

        def read(name: str) -> Probe:
            def tensor(field: str) -> NDArray[Any]:
                found: NDArray[Any] = file.get_tensor(f"{name}/{field}")
                return found

            return Probe(
                {one: tensor(one) for one in inputs},
                {one: tensor(one) for one in outputs},
                doubt_of(doubts, tensor),
                tensor(IMAGES) if IMAGES in have[name] else None,
            )

        yield sorted(have), read
