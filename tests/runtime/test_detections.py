"""Boxes and labels of a detector's outputs, beside transformers' own post-processing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeprune.runtime.detections import decode

Found = list[dict[str, Any]]


def post_processed(logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]], threshold: float) -> Found:
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    found: Found = YolosImageProcessorPil().post_process_object_detection(outputs, threshold, sizes)
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.5, 1.0])
def test_the_convention_is_that_of_post_process_object_detection(threshold: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits, boxes = 4 * torch.randn(3, 50, 6, generator=random), torch.rand(3, 50, 4, generator=random)
    sizes = [(480, 640), (1333, 800), (7, 5)]
    wanted = post_processed(logits, boxes, sizes, threshold)
    got = decode(logits.numpy(), boxes.numpy(), sizes, threshold)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one.labels, other["labels"].numpy())
        np.testing.assert_array_equal(one.boxes, other["boxes"].numpy())
        np.testing.assert_allclose(one.scores, other["scores"].numpy(), rtol=1e-6)


def test_no_object_is_never_a_label() -> None:
    (found,) = decode(np.array([[[0.0, 1, 9]]], np.float32), np.full((1, 1, 4), 0.5, np.float32), [(1, 1)], 0.0)
    assert found.labels.tolist() == [1]
    assert found.scores[0] < 0.01


def test_logits_of_float16_are_computed_in_float32() -> None:
    logits, boxes = np.array([[[12.0, 3, -60000]]], np.float16), np.full((1, 1, 4), 0.3, np.float16)
    (found,) = decode(logits, boxes, [(1000, 1000)])
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-9)), rel=1e-6)
    assert found.boxes.dtype == np.float32
    np.testing.assert_allclose(found.boxes[0], np.array([150, 150, 450, 450]), atol=0.2)
