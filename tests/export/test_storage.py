"""Weights on disk: once for all graphs that have them, also where the first has others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export.graph import to_onnx
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.write import write_quantised
from edgeprune.export.storage import save_graphs
from edgeprune.runtime.backends.ort import open_session


class Module(nn.Module):
    def __init__(self, twice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.twice = nn.Linear(32, 32), twice

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.wide(x)
        return self.wide(once) if self.twice else once


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, ir.Model]]:
    """A quantised graph, and two of floats with one weight of 4 KiB."""
    monkeypatch.setattr("edgeprune.export.storage.INLINE_NBYTES", 4000)
    monkeypatch.setattr("edgeprune.export.storage.SMALL_NBYTES", 1000)

    def make() -> dict[str, ir.Model]:
        models = {
            name: to_onnx(Module(name == "twice"), torch.zeros(1, 4, 32), ["y"], opset=18, ir_version=10)
            for name in ("encoder", "once", "twice")
        }
        write_quantised(models["encoder"], {"wide": (-1.0, 1.0)}, Scheme("int8", "u8", "float32"))
        return models

    return make


def test_float_graphs_beside_a_quantised_one_share_a_file_of_their_own(
    graphs: Callable[[], dict[str, ir.Model]], tmp_path: Path
) -> None:
    save_graphs(tmp_path, graphs())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "encoder.onnx", "once.onnx", "once.onnx.data", "twice.onnx",
    ]  # fmt: skip
    for name in ("once", "twice"):
        (weight,) = [
            value.const_value
            for value in ir.load(tmp_path / f"{name}.onnx").graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        ]
        assert weight.location == "once.onnx.data"
        onnx.checker.check_model(str(tmp_path / f"{name}.onnx"), full_check=True)


def test_graphs_compute_the_same_wherever_their_weights_lie(
    graphs: Callable[[], dict[str, ir.Model]], tmp_path: Path
) -> None:
    save_graphs(tmp_path, graphs())
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    for name in ("once", "twice"):
        (got,) = open_session(tmp_path / f"{name}.onnx").run({"pixel_values": x.numpy()}).values()
        with torch.inference_mode():
            wanted = Module(name == "twice")(x).numpy()
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
