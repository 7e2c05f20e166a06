"""An engine of trtexec comes into the manifest: what it was built of, that it opens, and what stands in its way."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle as bundles
from edgeprune.bundle import Plan
from edgeprune.errors import BundleError, RequestError, TargetError
from edgeprune.runtime import load
from edgeprune.runtime.adopt import adopt, note_of, take_in
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan import Gpu
from edgeprune.runtime.ledger.bench import bench
from edgeprune.runtime.parity.verify import plans_not_run, verify
from tests.fake_gpu import ENGINE, SYSTEM, Device

MakeBundle = Callable[..., Path]
PLAN = "encoder.jetson-orin.plan"
NO_DRIVER = Gpu(None, why_not="there is no NVIDIA driver (libcuda.so.1)")


@pytest.fixture
def folder(device: Device) -> Path:
    """A bundle in which trtexec left an engine."""
    made = device.bundle()
    manifest = bundles.load(made).manifest
    files = {name: file for name, file in manifest.files.items() if name != PLAN}
    (made / "manifest.json").write_text(dataclasses.replace(manifest, engines={}, files=files).to_json())
    return made


def note(folder: Path, **changes: Any) -> None:
    """What build.sh leaves beside it."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (PLAN, "encoder.onnx")}
    said = {
        "release": "10.3.0", "gpu": "Orin", "capability": "8.7", "system": SYSTEM,
        "flags": ["--stronglyTyped", "--noTF32", "--best"], "seconds": 51, "files": hashes,
    }  # fmt: skip
    (folder / f"{PLAN}.json").write_text(json.dumps(said | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_engine_of_trtexec_is_opened_and_listed(folder: Path) -> None:
    engine, file = adopt(folder, folder / PLAN)
    assert engine == Plan(PLAN, "tensorrt", "10.3.0", (87,), SYSTEM, (), 0)
    found = bundles.load(folder)
    assert (found.manifest.engines, found.manifest.files[PLAN]) == ({"jetson-orin": engine}, file)
    assert load(folder).device == "tensorrt"


def test_what_build_sh_noted_stands_in_the_manifest(folder: Path) -> None:
    note(folder)
    engine, _ = adopt(folder, Path(PLAN))
    assert (engine.flags, engine.build_ms) == (("STRONGLY_TYPED", "NO_TF32", "--best"), 51_000)


def test_a_weakly_typed_one_is_known_to_compute_in_float16(folder: Path, device: Device) -> None:
    """By its flag, or by its target: parity has other bounds then."""
    (folder / PLAN).rename(folder / "encoder.jetson-orin-jp60.plan")
    device.monkeypatch.setattr("edgeprune.targets.Engine.accepts", lambda engine, version: True)
    engine, _ = adopt(folder, Path("encoder.jetson-orin-jp60.plan"))
    assert engine.flags == ("FP16",)


def test_an_engine_from_elsewhere_takes_the_name_of_its_target(folder: Path, tmp_path: Path) -> None:
    elsewhere = (folder / PLAN).rename(tmp_path / "mine.engine")
    adopt(folder, elsewhere, "jetson-orin")
    assert (folder / PLAN).read_bytes() == elsewhere.read_bytes()
    assert list(bundles.load(folder).manifest.engines) == ["jetson-orin"]


def test_another_engine_of_the_target_needs_force(folder: Path) -> None:
    adopt(folder, Path(PLAN))
    with pytest.raises(RequestError, match="lists an engine for jetson-orin; replace it with --force"):
        adopt(folder, Path(PLAN))
    adopt(folder, Path(PLAN), force=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"find_gpu": lambda: NO_DRIVER}, "must be opened to be taken in, but it needs a GPU of SM 87, and there"),
        ({"find_gpu": lambda: Gpu(89, "L4", 12)}, r"is for SM 87, the GPU here has SM 89; build one for SM 89"),
        ({"load_package": lambda kind: importlib.import_module("no.such")}, "needs the Python package tensorrt"),
    ],
    ids=["no GPU", "another GPU", "no TensorRT"],
)  # fmt: skip
def test_a_machine_that_cannot_open_it_says_what_is_missing(
    folder: Path, device: Device, change: dict[str, Any], message: str
) -> None:
    before = contents(folder)
    for name, value in change.items():
        device.monkeypatch.setattr(plans, name, value)
    with pytest.raises(RequestError, match=message) as refused:
        adopt(folder, Path(PLAN))
    assert "\n" not in str(refused.value)
    assert contents(folder) == before


def test_what_is_no_engine_is_refused_and_nothing_is_written(folder: Path) -> None:
    (folder / PLAN).write_bytes(b"something else")
    before = contents(folder)
    with pytest.raises(RequestError, match=r"cannot be opened by tensorrt 10\.3\.0: magicTagRead does not match"):
        adopt(folder, Path(PLAN))
    assert contents(folder) == before


