"""The embedded model, assembled for transformers.js."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.export import Exported


@pytest.fixture(scope="session")
def assembled(exported_once: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(keep, precision of the decoder) -> the folder of the embedded model; not to be changed."""
    from edgeprune.export.assemble import Request, assemble

    made: dict[tuple[int, str], Path] = {}

    def find(keep: int = 64, precision: str = "float32") -> Path:
        if (keep, precision) not in made:
            done = exported_once("fastervlm", "web", keep=keep, baselines=False, runtime=False)
            output = tmp_path_factory.mktemp("assembled") / "model"
            made[keep, precision] = assemble(
                Request(done.folder, engine="transformersjs", decoder_precision=precision, output=output)
            ).folder
        return made[keep, precision]

    return find
