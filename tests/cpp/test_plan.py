"""Plans are chosen by the rules of runtime/backends/plan.py, and refused in its words."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from edgeprune import bundle as bundles
from edgeprune import targets
from edgeprune.bundle import Plan
from edgeprune.errors import RequestError
from edgeprune.runtime.backends.plan import MODULES, Gpu, Have, choose
from tests.brightest import MakeBundle
from tests.cpp.answers import Ask, asking

ORIN = Plan("encoder.jetson-orin.plan", "tensorrt", "10.3.0", (87,), "Linux aarch64", ("STRONGLY_TYPED",), 1000)
RTX = Plan("encoder.rtx-desktop.plan", "tensorrt-rtx", "1.7.1.116", (86, 89, 120), "Linux x86_64", (), 1000)
L4 = Plan("encoder.datacenter.plan", "tensorrt", "10.16.1.11", (89,), "Linux x86_64", (), 1000)
MINE = dataclasses.replace(L4, plan="encoder.mine.plan")
NEW = dataclasses.replace(L4, plan="encoder.new.plan", kind="tensorrt-next")
NARROW = dataclasses.replace(RTX, sm=(86,))

BUNDLES: tuple[tuple[str, dict[str, Plan]], ...] = (
    ("cpu", {}),
    ("cpu", {"jetson-orin": ORIN}),
    ("cpu", {"rtx-desktop": RTX, "jetson-orin": ORIN, "datacenter": L4}),
    ("mine", {"datacenter": L4, "mine": MINE}),
    ("cpu", {"mine": MINE, "datacenter": L4}),
    ("rtx-desktop", {"rtx-desktop": NARROW, "new": NEW}),
)
GPUS = (
    *(Gpu(sm) for sm in (61, 75, 86, 87, 89, 90, 110, 121)),
    Gpu(None, why_not="there is no NVIDIA driver (libcuda.so.1)"),
)
VERSIONS: tuple[dict[str, str], ...] = (
    {"tensorrt": "10.3.0.30", "tensorrt-rtx": "1.7.1.116"},
    {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.6"},
    {"tensorrt": "10.7.0"},
    {"tensorrt-rtx": "1.7.1"},
    {},
)


@pytest.fixture(scope="module")
def ask(cpp: Path) -> Ask:
    return asking(cpp)


def in_python(bundle: bundles.Bundle, have: Have) -> str:
    try:
        return choose(bundle, have).plan
    except RequestError as error:
        return str(error)


def told(folder: Path, have: Have) -> bytes:
    given = {"folder": str(folder), "sm": have.gpu.sm or 0, "why_not": have.gpu.why_not, "system": have.system}
    return json.dumps({**given, "versions": dict(have.versions), "missing": dict(have.missing)}).encode()


@pytest.mark.parametrize(
    "bundles_of",
    [
        pytest.param(BUNDLES[2::3], id="several plans and a narrow one"),
        pytest.param(BUNDLES, id="every bundle", marks=pytest.mark.slow),
    ],
)
def test_a_plan_is_chosen_or_refused_as_in_python(
    ask: Ask, make_bundle: MakeBundle, bundles_of: tuple[tuple[str, dict[str, Plan]], ...]
) -> None:
    machines = [
        Have(versions, {kind: f"a library for {kind}" for kind in MODULES if kind not in versions}, gpu, system)
        for versions, gpu, system in itertools.product(VERSIONS, GPUS, ("Linux x86_64", "Linux aarch64"))
    ]
    cases = []
    for target, plans in bundles_of:
        folder = make_bundle(target=target)
        for name, plan in plans.items():
            bundles.add_engine(bundles.load(folder), name, plan, b"plan of " + name.encode())
        cases += [(folder, have) for have in machines]
    (loose := make_bundle()).joinpath("encoder.b.plan").write_bytes(b"of trtexec")
    (loose / "encoder.a.plan").write_bytes(b"of trtexec")
    cases.append((loose, machines[0]))
    got = [answer.decode() for answer in ask("plan", [told(folder, have) for folder, have in cases])]
    known, chosen = {folder: bundles.load(folder) for folder in dict(cases)}, 0
    for (folder, have), answer in zip(cases, got, strict=True):
        expected = in_python(known[folder], have)
        if ", in version " in expected and "pip install" in expected:  # Python names a package, C a library
            expected = expected[: expected.index("; ", expected.index(", in version "))]
            answer = answer[: len(expected)]
        assert answer == expected
        chosen += answer.endswith(".plan")
    assert chosen > 10


def test_the_missing_library_is_named_with_where_it_can_be_built(ask: Ask, make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    bundles.add_engine(bundles.load(folder), "jetson-orin", ORIN, b"plan")
    have = Have({}, {"tensorrt": "libedgeprune_tensorrt.so"}, Gpu(87), "Linux aarch64")
    (said,) = ask("plan", [told(folder, have)])
    assert said.decode().endswith(
        "encoder.jetson-orin.plan needs libedgeprune_tensorrt.so, in version 10.3.0; build it with "
        "-DEDGEPRUNE_TENSORRT=ON where TensorRT 10.3.0 is installed, as JetPack 6.1-6.2.2 has it"
    )


def test_the_targets_that_have_plans_are_those_of_the_files(ask: Ask) -> None:
    lines = []
    for target in map(targets.load, targets.names()):
        if target.engine.kind in MODULES and target.gpu:
            sms = "".join(f"{sm}," for sm in target.gpu.sm)
            lines.append(f"{target.name} {target.engine.kind} {sms} {target.jetson.jetpack if target.jetson else ''}\n")
    assert ask("targets", [b""]) == ["".join(lines).encode()]
