from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from edgeprune import bundle as bundles
from edgeprune.bundle import MANIFEST, Manifest, describe_files
from edgeprune.cli.tables.parity import parity_table
from edgeprune.errors import BundleError, MissingPackageError, RequestError
from edgeprune.runtime.backends import ort as session
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.runtime.parity.verify import BackendReport, verify

MakeBundle = Callable[..., Path]
Tensors = dict[str, Any]


def change_reference(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite reference.safetensors, and the manifest so that the checksums agree."""
    tensors = load_file(folder / REFERENCE)
    change(tensors)
    save_file(tensors, folder / REFERENCE)
    seal(folder)


def seal(folder: Path) -> None:
    fields = vars(Manifest.from_json((folder / MANIFEST).read_text())) | {"files": describe_files(folder)}
    (folder / MANIFEST).write_text(Manifest(**fields).to_json())


def render(reports: list[BackendReport]) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(parity_table(reports))
    return text.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_a_right_graph_passes_every_probe(make_bundle: MakeBundle, dtype: str, batch: int | str) -> None:
    (report,) = verify(make_bundle(dtype=dtype, batch=batch), device="cpu")
    assert report.passed, report.worst.reasons
    assert list(report.probes) == ["scene00", "scene01"]
    assert report.worst.images == report.worst.equal_sets == 2 * (batch if isinstance(batch, int) else 1)


def test_a_graph_that_names_the_wrong_patches_fails(make_bundle: MakeBundle) -> None:
    (report,) = verify(make_bundle(shift=-1), device="cpu")
    assert not report.passed
    assert report.worst.reasons


def test_one_bad_probe_is_enough_and_is_named(make_bundle: MakeBundle) -> None:
    folder = make_bundle(probes=3)

    def spoil(tensors: Tensors) -> None:
        tensors["scene01/tokens"] = tensors["scene01/tokens"] * np.float32(1.01)

    change_reference(folder, spoil)
    (report,) = verify(folder, device="cpu")
    assert [name for name, probe in report.probes.items() if not probe.passed] == ["scene01"]
    assert not report.passed


def test_every_available_device_is_verified(make_bundle: MakeBundle) -> None:
    reports = verify(make_bundle())
    assert [report.device for report in reports] == session.available_devices()
    assert reports[0].passed


def test_a_device_that_cannot_be_used_is_reported_as_not_run(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX Runtime built for CUDA on a machine without a GPU."""
    monkeypatch.setattr("edgeprune.runtime.parity.verify.available_devices", lambda: ["cpu", "cuda"])
    cpu, cuda = verify(make_bundle())
    assert (cpu.passed, cpu.not_run) == (True, "")
    assert "edgeprune[cuda]" in cuda.not_run
    assert cuda.to_json()["passed"] is None
    assert "not run" in render([cpu, cuda])


@pytest.mark.skipif("cuda" in session.available_devices(), reason="this ONNX Runtime has CUDA")
def test_a_named_device_that_cannot_be_used_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(RequestError, match=r"edgeprune\[cuda\]"):
        verify(make_bundle(), device="cuda")


def test_progress_counts_up_to_the_end(make_bundle: MakeBundle) -> None:
    calls: list[tuple[int, int, str]] = []
    verify(make_bundle(probes=3), device="cpu", progress=lambda *call: calls.append(call))
    assert calls == [(0, 3, "cpu scene00"), (1, 3, "cpu scene01"), (2, 3, "cpu scene02"), (3, 3, "done")]


def test_reports_are_json(make_bundle: MakeBundle) -> None:
    (report,) = verify(make_bundle(shift=-1), device="cpu")
    given = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (given["device"], given["dtype"], given["passed"]) == ("cpu", "float32", False)
    assert set(given["probes"]) == {"scene00", "scene01"}
    assert given["worst"]["reasons"]


def test_the_table_shows_each_probe_and_the_worst(make_bundle: MakeBundle) -> None:
    good, bad = render(verify(make_bundle(), device="cpu")), render(verify(make_bundle(shift=-1), device="cpu"))
    for name in ("cpu float32", "scene00", "scene01", "decided", "10/10", "5/5", "pass"):
        assert name in good
    assert "FAIL" in bad
    assert "FAIL" not in good
    assert "…" not in good + bad  # fits a terminal of 80 columns


QUANTISED = {"bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}}


def test_a_quantised_graph_is_judged_by_the_bounds_of_its_manifest(make_bundle: MakeBundle) -> None:
    folder = make_bundle(precision="int8", quantised=QUANTISED)
    change_reference(folder, lambda tensors: tensors["scene00/tokens"].__imul__(1.04))  # 3.8 % off: no float would be
    (report,) = verify(folder, device="cpu")
    assert (report.dtype, report.passed, report.proven) == ("int8", True, True)
    assert report.worst.token_median == pytest.approx(0.04 / 1.04, rel=1e-3)
    assert report.to_json()["bounds"] == QUANTISED["bounds"]
    change_reference(folder, lambda tensors: tensors["scene00/tokens"].__imul__(1.04))
    assert verify(folder, device="cpu")[0].worst.reasons == (
        "tokens differ by 0.075 of their length in the median, 0.05 is allowed",
    )
    (wrong,) = verify(make_bundle(shift=-1, precision="int8", quantised=QUANTISED), device="cpu")
    assert not wrong.passed


def test_where_a_choice_by_chance_is_as_good_a_quantised_graph_is_not_proven(make_bundle: MakeBundle) -> None:
    generous = {"bounds": {**QUANTISED["bounds"], "regret": 9.0}}
    (report,) = verify(make_bundle(precision="int8", quantised=generous), device="cpu")
    assert (report.passed, report.proven) == (True, False)


def test_the_table_of_a_quantised_graph_shows_what_was_lost(make_bundle: MakeBundle) -> None:
    text = render(verify(make_bundle(precision="int8", quantised=QUANTISED), device="cpu"))
    for name in ("cpu int8", "lost by", "chance", "median", "0.00%", "pass"):
        assert name in text
    assert "wrong" not in text
    assert "…" not in text


@pytest.mark.parametrize("missing", ["scene00/tokens", "scene01/pixel_values"])
def test_a_reference_that_lacks_a_tensor_is_refused(make_bundle: MakeBundle, missing: str) -> None:
    folder = make_bundle()
    change_reference(folder, lambda tensors: tensors.pop(missing))
    with pytest.raises(BundleError, match=f"lacks {missing}"):
        verify(folder)


def test_a_reference_without_probes_is_refused(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    change_reference(folder, Tensors.clear)
    with pytest.raises(BundleError, match="lacks any probe"):
        verify(folder)


def test_a_probe_that_does_not_fit_the_graph_is_refused(make_bundle: MakeBundle) -> None:
    folder = make_bundle()

    def transpose(tensors: Tensors) -> None:
        tensors["scene01/pixel_values"] = tensors["scene01/pixel_values"].swapaxes(2, 3).copy()

    change_reference(folder, transpose)
    with pytest.raises(BundleError, match="probe scene01 does not fit"):
        verify(folder)


def test_a_reference_that_is_no_safetensors_file_is_refused(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / REFERENCE).write_bytes(b"pickle?")
    seal(folder)
    with pytest.raises(BundleError, match="cannot be read"):
        verify(folder)


def test_a_bundle_without_a_reference_is_refused(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / REFERENCE).unlink()
    with pytest.raises(BundleError, match=REFERENCE):
        verify(folder)
    seal(folder)
    assert REFERENCE not in bundles.load(folder).manifest.files
    with pytest.raises(BundleError, match=f"no file {REFERENCE}"):
        verify(folder)


def test_without_safetensors_the_package_is_named(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingPackageError, match="safetensors"):
        verify(make_bundle(), device="cpu")
