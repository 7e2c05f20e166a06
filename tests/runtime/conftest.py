"""A machine with a GPU, for what runs plans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.cuda_api import Cuda
from edgeprune.runtime.backends.plan import Gpu
from tests.fake_gpu import Device, FakeCuda

MakeBundle = Callable[..., Path]
Expect = Callable[[NDArray[Any]], Any]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(cuda: FakeCuda, expected: Expect, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(plans, "find_gpu", lambda: Gpu(87, "Orin", 12))
    monkeypatch.setattr("edgeprune.runtime.backends.plan_session.load_cuda", lambda driver: Cuda(cuda))
    monkeypatch.setattr("edgeprune.runtime.ledger.plan_bench.find_trtexec", lambda target: None)
    return Device(cuda, expected, make_bundle, monkeypatch)
