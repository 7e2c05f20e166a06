"""A detector with random tensors everywhere, and seeded scorers for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.encoders import Encoder
from edgeprune.pruners import Method, Selection
from edgeprune.pruners._scorer import Scorer, ScorerConfig
from edgeprune.runtime.parity import Verdict, compare
from edgeprune.runtime.parity.stored import replayed
from tests.device import handed


@pytest.fixture(scope="session")
def yolos_folder(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers with positions between them, 6x8 patches of 8 pixels, 5 detection tokens."""
    from transformers import YolosForObjectDetection

    processor = {"image_processor_type": "YolosImageProcessor", "size": {"height": 48, "width": 64}}
    shape: dict[str, Any] = {"image_size": [48, 64], "num_detection_tokens": 5, "num_labels": 3}
    folder = model_folder(tmp_path_factory.mktemp("yolos"), "YolosForObjectDetection", processor, **shape)
    model: Any = YolosForObjectDetection.from_pretrained(folder)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)  # so that every patch and every position counts
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def detector(yolos_folder: Path) -> Encoder:
    return encoders.load(open_checkpoint(str(yolos_folder)))


@pytest.fixture(scope="session")
def make_scorer() -> Callable[..., Scorer]:
    """(kind="front", **changes of the config) -> a scorer whose tensors are all random."""

    def make(kind: str = "front", **changes: Any) -> Scorer:
        torch.manual_seed(2)
        own: dict[str, Any] = {
            "front": {"patch_size": 8, "grid": (6, 8)},
            "coarse": {"patch_size": 16, "grid": (3, 4)},
            "trunk": {"patch_size": 8, "grid": (6, 8), "width": 32},
        }[kind]
        sizes = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        scorer = Scorer(ScorerConfig(**{"kind": kind, **sizes, **own, **changes})).eval().requires_grad_(False)
        for parameter in scorer.parameters():
            nn.init.normal_(parameter, std=0.4)
        return scorer

    return make


Judge = Callable[..., Verdict]


@pytest.fixture(scope="session")
def judged() -> Judge:
    """(method, rows [B, N, D], official selection, another one) -> how parity judges the other in float32, or as in
    float16."""

    def judge(method: Method, rows: Any, official: Selection, other: Selection, dtype: str = "float32") -> Verdict:
        patches = official.scores.shape[1]
        quantities = replayed({name: value.float().numpy() for name, value in official.quantities.items()})
        wanted, got = (handed(method, rows, one) for one in (official, other))
        got["tokens"] = got["tokens"].astype(dtype)
        return compare(wanted, got, dtype, method.rule(patches), quantities)

    return judge
