"""The probes of a bundle: what the graph is given, what the reference made of it, and how an output is held against it.

`reference.safetensors` holds, for each probe, `<probe>/<name>` for each input and output of the graph, with the
leading batch dimension B:

    scene00/pixel_values  [B, 3, H, W] float32, or uint8 [B, H, W, 3]
    scene00/tokens        [B, K, D] float32; of a detector logits and pred_boxes, [B, T, D] float32;
                          of a classifier logits, [B, classes] float32
    scene00/indices       [B, K] int32
    scene00/scores        [B, N] float32

    photo/images          [B, H, W, 3] uint8, of at least one probe: what pixel_values were made of, so that verify
                          runs the preprocessing, too; tiles of one image have B = 1

and what else the graph hands out (picks, origin, ...), and what the rule replays decisions by:
`<probe>/quantity.<name>` [B, ...] float32. Of cosines and inner products, which are symmetric, what stands on and above
the diagonal is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import Bundle
from edgeprune.errors import BundleError, EdgepruneError, MissingPackageError
from edgeprune.runtime.budgets import first_picks
from edgeprune.runtime.parity.inside import STEPS
from edgeprune.runtime.parity.verdict import RULES, Verdict, compare
from edgeprune.runtime.parity.worth import of_probe

__all__ = ["IMAGES", "QUANTITY", "REFERENCE", "Probe", "own_image", "packed", "replayed", "stored_probes"]

REFERENCE = "reference.safetensors"
QUANTITY = "quantity."
SYMMETRIC = ("similarity", "products")
"""also of a step inside the encoder, `<layer>.similarity`"""
IMAGES = "images"
"""of a probe that is run through the preprocessing as well"""


@dataclass(frozen=True)
class Probe:
    inputs: Mapping[str, NDArray[Any]]
    """what the graph is given, by name"""
    outputs: Mapping[str, NDArray[Any]]
    """what the reference made of it, by name"""
    rule: Mapping[str, Any]
    """how decisions are judged"""
    quantities: Mapping[str, NDArray[Any]]
    """what the rule replays them by"""
    whole: bool = False
    """whether every output hangs on all that are kept"""
    bounds: Mapping[str, Any] | None = None
    """by which a quantised graph is judged; None of a float one"""
    images: NDArray[np.uint8] | None = None
    """[B, H, W, 3] uint8 of any size, before the preprocessing, from which pixel_values come; where there are such"""

    def cut(self, keep: int) -> Probe:
        """The same with the first `keep` picks of the reference, as the first of a device's are held against it."""
        outputs = first_picks(self.outputs, keep, self.rule["name"] == "greedy")
        return dataclasses.replace(self, outputs=outputs)

    def compare(self, got: Mapping[str, NDArray[Any]], dtype: str) -> Verdict:
        """How the outputs of a backend compare with the reference's.

        dtype: the float that the backend computes in, which the bounds go with, whatever it hands out

        Raises BundleError when the reference is not that of such a graph.
        """
        cast = {name: value.astype(dtype, copy=False) for name, value in got.items() if name == "tokens"}
        with _fitting():
            return compare(self.outputs, {**got, **cast}, dtype, self.rule, self.quantities, self.whole, self.bounds)


def packed(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """A quantity as it is stored: [B, N, N] -> [B, N (N + 1) / 2], others as they are; float32."""
    if _kind(name) not in SYMMETRIC:
        return np.ascontiguousarray(value, np.float32)
    rows, columns = np.triu_indices(value.shape[-1])
    return np.ascontiguousarray(value[:, rows, columns], np.float32)


def unpacked(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `packed`; a cosine of a patch with itself is 1."""
    if _kind(name) not in SYMMETRIC:
        return value
    size = int((2 * value.shape[-1]) ** 0.5)
    full = np.zeros((len(value), size, size), value.dtype)
    rows, columns = np.triu_indices(size)
    full[:, rows, columns] = value
    full[:, columns, rows] = value
    if _kind(name) == "similarity":
        full[:, range(size), range(size)] = 1
    return full


def _kind(name: str) -> str:
    """Without the layer of a step."""
    layer, _, kind = name.partition(".")
    return kind if layer.isdecimal() else name


def replayed(quantities: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Quantities as they come back from a bundle, without one."""
    return {name: unpacked(name, packed(name, value)) for name, value in quantities.items()}


@contextlib.contextmanager
def stored_probes(bundle: Bundle) -> Iterator[tuple[list[str], Callable[[str], Probe]]]:
    """The names of the probes, and a function that reads one; one is in memory at a time."""
    try:
        import safetensors
    except ImportError as error:
        raise MissingPackageError("safetensors", "cpu", error) from None
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
        quantities = sorted({one for fields in have.values() for one in fields if one.startswith(QUANTITY)})
        needed = (*inputs, *outputs, *quantities)  # what one probe has, every probe has
        whole = bool(bundle.manifest.steps)
        missing = [f"{name}/{field}" for name in sorted(have) for field in needed if field not in have[name]]
        if missing or not have:
            raise BundleError(
                f"{bundle.folder}: {REFERENCE} lacks {missing[0] if missing else 'any probe'}; export the bundle again"
            )

        rule = bundle.manifest.rule
        every: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [("its manifest", rule, RULES)]
        every += [("a step", step, STEPS) for step in _steps(rule)]
        for what, one, known in every:
            if one and one.get("name") not in [*known]:  # a list: what is no text may not be hashed either
                raise BundleError(
                    f"{bundle.folder}: the rule of {what} must be one of {', '.join(known)}, got "
                    f"{one.get('name')!r:.40}; upgrade edgeprune"
                )

        def read(name: str) -> Probe:
            with _fitting():
                return probe_of(name)

        def probe_of(name: str) -> Probe:
            def tensor(field: str) -> NDArray[Any]:
                stored: NDArray[Any] = file.get_tensor(f"{name}/{field}")
                return stored

            named = {one.removeprefix(QUANTITY): tensor(one) for one in quantities}
            expected = {one: tensor(one) for one in outputs}
            return Probe(
                {one: tensor(one) for one in inputs},
                expected,
                rule or _older(expected),
                {one: unpacked(one, value) for one, value in named.items()},
                whole,
                of_probe(bundle.manifest.bounds, name),
                tensor(IMAGES) if IMAGES in have[name] else None,
            )

        yield sorted(have), read


def _steps(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a rule that a hand may have written, those steps that can have a name."""
    steps = rule.get("steps")
    return [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, (list, tuple)) else []


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """What a hand put into the reference may be of any shape, and numpy and safetensors have errors for all of them."""
    try:
        yield
    except EdgepruneError:
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise BundleError(f"{REFERENCE} is not that of the graph ({said:.100}); export the bundle again") from error


def own_image(bundle: Bundle) -> NDArray[np.uint8]:
    """[H, W, 3] uint8: the first image that the bundle holds.

    Raises BundleError when it holds none, as those of tiles or of 0.1.
    """
    with stored_probes(bundle) as (names, read):
        for name in names:
            if (images := read(name).images) is not None:
                image: NDArray[np.uint8] = images[0]
                return image
    raise BundleError(f"{bundle.folder} holds no image of its own; give one, as photo.jpg")


def _older(outputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The rule of a bundle of schema 1.x, which names none: a top-k where it was one, else nothing may differ."""
    scores, indices = outputs["scores"], outputs["indices"]
    highest = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, : indices.shape[1]], axis=1)
    return {"name": "topk" if np.isfinite(scores).all() and np.array_equal(highest, indices) else "fixed"}
