"""How many tokens a budget comes to: shares, whole blocks, and what is warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.export.budget import tokens as tokens_of

MakeFolder = Callable[..., Path]


class TestDroppingInside:
    """A detector, 48 patches, and a scorer in front of it."""

    def request(self, folder: Path, output: Path, scorer: Path, **given: Any) -> Request:
        return Request("bavit", "cpu", model=str(folder), scorer=scorer, output=output, **{"baselines": False, **given})

    @pytest.mark.slow
    def test_a_share_is_of_all_patches_and_the_manifest_says_how_many(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        scorer = make_scorer("coarse")
        given: dict[str, Any] = {"keep": 0.6, "uint8": True, "options": {"spread": "true"}}
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", scorer, **given))
        assert done.manifest.keep == 28  # 28.8 of 48, and blocks of four
        assert done.manifest.kind == "detections"
        assert done.manifest.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert done.manifest.outputs["logits"].shape == (1, 5, 4)
        assert done.manifest.outputs["pred_boxes"].shape == (1, 5, 4)
        assert (done.manifest.options["scorer"], done.manifest.options["spread"]) == ("coarse", True)
        assert any("evenly over the grid" in one for one in done.manifest.deviations)
        assert done.warnings == ()

    @pytest.mark.slow
    def test_a_budget_that_saves_nothing_is_warned_of(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", make_scorer(), keep=47, baselines=True))
        (warning,) = done.warnings
        bound = done.manifest.cost["unpruned_formula"] / done.manifest.cost["formula"]
        assert bound < 1
        assert f"at most {bound:.2f} times as fast as without pruning; keep less than 47 of 48" in warning
        files = sorted(path.name for path in done.folder.glob("*.onnx"))
        assert files == ["baseline.matmul.onnx", "baseline.unpruned.onnx", "encoder.onnx"]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "behind", "warned"), [({"layer": "1"}, 1, 1), pytest.param({}, 3, 0, marks=pytest.mark.slow)]
    )
    def test_an_early_layer_of_received_is_warned_of(
        self, yolos_folder: Path, tmp_path: Path, options: dict[str, str], behind: int, warned: int
    ) -> None:
        given: dict[str, Any] = {"keep": 12, "options": options, "baselines": False}
        done = export_bundle(Request("received", "cpu", model=str(yolos_folder), output=tmp_path / "out", **given))
        assert done.manifest.steps == ((behind, 12),)
        assert len([one for one in done.warnings if one.startswith("received reads layer 1 of 4")]) == warned

    @pytest.mark.slow
    def test_a_budget_below_the_foreground_of_one_image_in_ten_is_warned_of(
        self, yolos_folder: Path, make_scorer: MakeFolder, tmp_path: Path
    ) -> None:
        scorer = make_scorer("trunk", foreground={"mean": 0.2, "p90": 0.5})
        done = export_bundle(self.request(yolos_folder, tmp_path / "out", scorer, keep=12, precision="float16"))
        (warning,) = done.warnings
        assert warning.startswith("keep 12 is 25% of the patches, but one in ten of the images")
        assert "more than 50% foreground; keep 24, or fine-tune" in warning


@pytest.mark.parametrize(
    ("keep", "block", "tokens"),
    [
        (0.6, 1, 29),
        (0.6, 4, 28),
        (1.0, 4, 48),
        (0.5, 1, 24),
        (0.001, 1, 1),
        (0.001, 4, 4),
        (20, 4, 20),
        (None, 1, None),
    ],
)
def test_a_share_of_48_patches_is_rounded_to_whole_blocks(
    keep: int | float | None, block: int, tokens: int | None
) -> None:
    assert tokens_of(keep, 48, block) == tokens


@pytest.mark.parametrize(
    "keep", [1.5, float("nan"), *(pytest.param(one, marks=pytest.mark.slow) for one in (0.0, -0.5, 64.0, float("inf")))]
)
def test_a_share_beyond_the_whole_is_refused_before_anything_is_written(keep: float, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--keep as a share must be in \(0, 1\], got .*; give a number of tokens"):
        export_bundle(Request("random", "cpu", keep=keep, output=tmp_path / "out"))
    assert not list(tmp_path.iterdir())
