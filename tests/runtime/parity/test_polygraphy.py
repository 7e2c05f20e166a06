"""Parity through Polygraphy: the command line of a bundle's README.md for real, and `verify --polygraphy`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgeprune import bundle as bundles
from edgeprune import targets
from edgeprune.bundle import MANIFEST, Manifest, Plan, describe_files
from edgeprune.errors import BundleError, EdgepruneError, MissingPackageError, RequestError
from edgeprune.export import recipe
from edgeprune.export.page import readme
from edgeprune.runtime import polygraphy_compare
from edgeprune.runtime.parity import polygraphy_verify
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.runtime.parity.verify import verify as verify_here
from edgeprune.runtime.polygraphy_compare import COMPARE, PROBES, Probes, probes_json

pytest.importorskip("polygraphy")

MakeBundle = Callable[..., Path]
Tensors = dict[str, NDArray[Any]]
COMMAND = (
    *("polygraphy", "run", "encoder.onnx", "--onnxrt", "--data-loader-script", COMPARE),
    *("--load-outputs", PROBES, "--compare-func-script", COMPARE),
)
PLAN = "encoder.rtx-desktop.plan"
WEAK = "jetson-orin-jp60"
"""a target whose TensorRT takes float16 where it likes"""


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Callable[..., Path]:
    """make_bundle, with the files for Polygraphy, as an export writes them."""

    def make(**options: Any) -> Path:
        folder = make_bundle(**options)
        for name, text in recipe.polygraphy(targets.load("cpu"), folder / REFERENCE).items():
            (folder / name).write_text(text)
        seal(folder)
        return folder

    return make


def seal(folder: Path) -> None:
    fields = vars(Manifest.from_json((folder / MANIFEST).read_text())) | {"files": describe_files(folder)}
    (folder / MANIFEST).write_text(Manifest(**fields).to_json())


def change_reference(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite reference.safetensors, and the manifest so that the checksums agree."""
    tensors = load_file(folder / REFERENCE)
    change(tensors)
    save_file(tensors, folder / REFERENCE)
    seal(folder)


def polygraphy(folder: Path, *more: str) -> tuple[int, str]:
    """The exit code of the command, run in the bundle, and all that it said."""
    code = "import sys; from polygraphy.tools import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *COMMAND[1:], *more],
        cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


# The command line.


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "batch": 2}], ids=str)
def test_a_right_graph_passes_the_command_of_the_readme(
    bundle: MakeBundle, tmp_path: Path, options: dict[str, Any]
) -> None:
    code, said = polygraphy(bundle(**options), "--save-accuracy-results", str(tmp_path / "results.json"))
    assert code == 0, said
    assert "Passed: 2/2 iterations" in said
    assert "scene01 | " in said
    assert '"scene01": true' in (tmp_path / "results.json").read_text()


def raise_score(tensors: Tensors) -> None:
    tensors["scene01/scores"][0, 3] += 0.5


def lengthen_token(tensors: Tensors) -> None:
    tensors["scene01/tokens"][0, 2] *= 1.01


def choose_another(tensors: Tensors) -> None:
    indices = tensors["scene01/indices"][0]
    at = next(at for at, one in enumerate(indices) if one + 1 not in indices and one + 1 < 24)
    indices[at] += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (raise_score, "scores differ by"),
        (lengthen_token, "tokens differ by up to 0.0099"),
        (choose_another, "the kept patches are not the fixed ones"),
    ],
)
def test_one_changed_number_of_the_reference_fails_and_is_named(
    bundle: MakeBundle, change: Callable[[Tensors], object], reason: str
) -> None:
    folder = bundle()
    change_reference(folder, change)
    code, said = polygraphy(folder)
    assert code == 1, said
    assert f"[E]     scene01 | {reason}" in said
    assert "Passed: 1/2 iterations" in said


def test_a_changed_file_ends_the_run_in_one_line(bundle: MakeBundle) -> None:
    folder = bundle()
    (folder / REFERENCE).write_bytes((folder / REFERENCE).read_bytes()[:-1] + b"?")
    code, said = polygraphy(folder)
    assert code == 1
    assert f"[!] {folder}: {REFERENCE} has changed since the export" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_runners_are_compared_with_the_reference_one_at_a_time(bundle: MakeBundle) -> None:
    code, said = polygraphy(bundle(), "--onnxrt")
    assert code == 1
    assert f"give one runner, and --load-outputs {PROBES}" in said


# `edgeprune verify --polygraphy`.


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"dtype": "uint8"}, {"batch": 2}], ids=str)
def test_polygraphys_runner_says_what_our_own_session_says(bundle: MakeBundle, options: dict[str, Any]) -> None:
    folder = bundle(**options)
    (ours,), (theirs,) = verify_here(folder, "cpu", 1), polygraphy_verify.verify(folder, "cpu", 1)
    assert theirs.device == "ort cpu"
    assert theirs.passed
    assert theirs.probes == ours.probes


