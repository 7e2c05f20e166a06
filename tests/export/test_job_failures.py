"""What an export refuses, what its parity catches, and that a failure leaves nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune import encoders, trace
from edgeprune.encoders import Encoder
from edgeprune.errors import BundleError, ModelError, ParityError, RequestError
from edgeprune.export import Exported, Request, export_bundle
from edgeprune.pruners import _select as selection
from edgeprune.pruners import fastervlm
from edgeprune.taps import Taps
from tests.covering import always

MakeFolder = Callable[..., Path]


class Mistakes:
    """What a traced path can get wrong; each breaks it in one way."""

    @staticmethod
    def wrong_layer(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention
        patch.setattr(fastervlm.Method, "layers", lambda method, depth: (depth - 2,))
        patch.setattr(Taps, "cls_attention", lambda taps: right(taps, taps.depth - 2))

    @staticmethod
    def row_of_a_patch_instead_of_cls(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention

        def second_row(taps: Taps) -> torch.Tensor:
            seen = taps.attention[taps.depth - 1]
            return right(replace(taps, attention={taps.depth - 1: replace(seen, query=seen.query[:, :, 1:])}))

        patch.setattr(Taps, "cls_attention", second_row)

    @staticmethod
    def dropped_cls_offset(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(trace, "take", lambda x, rows: selection.take(x, (rows - 1).clamp(min=0)))

    @staticmethod
    def unsorted_indices(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fastervlm, "ranked_top", lambda scores, keep: (scores.topk(keep).indices,) * 2)

    @staticmethod
    def two_tokens_swapped(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(trace, "take", lambda x, rows: selection.take(x, rows)[:, [1, 0, *range(2, rows.shape[1])]])

    @staticmethod
    def scores_in_float16(patch: pytest.MonkeyPatch) -> None:
        right = Taps.cls_attention
        patch.setattr(Taps, "cls_attention", lambda taps: right(taps).half().float())


@pytest.mark.parametrize(
    "mistake",
    always([name for name in vars(Mistakes) if not name.startswith("_")], "scores_in_float16"),
)
def test_parity_catches_a_mistake_of_the_traced_path_and_no_bundle_is_left(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(Mistakes, mistake)(monkeypatch)
    with pytest.raises(ParityError, match="differs from the reference"):
        export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out", baselines=False))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_parity_accepts_an_exact_tie_on_a_flat_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without positions, all patches of a flat image are equal; trace and reference prefer different ones."""

    def last_first(scores: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        return selection.ranked_top(scores + 1e-9 * torch.arange(scores.shape[-1]), keep)

    monkeypatch.setattr(encoders, "load", without_positions(encoders.load))
    monkeypatch.setattr(fastervlm, "ranked_top", last_first)
    done = export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out", baselines=False))
    flat = done.reports[0].probes["flat"]
    assert flat.passed
    assert flat.equal_sets == 0
    assert flat.decided == flat.wrong == 0


def without_positions(load: Callable[..., Encoder]) -> Callable[..., Encoder]:
    def loaded(*given: Any, **options: Any) -> Encoder:
        encoder = load(*given, **options)
        encoder.tower.module.embeddings.position_embedding.weight.data[1:] = 0  # type: ignore[union-attr, operator]
        return encoder

    return loaded


class TestAFailureLeavesNothing:
    def test_when_a_weight_is_not_a_number(self, llava_folder: MakeFolder, tmp_path: Path) -> None:
        model = llava_folder(tmp_path / "llava")
        tensors = load_file(model / "model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.fc1.weight" in name and "vision" in name)
        tensors[name][0, 0] = float("nan")
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.fc1\.weight has values that are not finite"):
            export_bundle(Request("fastervlm", "cpu", keep=8, model=str(model), output=tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_when_a_weight_does_not_fit_float16(self, llava_folder: MakeFolder, tmp_path: Path) -> None:
        model = llava_folder(tmp_path / "llava")
        tensors = load_file(model / "model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.fc1.weight" in name and "vision" in name)
        tensors[name][0, 0] = 7e4
        tensors[name.replace("fc1", "fc2")][:, 0] = 0  # nothing reads it, so that float32 stays as exact as it is
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        request = Request("fastervlm", "cpu", keep=8, model=str(model), output=tmp_path / "out", precision="float16")
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.fc1 must stay within float16.*export with --prec"):
            export_bundle(request)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["llava"]

    def test_when_the_disk_is_too_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1 << 20))
        with pytest.raises(BundleError, match=r"the bundle needs up to .* MiB, its place has 1 MiB free"):
            export_bundle(Request("fastervlm", "cpu", keep=16, output=tmp_path / "out"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_and_an_existing_bundle_stays_as_it_was(
        self, exported_once: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path(shutil.copytree(exported_once("fastervlm", "cpu", keep=64).folder, tmp_path / "out"))
        before = {path: path.read_bytes() for path in folder.iterdir()}
        monkeypatch.setattr(fastervlm.Method, "select", lambda self, taps: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_bundle(Request("fastervlm", "cpu", keep=16, output=folder, force=True))
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": "bfloat16"}, "--precision must be one of float32, float16, int8, "),
        ({"tiles": 0}, "--tiles must be at least 1, got 0"),
        ({"tiles": 2, "dynamic_batch": True}, "--tiles 2 fixes the batch and --dynamic-batch frees it"),
        ({"target": "jetson-orion"}, "no target 'jetson-orion'.* Did you mean 'jetson-orin'"),
        ({"keep": None}, "--keep must say how many"),
        ({"layer": 7}, "layer must be in"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_written(
    change: dict[str, object], says: str, tmp_path: Path
) -> None:
    given = {"method": "fastervlm", "target": "cpu", "keep": 16, "output": tmp_path / "out", **change}
    with pytest.raises(RequestError, match=says):
        export_bundle(Request(**given))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
