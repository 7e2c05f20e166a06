"""Tiny models of every kind, exported once and assembled for an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.export import Request, export_bundle
from edgeprune.export.assemble import Request as AssembleRequest
from edgeprune.export.assemble import assemble
from edgeprune.runtime.generate import open_model
from tests.export.assemble.asking import Made
from tests.export.assemble.kinds import DECODERS, KINDS, write


@pytest.fixture(scope="session")
def exported_kind(
    model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Path]]:
    """(kind) -> its model in torch, and a folder with the checkpoint as model/ and its export as bundle/"""
    found: dict[str, tuple[Any, Path]] = {}

    def make(name: str) -> tuple[Any, Path]:
        if name not in found:
            kind, folder = {**KINDS, **DECODERS}[name], tmp_path_factory.mktemp("kind")
            whole = write(kind, model_folder, folder / "model")
            model, bundle = str(folder / "model"), folder / "bundle"
            request = Request(kind.method, "cpu", model=model, keep=kind.keep, output=bundle, baselines=False)
            export_bundle(replace(request, **kind.request))
            found[name] = whole, folder
        return found[name]

    return make


@pytest.fixture(scope="session")
def made(exported_kind: Callable[[str], tuple[Any, Path]]) -> Callable[..., Made]:
    """(kind, engine="onnxruntime") -> its model in torch, and assembled"""
    pytest.importorskip("onnxruntime_genai")
    found: dict[tuple[str, str], Made] = {}

    def make(name: str, engine: str = "onnxruntime") -> Made:
        if (name, engine) not in found:
            whole, folder = exported_kind(name)
            output = folder / engine
            given = AssembleRequest(folder / "bundle", str(folder / "model"), engine=engine, output=output)
            done = assemble(given)
            assert done.report is not None
            assert done.report.equal == len(done.report.said) == 6
            found[name, engine] = Made(whole, open_model(output, "cpu", 1))
        return found[name, engine]

    return make
