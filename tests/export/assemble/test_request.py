"""What can be refused of an assembled model before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import BundleError
from edgeprune.export.assemble.request import Request, check

MakeBundle = Callable[..., Path]
REFUSED: dict[str, dict[str, Any]] = {
    "must have a fixed batch, it was exported with --dynamic-batch": {"batch": "batch"},
    "must take one image at a time, or tiles of one; it was exported with --tiles 2": {"batch": 2},
    "must give tokens for a language model, it gives logits": {"classes": True},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_bundle_whose_images_no_prompt_has_is_refused(make_bundle: MakeBundle, tmp_path: Path, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        check(Request(make_bundle(**REFUSED[why]), output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()
