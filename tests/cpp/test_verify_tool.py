"""edgeprune-verify says what `edgeprune verify --device cpu` says: every field, every line, the same exit codes."""

from __future__ import annotations

import io
import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from edgeprune import __version__, pruners
from edgeprune.bundle import MANIFEST, Manifest, describe_files
from edgeprune.cli.tables.parity import parity_line, parity_table, ran_line
from edgeprune.errors import RequestError
from edgeprune.export import Request, export_bundle
from edgeprune.runtime.parity.stored import REFERENCE
from edgeprune.runtime.parity.verify import plans_not_run, verify
from tests.brightest import MakeBundle
from tests.covering import always
from tests.cpp.test_run import EXPORTED, exported  # noqa: F401 - a fixture
from tests.encoders.test_llava_onevision import CONFIG, PROCESSOR

Tool = Callable[..., "subprocess.CompletedProcess[str]"]
GOLDEN = sorted(path.parent for path in (Path(__file__).parent.parent / "golden").rglob(MANIFEST))
IN_JOINT_SPACE = ("cdpruner", "desap", "hiprune_text", "sppruner", "trim")
METHODS = [name for name in pruners.names() if name not in ("bavit", "none", *IN_JOINT_SPACE)]
"""those of IN_JOINT_SPACE are asked in CLIP's space, which the embedded model has no way into"""


