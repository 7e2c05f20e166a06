"""The rules of parity in C++, held against those in Python: the same arrays go to both."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgeprune.runtime.parity import compare

Arrays = Mapping[str, NDArray[Any]]

CLOSE = 1e-9
"""relative, of numbers that go through a BLAS: it sums in an order of its own"""


@dataclass(frozen=True)
class Case:
    """What `compare` is given."""

    reference: Arrays
    got: Arrays
    dtype: str
    rule: Mapping[str, Any]
    quantities: Arrays
    whole: bool = False
    bounds: Mapping[str, float] | None = None

    def verdict(self) -> dict[str, Any]:
        """Python's."""
        given = (self.reference, self.got, self.dtype, self.rule, self.quantities, self.whole, self.bounds)
        return compare(*given).to_json()


def judged(build: Path, folder: Path, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The verdicts of C++; `{"refused": line}` where it has none. folder: for the files between them."""
    tensors: dict[str, NDArray[Any]] = {}
    names: dict[int, str] = {}
    kept = []  # so that no array takes the place of another in memory

    def named(arrays: Arrays) -> list[tuple[str, str]]:
        for value in arrays.values():
            if id(value) not in names:
                names[id(value)] = str(len(names))
                kept.append(value)
                tensors[names[id(value)]] = np.ascontiguousarray(value).reshape(value.shape)
        return [(name, names[id(value)]) for name, value in arrays.items()]

    asked = [
        {
            "dtype": one.dtype,
            "rule": dict(one.rule),
            "whole": one.whole,
            "quantised": None if one.bounds is None else {"bounds": dict(one.bounds)},
            **{side: named(getattr(one, side)) for side in ("reference", "got", "quantities")},
        }
        for one in cases
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(asked))
    save_file(tensors, folder / "tensors.safetensors")
    command = [build / "tests" / "judge", folder / "cases.json", folder / "tensors.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def differences(mine: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that are not the same: counts and words exactly, numbers but for the last bits."""
    return {name: (mine.get(name), value) for name, value in wanted.items() if not _same(mine.get(name), value)}


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, float) and isinstance(one, (int, float)):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=0)
    return bool(one == other)
