"""A plugin of pytest: every call of `compare` is written down with its verdict, for the rules in C++ to judge it, too.

pytest -p tests.cpp.recording tests/runtime/parity/test_faults.py         into the folder $EDGEPRUNE_RECORD
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.runtime import parity
from tests.cpp.judging import Arrays, Case

AT_ONCE = 200
"""cases of one file: some ten megabytes of arrays"""
_cases: list[tuple[str, Case, dict[str, Any]]] = []
_compare = parity.compare


def _recorded(
    reference: Arrays,
    got: Arrays,
    dtype: str,
    rule: Mapping[str, Any],
    quantities: Arrays,
    whole: bool = False,
    bounds: Mapping[str, float] | None = None,
) -> parity.Verdict:
    verdict = _compare(reference, got, dtype, rule, quantities, whole, bounds)
    label = os.environ.get("PYTEST_CURRENT_TEST", "")
    _cases.append((label, Case(reference, got, dtype, rule, quantities, whole, bounds), verdict.to_json()))
    if len(_cases) >= AT_ONCE:
        _write()
    return verdict


def _write() -> None:
    folder = Path(os.environ["EDGEPRUNE_RECORD"])
    (folder / f"{len([*folder.iterdir()]):04}.pickle").write_bytes(pickle.dumps(_cases))
    _cases.clear()


def pytest_configure() -> None:
    parity.compare = _recorded  # before a test imports it


def pytest_sessionfinish() -> None:
    if _cases:
        _write()