@pytest.fixture(scope="module")
def tool(cpp: Path) -> Tool:
    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [str(cpp / "tools" / "edgeprune-verify"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def same(one: Any, other: Any) -> bool:
    """Everything is the same, numbers but for the last bits."""
    if isinstance(other, dict):
        return isinstance(one, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list):
        return isinstance(one, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, float) and isinstance(one, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def check_same(tool: Tool, folder: Path, keep: int | None = None) -> dict[str, Any]:
    """Both say the same of a bundle, as JSON and as text; Python's."""
    reports = verify(folder, "cpu", 1, keep=keep)
    passed, not_run = all(report.passed for report in reports), plans_not_run(folder, reports)
    wanted = {"passed": passed, "backends": [report.to_json() for report in reports], "plans_not_run": not_run}
    arguments = [folder, "--device", "cpu", "--threads", 1, *([] if keep is None else ["--keep", keep])]
    done = tool(*arguments, "--json")
    assert same(json.loads(done.stdout), wanted), (json.loads(done.stdout), wanted)
    assert done.returncode == (0 if passed else 1), done.stderr
    text = io.StringIO()
    console = Console(file=text, width=1000, emoji=False, highlight=False)
    for one in (parity_table(reports), parity_line(reports), ran_line(folder, reports, not_run)):
        console.print(one, soft_wrap=isinstance(one, str))
    shown = tool(*arguments)
    assert [line.rstrip() for line in shown.stdout.splitlines()] == [
        line.rstrip().replace("edgeprune verify", "edgeprune-verify") for line in text.getvalue().splitlines()
    ]
    if not passed:
        first = next(report for report in reports if not report.passed)
        said = f"{folder} differs from its reference on {first.device}: {first.worst.reasons[0]}"
        assert shown.stderr == f"edgeprune-verify: {said}\n"
    return wanted


QUANTISED = {"bounds": {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}}
SESSION = {"cpu": {"disable": ["MatMulAddFusion"]}, "cuda": {}}
SIMPLE: dict[str, dict[str, Any]] = {
    "one image": {},
    "batch": {"batch": 3},
    "any batch": {"batch": "images"},
    "float16": {"dtype": "float16"},
    "uint8": {"dtype": "uint8"},
    "another input": {"prior": True},
    "halves": {"prior": True, "split": True},
    "halves of any batch": {"prior": True, "split": True, "batch": "images"},
    "halves of the wrong patches": {"prior": True, "split": True, "shift": 1, "batch": 3},
    "picks": {"picks": True},
    "picks the wrong way round": {"picks": "reversed"},
    "the wrong patches": {"shift": -1},
    "of many images the wrong patches": {"shift": 1, "batch": 3},
    "classes": {"classes": True, "batch": 3},
    "classes of the wrong patches": {"classes": True, "shift": 1},
    "quantised": {"precision": "int8", "quantised": QUANTISED},
    "quantised, for a device with options": {"precision": "int8", "quantised": {**QUANTISED, "session": SESSION}},
    "quantised, in float16": {"precision": "int8", "quantised": QUANTISED, "dtype": "float16"},
    "quantised, the wrong patches": {"precision": "int8-dynamic", "quantised": QUANTISED, "shift": -1},
    "a rule that decides nothing": {"rule": {"name": "fixed"}},
    "a rule": {"rule": {"name": "topk", "shares": True}},
}


OFTEN = (
    "batch",
    "any batch",
    "uint8",
    "halves of the wrong patches",
    "picks the wrong way round",
    "classes",
    "quantised",
)


@pytest.mark.parametrize("name", always(SIMPLE, *OFTEN))
def test_a_small_bundle(name: str, tool: Tool, make_bundle: MakeBundle) -> None:
    check_same(tool, make_bundle(**SIMPLE[name]))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_a_bundle_of_every_release(folder: Path, tool: Tool) -> None:
    assert check_same(tool, folder)["passed"]


@pytest.mark.parametrize("batch", [1, 3, "images"])
@pytest.mark.parametrize("keep", always([1, 2, 5], 2))
def test_the_first_picks_alone(keep: int, batch: int | str, tool: Tool, make_bundle: MakeBundle) -> None:
    folder = make_bundle(batch=batch, picks=True, nested=True, rule={"name": "topk"})
    assert check_same(tool, folder, keep)["passed"]


def test_an_export_and_its_preprocessing(tool: Tool, exported_once: Callable[..., Any]) -> None:
    assert check_same(tool, exported_once("fastervlm", "cpu", keep=64).folder)["passed"]


@pytest.mark.slow
def test_gains_of_the_first_picks_of_an_export_in_float16(tool: Tool, exported_once: Callable[..., Any]) -> None:
    folder = exported_once("divprune", "cpu", keep=16, precision="float16").folder
    for keep in (None, 5):
        assert check_same(tool, folder, keep)["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_kind_of_export(name: str, tool: Tool, exported: Callable[[str], Path]) -> None:  # noqa: F811
    assert check_same(tool, exported(name))["passed"]


OF_EACH_RULE = [("fastervlm", "float16"), ("scope", "float16"), ("visionzip", "float16"), ("prunesid", "float32")]
OF_EACH_RULE += [("aim", "float16"), ("holov", "float16"), ("dpp", "float32"), ("tome_behind", "float32")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"), always(product(METHODS, ("float32", "float16")), *OF_EACH_RULE, mark="cells")
)
def test_every_method(name: str, precision: str, tool: Tool, exported_once: Callable[..., Any]) -> None:
    done = exported_once(name, "cpu", keep=32, precision=precision, baselines=False)
    assert check_same(tool, done.folder)["passed"]


@pytest.mark.slow
def test_frames_of_a_video_that_are_one_pool(tool: Tool, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    made = model_folder(tmp_path / "model", "LlavaOnevisionForConditionalGeneration", PROCESSOR, **CONFIG)
    request = Request("forestprune", "cpu", keep=20, tiles=3, video=True, model=str(made), output=tmp_path / "bundle")
    assert check_same(tool, export_bundle(replace(request, baselines=False)).folder)["passed"]


# --- what a hand put into the reference -------------------------------------------------------------------------------


def change_reference(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Rewrite reference.safetensors, and the manifest so that the checksums agree."""
    tensors = load_file(folder / REFERENCE)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / REFERENCE)
    return seal(folder)


def seal(folder: Path) -> Path:
    fields = vars(Manifest.from_json((folder / MANIFEST).read_text())) | {"files": describe_files(folder)}
    (folder / MANIFEST).write_text(Manifest(**fields).to_json())
    return folder


def scaled(tensors: dict[str, Any]) -> None:
    tensors["scene01/tokens"] = tensors["scene01/tokens"] * np.float32(1.01)


def not_a_number(tensors: dict[str, Any]) -> None:
    tensors["scene00/scores"][0, 3] = np.nan


def of_another_size(tensors: dict[str, Any]) -> None:
    tensors["scene00/tokens"] = tensors["scene00/tokens"][:, :, 1:]


def of_another_kind(tensors: dict[str, Any]) -> None:
    tensors["scene00/indices"] = tensors["scene00/indices"].astype(np.int64)


@pytest.mark.parametrize("change", [scaled, not_a_number, of_another_size, of_another_kind])
def test_what_differs_has_the_same_reasons(
    change: Callable[[dict[str, Any]], None], tool: Tool, make_bundle: MakeBundle
) -> None:
    rule = {"name": "topk"}  # else it is read off the reference
    assert not check_same(tool, change_reference(make_bundle(rule=rule), change))["passed"]


def refused_alike(tool: Tool, folder: Path, *more: Any, keep: int | None = None) -> str:
    """Both refuse in the same words, but for those of numpy and safetensors, in brackets; the line."""
    with pytest.raises(RequestError) as refused:
        verify(folder, "cpu", 1, keep=keep)
    done = tool(folder, "--device", "cpu", *more)
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.removeprefix("edgeprune-verify: ").removesuffix("\n")
    assert line.splitlines() == [line]
    wanted = str(refused.value)
    assert line.split(" (")[0] == wanted.split(" (")[0]
    assert line.split(")")[-1] == wanted.split(")")[-1]
    asked = tool(folder, "--device", "cpu", *more, "--json")
    assert json.loads(asked.stderr) == {"error": line, "exit_code": 2}
    return line


def test_a_reference_that_lacks_something(tool: Tool, make_bundle: MakeBundle) -> None:
    for missing in ("scene00/tokens", "scene01/pixel_values"):
        folder = change_reference(make_bundle(), lambda tensors, name=missing: tensors.pop(name))  # type: ignore[misc]
        assert f"lacks {missing}; export" in refused_alike(tool, folder)
    assert "lacks any probe" in refused_alike(tool, change_reference(make_bundle(), dict.clear))


def test_a_reference_that_is_none(tool: Tool, make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    (folder / REFERENCE).write_bytes(b"pickle?")
    assert "cannot be read (" in refused_alike(tool, seal(folder))
    (folder / REFERENCE).unlink()
    seal(folder)
    done = tool(folder, "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no file {REFERENCE}" in done.stderr


def test_a_probe_that_does_not_fit_the_graph(tool: Tool, make_bundle: MakeBundle) -> None:
    def turn(tensors: dict[str, Any]) -> None:
        tensors["scene01/pixel_values"] = tensors["scene01/pixel_values"].swapaxes(2, 3)

    def spoil(tensors: dict[str, Any]) -> None:
        tensors["scene00/pixel_values"][0, 0, 0] = np.inf

    line = refused_alike(tool, change_reference(make_bundle(), turn))
    assert "probe scene01 does not fit the graph: pixel_values must be float32 [1, 3, 32, 48], got float32" in line
    assert "are NaN or infinite" in refused_alike(tool, change_reference(make_bundle(), spoil))


RULES: dict[str, dict[str, Any]] = {
    "no such rule": {"name": "most"},
    "a number": {"name": 7},
    "nothing": {"size": 3},
    "a rule that needs more": {"name": "stages"},
    "a rule of quantities that are not there": {"name": "match", "form": "nearest"},
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_cannot_be(name: str, tool: Tool, make_bundle: MakeBundle) -> None:
    refused_alike(tool, make_bundle(rule=RULES[name], picks=True))


@pytest.mark.parametrize("seed", always(range(3), 0))
def test_a_hostile_reference_is_one_line(seed: int, tool: Tool, make_bundle: MakeBundle) -> None:
    from tests.cpp.test_parity import altered

    dice = np.random.default_rng(seed)
    folder = make_bundle(picks=True, nested=True)
    original = (folder / REFERENCE).read_bytes()
    for _ in range(12):
        (folder / REFERENCE).write_bytes(original)

        def change(tensors: dict[str, Any]) -> None:
            name = [*tensors][int(dice.integers(0, len(tensors)))]
            tensors[name] = altered(tensors[name], dice)

        change_reference(folder, change)
        done = tool(folder, "--device", "cpu", *(["--keep", 2] if dice.integers(0, 2) else []))
        assert done.returncode in (0, 1, 2)
        assert done.returncode == 0 or len(done.stderr.splitlines()) == 1


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_a_budget_that_is_not_there(tool: Tool, make_bundle: MakeBundle) -> None:
    nested = make_bundle(picks=True, nested=True, rule={"name": "topk"})
    assert "must be a whole one in 1..5, got 6" in refused_alike(tool, nested, "--keep", 6, keep=6)
    assert "do not nest" in refused_alike(tool, make_bundle(), "--keep", 2, keep=2)


@pytest.mark.slow
def test_strict_fails_where_nothing_is_proven(tool: Tool, exported_once: Callable[..., Any]) -> None:
    folder = exported_once("divprune", "cpu", keep=16, precision="float16").folder
    (report,) = verify(folder, "cpu", 1)
    done = tool(folder, "--device", "cpu", "--strict")
    assert done.returncode == (0 if report.proven else 1)
    assert report.proven or "is not proven on cpu: half of the decisions on probes that are not flat" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes BUNDLE, got none"),
        (["one", "two"], "takes BUNDLE, got one, two"),
        (["b", "--device", "npu"], "--device must be one of auto, cpu, cuda, tensorrt"),
        (["b", "--threads", "0"], "--threads must be a whole number of at least 1, got 0"),
        (["b", "--keep", "x"], "--keep must be a whole number of at least 1, got x"),
        (["b", "--keep"], "option --keep requires an argument"),
        (["b", "--fast"], "no such option"),
        (["no-such-folder"], "no-such-folder"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(tool: Tool, arguments: list[str], said: str) -> None:
    done = tool(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_onnx_runtime_it_says_so(tool: Tool, make_bundle: MakeBundle) -> None:
    done = tool(make_bundle(), "--device", "cpu", "--onnxruntime", "no-such-library.so")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-library.so" in done.stderr


def test_help_and_version(tool: Tool) -> None:
    assert tool("--version").stdout == f"edgeprune-verify {__version__}\n"
    shown = tool("--help")
    assert shown.returncode == 0
    for option in ("--device", "--threads", "--keep", "--strict", "--json", "--onnxruntime"):
        assert option in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