@pytest.mark.parametrize("options", [{}, {"batch": "images", "dtype": "uint8"}], ids=str)
def test_what_is_asked_is_judged_as_one_graph_and_as_its_halves(bundle: MakeBundle, options: dict[str, Any]) -> None:
    folder = bundle(prior=True, split=True, **options)
    ours, theirs = verify_here(folder, "cpu", 1), polygraphy_verify.verify(folder, "cpu", 1)
    assert [(one.device, one.source) for one in theirs] == [
        ("ort cpu", "encoder.onnx"),
        ("ort cpu halves", "encode.onnx and select.onnx"),
    ]
    assert [one.probes for one in theirs] == [one.probes for one in ours]
    assert all(one.passed for one in theirs)


@pytest.mark.slow
def test_the_command_of_the_readme_gives_the_graph_all_that_it_takes(bundle: MakeBundle) -> None:
    code, said = polygraphy(bundle(prior=True))
    assert code == 0, said
    assert "Passed: 2/2 iterations" in said
    assert "prior [dtype=float32, shape=(1, 24)]" in said


def test_halves_that_are_wrong_fail_there_too(bundle: MakeBundle) -> None:
    reports = polygraphy_verify.verify(bundle(prior=True, split=True, shift=-1), "cpu")
    assert [one.passed for one in reports] == [False, False]


def test_a_wrong_graph_fails_there_too(bundle: MakeBundle, capfd: pytest.CaptureFixture[str]) -> None:
    (report,) = polygraphy_verify.verify(bundle(shift=-1), "cpu")
    assert not report.passed
    assert report.probes.keys() == {"scene00", "scene01"}
    assert capfd.readouterr() == ("", "")  # what Polygraphy logs would spoil the JSON of the verb


def test_progress_counts_the_probes(bundle: MakeBundle) -> None:
    calls: list[tuple[int, int, str]] = []
    polygraphy_verify.verify(bundle(), "cpu", progress=lambda *call: calls.append(call))
    assert calls == [(0, 2, "ort cpu scene00"), (1, 2, "ort cpu scene01"), (1, 1, "done")]


