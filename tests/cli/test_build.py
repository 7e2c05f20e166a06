"""`edgeprune build --adopt`; what is built otherwise is in tests/export/test_engine.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import bundle as bundles
from edgeprune.bundle import File, Plan
from edgeprune.runtime.backends import plan as plans
from edgeprune.runtime.backends.plan import Gpu

Run = Callable[..., Any]
Said = Callable[..., str]
PLAN = "encoder.jetson-orin.plan"
ENGINE = Plan(PLAN, "tensorrt", "10.3.0", (87,), "Linux aarch64", ("FP16",), 51_000)


@pytest.fixture
def adopted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `adopt` is called with; opening an engine needs a GPU (tests/runtime/test_adopt.py)."""
    calls: list[tuple[Any, ...]] = []

    def adopt(*arguments: Any) -> tuple[Plan, File]:
        calls.append(arguments)
        return ENGINE, File(9, "0" * 64)

    monkeypatch.setattr("edgeprune.runtime.adopt.adopt", adopt)
    return calls


def test_an_engine_that_was_taken_in_is_to_be_verified(run: Run, adopted: list[tuple[Any, ...]]) -> None:
    done = run("build", "a", "--adopt", PLAN, "--force")
    assert adopted == [(Path("a"), Path(PLAN), None, True)]
    assert done == (
        0,
        f"opened {PLAN} with tensorrt 10.3.0 and listed it as {PLAN}; "
        "hold it against the reference with `edgeprune verify a --device tensorrt`\n",
        "",
    )


def test_it_can_be_had_as_json(run: Run, adopted: list[tuple[Any, ...]]) -> None:
    entry = json.loads(run("build", "a", "--adopt", PLAN, "--target", "mine.toml", "--json").out)["engine"]
    assert adopted == [(Path("a"), Path(PLAN), "mine.toml", False)]
    assert (entry["version"], entry["sm"], entry["size"]) == ("10.3.0", [87], 9)


@pytest.mark.parametrize("more", [("--sm", "86"), ("--audit",)], ids=str)
def test_what_belongs_to_a_build_is_refused(run: Run, said: Said, more: tuple[str, ...]) -> None:
    assert "--adopt builds nothing: leave out --sm and --audit" in said(run("build", "a", "--adopt", PLAN, *more))


def test_without_a_gpu_it_is_one_line_and_the_bundle_as_it_was(
    run: Run, bundle: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_gpu", lambda: Gpu(None, why_not="there is no NVIDIA driver (libcuda.so.1)"))
    (bundle / PLAN).write_bytes(b"of trtexec")
    assert said(run("build", bundle, "--adopt", PLAN)) == (
        f"{bundle / PLAN} must be opened to be taken in, but it needs a GPU of SM 87, and there is no NVIDIA driver "
        "(libcuda.so.1); do it on the board that built it"
    )
    assert bundles.load(bundle).manifest.engines == {}