def test_an_engine_of_other_tensors_is_refused(folder: Path, device: Device) -> None:
    device.plan.tensors["tokens"] = ((1, 5, 7), "HALF")
    with pytest.raises(BundleError, match=rf"tokens is float16 \[1, 5, 7\] in {PLAN}, manifest\.json says"):
        adopt(folder, Path(PLAN))
    assert not device.cuda.device, "its memory is freed"


def test_an_engine_of_another_graph_is_told_by_its_note(folder: Path) -> None:
    """One with other weights has the same tensors."""
    files = {PLAN: hashlib.sha256(b"a plan").hexdigest(), "encoder.onnx": "0" * 64}
    note(folder, files=files)
    with pytest.raises(RequestError, match=r"was built of another encoder\.onnx than the bundle's; build it again"):
        adopt(folder, Path(PLAN))


@pytest.mark.parametrize(
    ("plan", "target", "error", "message"),
    [
        ("nowhere.plan", None, RequestError, r"must be the file of an engine; there is no nowhere\.plan"),
        (PLAN, "cpu", RequestError, "cpu runs its graph with ONNX Runtime and has no engine; give another --target"),
        (
            PLAN,
            "jetson-orin-jp72",
            RequestError,
            r"needs tensorrt >=10\.16.*, here is 10\.3\.0; choose another --target",
        ),
        (PLAN, "mars", TargetError, "no target 'mars'"),
        ("encoder.mine.plan", None, RequestError, r"the target mine, a file of yours; give it as --target mine\.toml"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    folder: Path, plan: str, target: str | None, error: type[Exception], message: str
) -> None:
    (folder / "encoder.mine.plan").write_bytes(b"a plan")
    with pytest.raises(error, match=message):
        adopt(folder, Path(plan), target)


# By itself.


def test_verify_takes_in_what_build_sh_left_and_runs_it(folder: Path) -> None:
    note(folder)
    *_, plan = reports = verify(folder)
    assert (plan.device, plan.source, plan.passed, plan.not_run) == ("tensorrt", PLAN, True, "")
    assert list(bundles.load(folder).manifest.engines) == ["jetson-orin"]
    assert plans_not_run(folder, reports) == []


def test_bench_takes_it_in_as_well(folder: Path) -> None:
    note(folder)
    ledger = bench(folder, device="tensorrt", rounds=9)
    assert ledger.plan is not None
    assert ledger.plan.plan == PLAN


def test_an_engine_without_a_note_waits_to_be_asked_for(folder: Path) -> None:
    """Nothing says of which graph it is."""
    found, left = take_in(bundles.load(folder))
    assert found.manifest.engines == {}
    assert "take it in with `edgeprune build" in left[PLAN]
    *_, plan = reports = verify(folder)
    assert plan.not_run == left[PLAN]
    assert plans_not_run(folder, reports) == [PLAN]
    for run in (verify, bench):
        with pytest.raises(RequestError, match="nothing that fits beside it says what it was built of"):
            run(folder, device="tensorrt")


def test_a_note_of_an_engine_that_was_replaced_since_is_none(folder: Path) -> None:
    note(folder)
    assert note_of(folder / PLAN) is not None
    (folder / PLAN).write_bytes(b"another plan")
    assert note_of(folder / PLAN) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"release": 1}', "\xff"])
def test_a_note_that_cannot_be_read_is_none(folder: Path, text: str) -> None:
    (folder / f"{PLAN}.json").write_bytes(text.encode("latin-1"))
    assert note_of(folder / PLAN) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"release": "10.7.0"}, "was built by tensorrt 10.7.0, here is 10.3.0"),
        ({"capability": "8.9"}, "is for SM 89, the GPU here has SM 87"),
        ({"system": "Linux riscv64"}, "was built on Linux riscv64"),
    ],
    ids=["release", "GPU", "system"],
)
def test_a_note_that_does_not_fit_leaves_the_engine_where_it_is(
    folder: Path, changes: dict[str, Any], why: str
) -> None:
    note(folder, **changes)
    found, left = take_in(bundles.load(folder))
    assert found.manifest.engines == {}
    assert why in left[PLAN]


def test_a_plan_beside_the_one_that_ran_is_named(device: Device) -> None:
    folder = device.bundle()
    (folder / "encoder.jetson-thor.plan").write_bytes(b"of a Thor")
    reports = verify(folder, device="tensorrt")
    assert [report.source for report in reports] == [ENGINE.plan]
    assert plans_not_run(folder, reports) == ["encoder.jetson-thor.plan"]
    assert plans_not_run(folder, verify(folder, device="cpu")) == [ENGINE.plan, "encoder.jetson-thor.plan"]
