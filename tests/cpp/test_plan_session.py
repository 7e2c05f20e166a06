"""A plan in the C library, on a mock of NVIDIA's libraries: what it runs, and what it says when these fail.

With real ones and on a GPU it was not run.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from edgeprune import bundle as bundles
from edgeprune.bundle import Plan
from tests.brightest import MakeBundle

SYSTEM = f"{platform.system()} {platform.machine()}"
PLAN = Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), SYSTEM, (), 1000)
TENSORS = "input pixel_values float32 1 3 32 48\noutput tokens float32 1 5 7\noutput indices int32 1 5\n"
WHOLE = TENSORS + "output scores float32 1 24\n"


def session(cpp: Path, folder: Path, what: str, content: str, failing: str = "") -> tuple[int, str]:
    """What the test program returns and prints for a bundle with this plan; failing: a call that does not work."""
    bundles.add_engine(bundles.load(folder), "jetson-orin", PLAN, content.encode())
    program = next(cpp.rglob("test_plan_session"))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent), "MOCK_FAILS": failing}
    done = subprocess.run([program, what, folder], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_a_plan_runs_on_the_host_s_memory_and_the_gpu_s(cpp: Path, make_bundle: MakeBundle) -> None:
    assert session(cpp, make_bundle(), "run", WHOLE) == (0, "")


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_a_run_that_cannot_be_captured_is_launched(call: str, cpp: Path, make_bundle: MakeBundle) -> None:
    """Right results; that no graph was launched is what the program then complains of, and all it does."""
    code, said = session(cpp, make_bundle(), "run", WHOLE, call)
    assert code == 1
    assert all("got 0, expected" in line for line in said.splitlines())


@pytest.mark.parametrize(
    ("content", "failing", "said"),
    [
        ("no plan", "", "cannot be opened by tensorrt 10.3.0.30: Serialization assertion failed"),
        (WHOLE, "cudaMalloc", "cannot be used: cudaMalloc: out of memory (CUDA error 2); use --device cpu"),
        (WHOLE, "enqueueV3", "device tensorrt cannot be used: it does not say why; use --device cpu"),
        (WHOLE, "setTensorAddress", "no memory can be set for pixel_values"),
        (WHOLE, "cuInit", "and the NVIDIA driver shows none (cuInit returns 100); run it where there is one"),
        (WHOLE.replace("int32 1 5", "int8 1 5"), "", "indices must have a fixed shape and one of float32"),
        (WHOLE.replace("1 24", "1 -1"), "", "scores must have a fixed shape and one of float32"),
        (TENSORS, "", "the outputs tokens, indices, scores; it has pixel_values and tokens, indices"),
        (WHOLE.replace("1 24", "1 25"), "", "scores is float32 [1, 25] in encoder.jetson-orin.plan"),
    ],
)
def test_what_does_not_work_is_one_line(
    content: str, failing: str, said: str, cpp: Path, make_bundle: MakeBundle
) -> None:
    code, text = session(cpp, make_bundle(), "open", content, failing)
    assert code == 1
    assert said in text
    assert text.count("\n") == 1
