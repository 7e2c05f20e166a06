"""The reference runs on each image once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune import pruners
from edgeprune.encoders import Encoder
from edgeprune.export.processor import read_processor
from edgeprune.export.record import TELLING, Reference, candidates
from edgeprune.fit import build_method
from edgeprune.runtime.parity.stored import REFERENCE
from tests.conftest import CLIP_PROCESSOR

SIZE = (48, 48)


def reference_of(encoder: Encoder, batch: int = 1) -> Reference:
    method = build_method(pruners.get("fastervlm"), "fastervlm", encoder, 6)
    preprocessing = read_processor({**CLIP_PROCESSOR, "crop_size": 48, "size": 48}, SIZE)
    return Reference(encoder, method, preprocessing, batch, method.rule(encoder.patches))


@pytest.mark.parametrize(("batch", "again"), [(1, 0), (2, TELLING)])
def test_the_scenes_that_became_probes_are_run_once_where_each_stands_alone(
    tiny_llava: Callable[..., Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, again: int
) -> None:
    reference, runs = reference_of(tiny_llava(), batch), list[int]()
    run = reference._run

    def counted(pixel_values: NDArray[np.float32], **given: Any) -> Any:
        runs.append(len(pixel_values))
        return run(pixel_values, **given)

    monkeypatch.setattr(reference, "_run", counted)
    images = reference.telling(SIZE)
    assert runs == [1] * candidates(10**6)
    reference.write(tmp_path, images, uint8=False, check=False)
    assert runs[candidates(10**6) :] == [batch] * again

    (other := tmp_path / "other").mkdir()
    reference_of(tiny_llava(), batch).write(other, images, uint8=False, check=False)
    assert (other / REFERENCE).read_bytes() == (tmp_path / REFERENCE).read_bytes()
