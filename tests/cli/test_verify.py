"""`edgeprune verify`: what it prints, and when it fails."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Done = Any
Run = Callable[..., Any]
Said = Callable[..., str]


def test_a_fresh_bundle_verifies(run: Run, exported: tuple[Path, Done]) -> None:
    done = run("verify", exported[0])
    assert (done.code, done.err) == (0, "")
    assert "Parity with the reference" in done.out
    assert re.search(r"cpu float32 +(\d+)/\1 .* pass", done.out)
    assert done.out.splitlines()[-1] == "ran encoder.onnx on cpu"


def test_an_engine_that_did_not_run_is_named_last(run: Run, bundle: Path) -> None:
    """A pass on the CPU proves nothing of it."""
    (bundle / "encoder.jetson-orin.plan").write_bytes(b"of trtexec")
    done = run("verify", bundle, "--device", "cpu")
    assert (done.code, done.out.splitlines()[-1]) == (
        0,
        "ran encoder.onnx on cpu; encoder.jetson-orin.plan did not run: "
        f"run it here with `edgeprune verify {bundle} --device tensorrt`",
    )
    done = run("verify", bundle, "--json")
    assert json.loads(done.out)["plans_not_run"] == ["encoder.jetson-orin.plan"]
    *_, plan = json.loads(done.out)["backends"]
    assert (plan["device"], plan["source"], plan["passed"]) == ("tensorrt", None, None)
    assert "--adopt" in plan["not_run"]


def test_case_a_bundle_in_a_hugging_face_cache_verifies_by_its_name(
    run: Run, exported: tuple[Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = tmp_path / "models--me--bundle" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--me--bundle" / "refs").mkdir()
    (tmp_path / "models--me--bundle" / "refs" / "main").write_text(commit)
    for path in exported[0].iterdir():
        (snapshot / path.name).symlink_to(path)
    assert run("verify", "me/bundle").out == run("verify", exported[0]).out
    assert said(run("verify", "me/other")).endswith("or fetch it with `hf download me/other`")


def test_a_bundle_that_differs_from_its_reference_fails_and_says_why(run: Run, bundle: Path, said: Said) -> None:
    from safetensors.numpy import load_file, save_file

    from edgeprune.bundle import MANIFEST, describe_files, load

    manifest = load(bundle).manifest
    tensors = load_file(bundle / "reference.safetensors")
    tensors["scene00/tokens"] = np.ascontiguousarray(tensors["scene00/tokens"][:, ::-1])
    save_file(tensors, bundle / "reference.safetensors")
    assert "reference.safetensors has changed" in said(run("verify", bundle))

    (bundle / MANIFEST).write_text(dataclasses.replace(manifest, files=describe_files(bundle)).to_json())
    assert load(bundle)

    done = run("verify", bundle)
    assert done.code == 1
    assert re.search(r"scene00 .*FAIL", done.out)
    assert len(done.err.splitlines()) == 1
    assert re.match(rf"edgeprune: {bundle} differs from its reference on cpu: .*token", done.err)
    done = run("verify", bundle, "--json")
    assert (done.code, json.loads(done.out)["passed"]) == (1, False)


PLAN_OF: dict[str, tuple[dict[str, Any], str]] = {
    "another GPU": (
        {"sm": (87,)},
        r"\.plan is for SM 87, the GPU here has SM 86; build one for SM 86: `edgeprune bu",
    ),
    "another release": ({"version": "10.7.0"}, r"built by tensorrt 10\.7\.0, here is 10\.3\.0; build it again: `edgep"),
    "another system": (
        {"system": "Linux riscv64"},
        r"built on Linux riscv64, this is .*; build one on this machine: ",
    ),
}


@pytest.mark.parametrize("what", PLAN_OF)
@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_plan_of_something_else_is_refused_by_name_with_a_remedy(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, verb: str, what: str, said: Said
) -> None:
    from edgeprune import bundle as bundles
    from edgeprune.runtime.backends import plan

    here = plan.Have({"tensorrt": "10.3.0"}, {}, plan.Gpu(86), plan.here([]).system)
    fits = bundles.Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (86,), here.system, (), 1)
    changes, says = PLAN_OF[what]
    bundles.add_engine(bundles.load(bundle), "jetson-orin", replace(fits, **changes), b"plan")
    monkeypatch.setattr(plan, "here", lambda kinds: here)
    monkeypatch.setenv("PATH", "")  # no trtexec
    assert re.search(says, said(run(verb, bundle, "--device", "tensorrt")))


def test_a_bundle_without_a_plan_says_how_to_make_one(run: Run, exported: tuple[Path, Done], said: Said) -> None:
    folder = exported[0]
    assert said(run("verify", folder, "--device", "tensorrt")) == (
        f"{folder} has no plan for device tensorrt; make one with `edgeprune build {folder}`"
    )


@pytest.mark.slow
def test_verify_reports_a_plan_that_cannot_be_used_as_not_run(run: Run, bundle: Path) -> None:
    from edgeprune import bundle as bundles

    engine = bundles.Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), "Linux riscv64", (), 1)
    bundles.add_engine(bundles.load(bundle), "jetson-orin", engine, b"plan")
    done = run("verify", bundle)
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.split("parity on")[0].splitlines())) <= 80
    assert "not run on tensorrt: device tensorrt finds no plan" in done.out
    backends = json.loads(run("verify", bundle, "--json").out)["backends"]
    assert [(one["device"], one["passed"]) for one in backends if one["device"] != "cuda"] == [
        ("cpu", True),
        ("tensorrt", None),
    ]


def test_cuda_is_refused_where_there_is_none(run: Run, exported: tuple[Path, Done], said: Said) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is CUDA")
    for verb in ("verify", "bench"):
        assert "device cuda cannot be used" in said(run(verb, exported[0], "--device", "cuda"))


def test_strict_fails_where_too_little_was_decided_and_says_so(
    run: Run, exported: tuple[Path, Done], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.runtime.parity import verify

    assert run("verify", exported[0], "--strict").code == 0
    monkeypatch.setattr(verify, "PROVEN", 1.01)  # more than there can be
    assert run("verify", exported[0]).code == 0
    done = run("verify", exported[0], "--strict")
    assert done.code == 1
    assert "not proven" in done.out
    assert "is not proven on cpu: half of the decisions on probes that are not flat must be decided, 100%" in done.err


def test_strict_wants_a_quantised_graph_to_be_told_from_chance(run: Run, make_bundle: Callable[..., Path]) -> None:
    bounds = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
    folder = make_bundle(precision="int8", quantised={"bounds": bounds})
    done = run("verify", folder, "--strict")
    assert (done.code, done.err) == (0, "")
    assert "0.00% lost by the choice, 1.00% allowed" in " ".join(done.out.split())
    generous = make_bundle(precision="int8", quantised={"bounds": {**bounds, "regret": 9}})
    done = run("verify", generous, "--strict")
    assert done.code == 1
    assert f"{generous} is not proven on cpu: on half of its probes a choice by chance must fail" in done.err


def test_verify_judges_the_first_picks_alone(run: Run, exported: tuple[Path, Done], said: Said) -> None:
    (backend,) = json.loads(run("verify", exported[0], "--keep", 16, "--json").out)["backends"]
    assert backend["passed"]
    assert {probe["decisions"] for probe in backend["probes"].values()} == {16}
    refusal = said(run("verify", exported[0], "--keep", 16, "--polygraphy"))
    assert refusal.startswith("Polygraphy runs the whole graph and takes no --keep, got 16; leave one of them out (see")


def test_junit_has_a_case_for_each_probe_and_one_for_what_strict_asks(
    run: Run, exported: tuple[Path, Done], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xml.etree import ElementTree

    from edgeprune.runtime.parity import verify

    monkeypatch.setattr(verify, "PROVEN", 1.01)
    assert run("verify", exported[0], "--junit", "parity.xml").code == 0
    names = [case.get("name") for case in ElementTree.parse(desk / "parity.xml").iter("testcase")]
    assert {"scene00", "flat"} <= {*names}
    assert "decided" not in names
    done = run("verify", exported[0], "--strict", "--junit", "parity.xml")
    assert done.code == 1
    (failure,) = ElementTree.parse(desk / "parity.xml").iter("failure")
    assert f"edgeprune: {failure.get('message')}\n" == done.err
