"""Any budget up to K from one graph: where the kept sets of a method nest, fewer tokens are the first of its picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle import Manifest, TensorSpec
from edgeprune.errors import RequestError
from edgeprune.runtime.backends import Backend

__all__ = ["Budgets", "Cut", "first_picks"]

WHOLE = ("picks", "scores", "origin")
"""outputs that are not cut as rows of tokens are"""
UNCUT = ("order", "worth", "trail.", "scores.", "next.")
"""how the names of those begin that are of all patches, or that steps inside the encoder hand out: of the rows there,
however many are kept"""


@dataclass(frozen=True)
class Budgets:
    """Whether the kept sets of a method nest, so that fewer tokens are the first of its picks."""

    refused: str
    """why they do not, or cannot be cut here; empty where they can"""
    greedy: bool = False
    """whether the scores are gains of picks, and -inf elsewhere"""
    stepped: bool = False
    """whether steps inside the encoder leave patches without a score, which is then -inf"""

    @classmethod
    def of(cls, manifest: Manifest) -> Budgets:
        method, again = manifest.method, "export again with the --keep that is wanted"
        if not manifest.nested:
            return cls(f"the kept sets of {method} do not nest, or this bundle does not say so; {again}")
        if "picks" not in manifest.outputs:
            return cls(f"this bundle of {method} has no picks, the order in which it chose; {again}")
        if manifest.pooled:
            return cls(f"the {manifest.tiles} tiles of this bundle share one budget; {again}")
        return cls("", greedy=manifest.rule.get("name") == "greedy", stepped=bool(manifest.inside))

    def check(self, what: str) -> None:
        """Raises RequestError where the kept sets do not nest; `what` needs it."""
        if self.refused:
            raise RequestError(f"{what} needs kept sets that nest: {self.refused}")


class Cut:
    """A backend that gives the first `keep` picks of another one's: what an export with --keep `keep` would give."""

    def __init__(self, whole: Backend, budgets: Budgets, keep: int) -> None:
        """Raises RequestError when the kept sets do not nest, or keep is not in 1..K."""
        budgets.check(f"a budget of {keep}")
        batch, every = whole.outputs["picks"].shape
        _check_range(keep, every)
        self._whole, self._greedy, self._keep = whole, budgets.greedy, keep
        self.raw, self.device, self.source, self.flags = whole.raw, whole.device, whole.source, whole.flags
        self.inputs, self.outputs = whole.inputs, dict(whole.outputs)
        for name, spec in whole.outputs.items():
            if (
                name not in ("scores", "origin")
                and not name.startswith(UNCUT)
                and (axis := _axis(spec.shape, batch, every)) is not None
            ):
                shape = (*spec.shape[:axis], keep, *spec.shape[axis + 1 :])
                self.outputs[name] = TensorSpec(shape, spec.dtype)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return first_picks(self._whole.run(feeds), self._keep, self._greedy)

    def run_on_device(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Raises RequestError: what is cut is on the host."""
        raise RequestError(
            f"a budget of {self._keep} is cut on the host; open the bundle without keep, and take the first picks there"
        )

    def close(self) -> None:
        self._whole.close()


def first_picks(tensors: Mapping[str, NDArray[Any]], keep: int, greedy: bool = False) -> dict[str, NDArray[Any]]:
    """The outputs of a run, by name, with only the first `keep` of their picks: in raster order as before.

    tensors: with indices and picks [B, K]. Cut is what has K as its second dimension (or, for one image, as its last)
    greedy: whether the scores are gains; those of the picks that go become -inf

    origin [B, N], if there is one, names places among the tokens: it names those that are left, -1 for the others.

    Raises RequestError when keep is not in 1..K, or there are no picks.

    >>> run = {"indices": np.array([[2, 5, 7]]), "picks": np.array([[5, 7, 2]]), "tokens": np.array([[[2], [5], [7]]])}
    >>> {name: value.ravel().tolist() for name, value in first_picks(run, 2).items()}
    {'indices': [5, 7], 'picks': [5, 7], 'tokens': [5, 7]}
    """
    if (picks := tensors.get("picks")) is None:
        raise RequestError("fewer tokens need picks, the order of choice, which the graph does not hand out")
    every = picks.shape[1]
    _check_range(keep, every)
    stays = np.argsort(picks, axis=1) < keep  # when each was picked, in raster order
    cut = {
        name: value if name.startswith(UNCUT) else _rows(value, stays, keep)
        for name, value in tensors.items()
        if name not in WHOLE
    }
    cut["picks"] = picks[:, :keep]
    if (origin := tensors.get("origin")) is not None:
        cut["origin"] = _renumbered(origin, stays)
    if (scores := tensors.get("scores")) is not None:
        cut["scores"] = scores
        if greedy:
            cut["scores"] = scores.copy()
            gone = picks[:, keep:].clip(0, scores.shape[1] - 1)  # picks that are none are for parity to find
            np.put_along_axis(cut["scores"], gone.astype(np.intp), -np.inf, 1)
    return {name: cut[name] for name in tensors}


def _renumbered(origin: NDArray[Any], stays: NDArray[np.bool_]) -> NDArray[Any]:
    """[B, N] places among K tokens -> among those that stay; what is no place is for parity to find."""
    every = stays.shape[1]
    numbers = np.where(stays, np.cumsum(stays, axis=1) - 1, -1)
    among = (origin >= 0) & (origin < every)
    left = np.take_along_axis(numbers, np.where(among, origin, 0).astype(np.intp), axis=1)
    return np.where(among, left, origin).astype(origin.dtype)


def _check_range(keep: Any, every: Any) -> None:
    if not isinstance(keep, (int, np.integer)) or isinstance(keep, bool) or not 1 <= keep <= every:
        raise RequestError(
            f"the number of tokens must be a whole one in 1..{every}, got {keep}; export with more --keep"
        )


def _rows(value: NDArray[Any], stays: NDArray[np.bool_], keep: int) -> NDArray[Any]:
    """[B, K, ...] -> [B, keep, ...], of one image [..., K] -> [..., keep]; anything else as it is."""
    if value.shape[:2] == stays.shape:
        return value[stays].reshape(len(value), keep, *value.shape[2:])
    return value if _axis(value.shape, *stays.shape) is None else value[..., stays[0]]


def _axis(shape: tuple[int | str, ...], batch: int | str, every: int | str) -> int | None:
    """Along which dimension an output belongs to the K tokens of each of B images; None: along none."""
    if shape[:2] == (batch, every):
        return 1
    return len(shape) - 1 if batch == 1 and shape[-1:] == (every,) else None