def test_the_verb_prints_the_same_table(bundle: MakeBundle) -> None:
    from click.testing import CliRunner

    from edgeprune.cli import cli

    folder = bundle()
    done = CliRunner().invoke(cli, ["verify", str(folder), "--polygraphy", "--device", "cpu"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert "10 of 10" in done.output or "100% decided" in done.output
    done = CliRunner().invoke(cli, ["verify", str(folder), "--polygraphy", "--device", "cpu", "--json"])
    assert json.loads(done.output)["backends"][0]["probes"].keys() == {"scene00", "scene01"}


def test_without_polygraphy_the_package_is_named(bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "polygraphy" else find(name))
    with pytest.raises(MissingPackageError, match=r"package polygraphy, .*'edgeprune\[polygraphy\]'"):
        polygraphy_verify.verify(bundle())


def test_a_bundle_without_a_plan_has_nothing_for_tensorrt(bundle: MakeBundle) -> None:
    with pytest.raises(RequestError, match="has no plan; make one with `edgeprune build`"):
        polygraphy_verify.verify(bundle(), "tensorrt")


def test_a_runner_that_fails_is_named(bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from polygraphy.backend.onnxrt import OnnxrtRunner

    def fail(self: Any, feed_dict: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(OnnxrtRunner, "infer_impl", fail)
    with pytest.raises(EdgepruneError, match=r"Polygraphy's onnxrt-runner.* failed: first line$") as failed:
        polygraphy_verify.verify(bundle(), "cpu")
    assert failed.value.exit_code == 1


def with_plan(folder: Path, kind: str) -> Path:
    engine = Plan(PLAN, kind, "10.3.0", (86,), "Linux x86_64", (), 7)
    bundles.add_engine(bundles.load(folder), "rtx-desktop", engine, b"no plan")
    return folder


@pytest.mark.parametrize(("kind", "module"), polygraphy_verify.MODULES.items())
def test_a_plan_that_cannot_be_used_is_reported_as_not_run(
    bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    folder, find = with_plan(bundle(), kind), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    reports = polygraphy_verify.verify(folder)
    assert (reports[0].device, reports[0].passed) == ("ort cpu", True)
    assert (reports[-1].device, dict(reports[-1].probes)) == ("trt", {})
    assert reports[-1].not_run == f"{PLAN} needs the package {module} 10.3.0, which is not installed"
    with pytest.raises(RequestError, match=f"needs the package {module}"):
        polygraphy_verify.verify(folder, "tensorrt")


@pytest.mark.slow
def test_a_plan_that_does_not_load_says_so(bundle: MakeBundle) -> None:
    """In a process of its own: Polygraphy takes one kind of TensorRT in each. No GPU is needed for this answer."""
    pytest.importorskip("tensorrt_rtx")
    folder = with_plan(bundle(), "tensorrt-rtx")
    code = (
        "import sys; import edgeprune.runtime.parity.polygraphy_verify as p; print(p.verify(sys.argv[1])[-1].not_run)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{PLAN} cannot be loaded (")
    assert len(done.stdout.splitlines()) == 1


# What is compared. Stand-ins have as much of Polygraphy's IterationResult as is asked for.


class Result(dict[str, NDArray[Any]]):
    def __init__(self, runner_name: str, outputs: Tensors) -> None:
        super().__init__(outputs)
        self.runner_name = runner_name


def outputs_of(folder: Path, probe: str) -> Tensors:
    tensors = load_file(folder / REFERENCE)
    return {name: tensors[f"{probe}/{name}"] for name in ("tokens", "indices", "scores")}


def test_a_run_is_found_in_either_place(bundle: MakeBundle) -> None:
    folder = bundle()
    probes = Probes(bundles.load(folder))
    got, which = Result("onnxrt-runner", outputs_of(folder, "scene01")), Result("scene01", {})
    for pair in ((got, which), (which, got)):
        probe, report = probes.compare(*pair)
        assert (probe, report.equal_sets, report.token_error) == ("scene01", 1, 0.0)


def test_a_run_without_the_encoders_outputs_is_refused(bundle: MakeBundle) -> None:
    folder = bundle()
    probes, outputs = Probes(bundles.load(folder)), outputs_of(folder, "scene00")
    del outputs["scores"]
    with pytest.raises(RequestError, match="the graph must hand out tokens, indices, scores, trt-runner lacks scores"):
        probes.compare(Result("trt-runner", outputs), Result("scene00", {}))


@pytest.mark.parametrize(
    ("runner", "target", "passed"),
    [
        ("trt-runner", "jetson-orin-jp60", True),
        ("trt-runner", "cpu", False),
        ("onnxrt-runner", "jetson-orin-jp60", False),
    ],
)
def test_where_the_builder_takes_float16_for_float32_its_bounds_hold(
    make_bundle: MakeBundle, runner: str, target: str, passed: bool
) -> None:
    folder = make_bundle(target=target)
    outputs = outputs_of(folder, "scene00")
    outputs["tokens"] = outputs["tokens"] * np.float32(1.001)
    _, report = Probes(bundles.load(folder)).compare(Result(runner, outputs), Result("scene00", {}))
    assert report.passed is passed


@pytest.mark.parametrize(("flag", "passed"), [("FP16", True), ("STRONGLY_TYPED", False)])
def test_what_the_manifest_says_of_the_plan_goes_before_the_target(
    make_bundle: MakeBundle, flag: str, passed: bool
) -> None:
    folder = make_bundle(target=WEAK)
    bundles.add_engine(
        bundles.load(folder), WEAK, Plan("encoder.x.plan", "tensorrt", "8.6", (87,), "", (flag,), 7), b""
    )
    outputs = outputs_of(folder, "scene00")
    outputs["tokens"] = outputs["tokens"] * np.float32(1.001)
    _, report = Probes(bundles.load(folder)).compare(Result("trt-runner", outputs), Result("scene00", {}))
    assert report.passed is passed


def test_a_bundle_is_checked_once_in_a_process(bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loads = bundle(), 0
    load = bundles.load

    def count(path: Path) -> Any:
        nonlocal loads
        loads += 1
        return load(path)

    monkeypatch.setattr(polygraphy_compare, "bundles", SimpleNamespace(load=count))
    assert len(list(polygraphy_compare.load_data(folder))) == 2
    outputs = Result("onnxrt-runner", outputs_of(folder, "scene00"))
    assert polygraphy_compare.compare_outputs(folder, outputs, Result("scene00", {})) == {"scene00": True}
    assert loads == 1


def test_the_probes_are_a_run_of_polygraphy(tmp_path: Path) -> None:
    from polygraphy.comparator import RunResults

    (tmp_path / PROBES).write_text(probes_json(["b", "a"]))
    ((name, iterations),) = RunResults.load(str(tmp_path / PROBES))
    assert name == "reference"
    assert [(one.runner_name, len(one)) for one in iterations] == [("a", 0), ("b", 0)]


def test_a_bundle_without_a_reference_is_refused(bundle: MakeBundle) -> None:
    folder = bundle()
    (folder / REFERENCE).unlink()
    seal(folder)
    with pytest.raises(BundleError, match=f"no file {REFERENCE}"):
        polygraphy_verify.verify(folder)


# The page and the script of an export.


@pytest.mark.parametrize("target", targets.names())
def test_the_script_and_the_page_give_the_command_for_the_target(make_bundle: MakeBundle, target: str) -> None:
    folder, device = make_bundle(), targets.load(target)
    script = recipe.polygraphy(device, folder / REFERENCE)[COMPARE]
    compile(script, COMPARE, "exec")
    command = next(line.strip() for line in script.splitlines() if "polygraphy run " in line)
    runner = "--onnxrt" if device.engine.kind == "onnxruntime" else f"encoder.{target}.plan --model-type engine --trt"
    assert runner in command
    assert ("POLYGRAPHY_USE_TENSORRT_RTX=1 " in command) == (device.engine.kind == "tensorrt-rtx")
    cost = {"graph": 1, "unpruned_formula": 1}
    manifest = bundles.load(make_bundle(cost=cost, versions={"edgeprune": "1"}, target=target)).manifest
    able = device.jetson is None or device.jetson.install is not None
    assert (command in readme(manifest, device)) == able
