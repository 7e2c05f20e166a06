"""The rules of parity in C++ have the verdicts of Python: on what is right, on planted faults, on what is odd."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from edgeprune import pruners
from edgeprune.pruners import forestprune
from edgeprune.runtime.parity.stored import replayed
from tests.covering import parted
from tests.cpp.judging import Case, differences, judged
from tests.device import KEEP, Device, handed, of_probes, of_scenes
from tests.device_of_steps import stepping
from tests.pruners.test_forestprune import X, both
from tests.runtime.parity import test_faults as faults
from tests.runtime.parity import test_faults_of_outputs as outputs
from tests.runtime.parity import test_inside as steps

Arrays: TypeAlias = "dict[str, np.ndarray]"
NAMES = [name for name in pruners.names() if name not in ("bavit", "none")]
PRECISIONS = ("float32", "float16")
PARTS = parted({"": NAMES})
"""methods of each rule, and all others"""


def case(
    device: Device, name: str, precision: str, fault: Callable[[Arrays], Arrays] = lambda got: got, keep: int = KEEP
) -> Case:
    """A method's outputs, with or without a fault in them, against its reference."""
    method = device.method(name, keep)
    reference, quantities = device.reference(name, keep)
    whole = bool(method.steps(device.encoder.layer))
    got = fault(device.healthy(name, precision, keep))
    return Case(reference, got, precision, method.rule(device.encoder.patches), quantities, whole)


def agree(build: Path, folder: Path, cases: dict[str, Case]) -> list[dict[str, Any]]:
    """Both have the same verdict of each; which."""
    verdicts = judged(build, folder, cases.values())
    wanted = [one.verdict() for one in cases.values()]
    apart = {
        label: differences(one, other)
        for label, one, other in zip(cases, verdicts, wanted, strict=True)
        if differences(one, other)
    }
    assert apart == {}
    return wanted


@pytest.mark.parametrize(("_", "names"), PARTS)
def test_every_method_has_the_same_verdict(cpp: Path, tmp_path: Path, _: str, names: list[str]) -> None:
    cases = {f"{name} {one}": case(of_scenes(), name, one) for name in names for one in PRECISIONS}
    assert all(one["passed"] for one in agree(cpp, tmp_path, cases))


@pytest.mark.slow
def test_every_method_has_the_same_verdict_of_flat_images_too(cpp: Path, tmp_path: Path) -> None:
    cases = {f"{name} {one}": case(of_probes(), name, one) for name in NAMES for one in PRECISIONS}
    agree(cpp, tmp_path, cases)


@pytest.mark.slow
def test_where_everything_is_kept_nothing_is_decided_by_either(cpp: Path, tmp_path: Path) -> None:
    every = of_scenes().encoder.patches
    names = ["fastervlm", "uniform", "divprune", "dpp", "scope", "received"]
    agree(cpp, tmp_path, {name: case(of_scenes(), name, "float32", keep=every) for name in names})


@pytest.mark.parametrize(("_", "names"), PARTS)
def test_a_fault_in_what_comes_out_has_the_same_reasons(cpp: Path, tmp_path: Path, _: str, names: list[str]) -> None:
    cases = {
        f"{name} {fault.__name__}": case(of_scenes(), name, "float16", fault)
        for fault, every in [*outputs.OUTPUTS.items(), *((fault, faults.METHODS) for fault in faults.OUTPUTS)]
        for name in every
        if name in names and (name, fault.__name__, "float16") not in faults.UNSEEN
    }
    assert not any(one["passed"] for one in agree(cpp, tmp_path, cases))


BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
NONE = {"regret": 1e-9, "token_median": 1e-9, "token_each": 1e-9}
"""which nothing holds"""


@pytest.mark.parametrize(("_", "names"), PARTS)
def test_what_is_judged_by_bounds_has_the_same_verdict(cpp: Path, tmp_path: Path, _: str, names: list[str]) -> None:
    """What each rule's choices lost, to the last bits, and the words for it."""
    swapped = faults.a_dropped_patch_in_place_of_a_kept_one
    choosing = [name for name in faults.METHODS if name in names]
    plain = {f"{name} {one}": case(of_scenes(), name, one) for name in names for one in PRECISIONS}
    plain |= {f"{name} swapped": case(of_scenes(), name, "float16", swapped) for name in choosing}
    plain |= {f"step {name}": stepped(name, "float16") for name in REDUCERS}
    cases = {
        f"{label} {at}": replace(one, bounds=bounds)
        for label, one in plain.items()
        for at, bounds in enumerate((BOUNDS, NONE))
    }
    verdicts = agree(cpp, tmp_path, cases)
    assert {one["passed"] for one in verdicts} == {True, False}
    assert sum(one["lost"] > 0 for one in verdicts) > len(choosing)


REDUCERS = ["cells", "drop", "nearest", "pitome", "tome", "zero_tprune"]
"""one for each rule of a step"""


def stepped(name: str, precision: str, method: str = "fastervlm") -> Case:
    device = stepping(name, method)
    reference, quantities = device.reference()
    return Case(reference, device.healthy(precision), precision, device.rule, quantities, True)


def test_every_rule_of_a_step_has_the_same_verdict(cpp: Path, tmp_path: Path) -> None:
    cases = {f"{name} {one}": stepped(name, one) for name in REDUCERS for one in PRECISIONS}
    cases["drop divprune"] = stepped("drop", "float16", "divprune")
    assert all(one["passed"] for one in agree(cpp, tmp_path, cases))


def test_what_cannot_be_a_step_has_the_same_reasons(cpp: Path, tmp_path: Path) -> None:
    cases = {
        fault: Case(steps.dropped(), steps.dropped(**changes), "float32", steps.DROP, {}, True)
        for fault, (changes, _) in steps.MALFORMED.items()
    }
    assert not any(one["passed"] for one in agree(cpp, tmp_path, cases))


def test_what_goes_to_the_next_frame_has_the_same_verdict(cpp: Path, tmp_path: Path) -> None:
    right = steps.dropped(**steps.VIDEO)
    given = {"right": right, "off": steps.dropped(**steps.OFF), "behind": steps.dropped(**steps.OTHER, **steps.OFF)}
    cases = {name: Case(right, got, "float32", steps.DROP, {}, True) for name, got in given.items()}
    assert [one["passed"] for one in agree(cpp, tmp_path, cases)] == [True, False, False]


@pytest.mark.slow
def test_every_verdict_of_the_tests_of_parity_is_the_same(cpp: Path, tmp_path: Path) -> None:
    """All that `compare` was given there: faults in what is read, chosen and handed out, and what is not a number."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    tests = sorted(str(path) for path in Path(faults.__file__).parent.glob("test_faults*.py"))
    plugins = ("-p", "tests.cpp.recording", "-p", "no:cacheprovider", "-p", "no:xdist")
    environment = {**os.environ, "EDGEPRUNE_RECORD": str(folder)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *tests]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout[-2000:]
    count = 0
    for file in sorted(folder.iterdir()):
        recorded = pickle.loads(file.read_bytes())
        verdicts = judged(cpp, tmp_path / "judged", [one for _, one, _ in recorded])
        for (label, _, wanted), verdict in zip(recorded, verdicts, strict=True):
            assert differences(verdict, wanted) == {}, label
            count += 1
    assert count > 1500


@pytest.mark.slow
def test_trees_over_frames_have_the_same_verdict(cpp: Path, tmp_path: Path) -> None:
    """With what a device chose, which is right; and with each output of it of another video, or a little changed."""
    for keep in (24, 60):
        method = forestprune.Method(keep)
        static, official = both(X[:6], method)
        wanted, right = (handed(method, X[:6], one) for one in (official, static))
        quantities = replayed({name: value.float().numpy() for name, value in official.quantities.items()})
        changed = {name: {**right, name: value[::-1].copy()} for name, value in right.items()}
        changed |= {f"{at} of order": {**right, "order": shuffled(right["order"], at)} for at in range(12)}
        changed |= {"right": right, "worth": {**right, "worth": right["worth"] * np.float32(1.01)}}
        given = {name: (got, "float32") for name, got in changed.items()}
        given["float16"] = {**right, "tokens": right["tokens"].astype(np.float16)}, "float16"
        rule = method.rule(right["scores"].shape[1])
        cases = {name: Case(wanted, got, dtype, rule, quantities) for name, (got, dtype) in given.items()}
        cases |= {f"{name} by bounds": replace(one, bounds=BOUNDS) for name, one in cases.items()}
        verdicts = dict(zip(cases, agree(cpp, tmp_path, cases), strict=True))
        assert verdicts["right"]["passed"]
        assert sum(one["wrong"] > 0 for one in verdicts.values()) > 12


def shuffled(order: np.ndarray, seed: int) -> np.ndarray:
    """Some trees, or how many patches are like one, exchanged."""
    dice, order = np.random.default_rng(seed), order.copy()
    half = order.shape[1] // 2 * (seed % 2) + np.arange(order.shape[1] // 2)
    some = dice.choice(half, 2 + seed // 3, replace=False)
    order[:, some] = order[:, np.roll(some, 1)]
    return order


# --- what is odd ------------------------------------------------------------------------------------------------------


def drawn() -> np.random.Generator:
    return np.random.default_rng(5)


def lines(rows: int, patches: int, keep: int, width: int) -> tuple[Arrays, Arrays]:
    """A reference of so many images, and a device that differs from it by rounding."""
    scores = drawn().random((rows, patches)).astype(np.float32)
    indices = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :keep], axis=1).astype(np.int32)
    tokens = drawn().standard_normal((rows, keep, width)).astype(np.float32)
    reference = {"tokens": tokens, "indices": indices, "scores": scores}
    other = tokens + 1e-6 * drawn().standard_normal(tokens.shape).astype(np.float32)
    return reference, {**reference, "tokens": other}


TOPK = {"name": "topk"}


@pytest.mark.parametrize("width", [1, 7, 8, 100, 128, 129, 1000])
def test_sums_of_any_length_are_the_same_to_the_last_bit(cpp: Path, tmp_path: Path, width: int) -> None:
    reference, got = lines(2, 40, 9, width)
    one = Case(reference, got, "float32", TOPK, {})
    assert judged(cpp, tmp_path, [one]) == [one.verdict()]


def test_gains_of_many_patches_are_the_same_to_the_last_bit(cpp: Path, tmp_path: Path) -> None:
    """Sums over more than 128 of them are made of halves."""
    patches, keep = 300, 12
    features = drawn().standard_normal((patches, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    quantities = {
        "similarity": (features @ features.T).astype(np.float32)[None],
        "products": (features @ features.T).astype(np.float32)[None],
        **{name: drawn().random((1, patches)).astype(np.float32) for name in ("saliency", "first", "sensitivity")},
    }
    picks = drawn().permutation(patches)[None, :keep].astype(np.int32)
    scores = np.full((1, patches), -np.inf, np.float32)
    np.put_along_axis(scores, picks.astype(np.int64), drawn().random((1, keep)).astype(np.float32), 1)
    got = {"indices": np.sort(picks, axis=1), "scores": scores, "picks": picks}
    got["tokens"] = drawn().standard_normal((1, keep, 8)).astype(np.float32)
    rules: list[dict[str, Any]] = [{"objective": one} for one in ("max-min", "max-sum", "coverage")]
    rules += [{"objective": "determinant", "smallest": 1e-6}, {"objective": "distance", "flat": 1e-6}]
    rules += [{"objective": "volume"}, {"objective": "apart"}]
    cases = [Case(got, got, "float32", {"name": "greedy", **rule}, quantities) for rule in rules]
    assert judged(cpp, tmp_path, cases) == [one.verdict() for one in cases]


def test_rows_of_other_kinds_are_the_same(cpp: Path, tmp_path: Path) -> None:
    """Positions, which are the same of all images, further features, a detector's rows, a classifier's logits, rows
    that are all zeros."""
    reference, got = lines(2, 40, 9, 24)
    positions = np.sort(drawn().integers(0, 40, (3, 9)), axis=1)
    deep = drawn().standard_normal((2, 9, 3, 5)).astype(np.float32)
    extras: Arrays = {"positions": positions, "deep": deep}
    moved: Arrays = {"positions": positions + 1, "deep": np.roll(deep, 1, axis=1)}
    rows = {name: reference[name] for name in ("indices", "scores")}
    detector = {**rows, "logits": reference["tokens"], "pred_boxes": reference["tokens"][..., :4]}
    found = {**rows, "logits": got["tokens"], "pred_boxes": 1.5 * got["tokens"][..., :4]}
    classifiers = {**rows, "logits": reference["tokens"][:, 0]}, {**rows, "logits": got["tokens"][:, 0]}
    zeros = {**reference, "tokens": np.zeros_like(reference["tokens"])}
    swapped = {**reference, "indices": np.sort(np.argsort(reference["scores"])[:, :9], axis=1).astype(np.int32)}
    swapped["scores"] = -reference["scores"]
    cases = {
        "extras": Case({**reference, **extras}, {**got, **extras}, "float32", TOPK, {}),
        "extras moved": Case({**reference, **extras}, {**got, **moved}, "float32", TOPK, {}),
        "of three images": Case(*(lines(3, 40, 9, 4)), "float32", TOPK, {}),
        "detector": Case(detector, found, "float32", TOPK, {}),
        "classifier": Case(*classifiers, "float32", TOPK, {}),
        "classifier, the logits of another": Case(
            classifiers[0], {**rows, "logits": got["tokens"][:, 1]}, "float32", TOPK, {}
        ),
        "zeros": Case(zeros, got, "float32", TOPK, {}),
        "zeros twice": Case(zeros, zeros, "float32", TOPK, {}),
        "another set": Case(reference, swapped, "float32", TOPK, {}, False),
        "another set, whole": Case(reference, swapped, "float32", TOPK, {}, True),
        "shares": Case(reference, got, "float32", {"name": "topk", "shares": True}, {}),
        "float16": Case(reference, got, "float16", TOPK, {}),
    }
    agree(cpp, tmp_path, cases)


KINDS = [np.float32, np.float16, np.int32, np.int64, np.uint8, np.int8, np.bool_]


def altered(value: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Of another shape, another dtype, or with a number that does not belong there."""
    how = int(dice.integers(0, 9)) if value.ndim else 8
    if how < 3:
        return [value[:1], value[:0], value.reshape(-1)][how]
    if how < 6 and value.ndim > 1:
        return [value[:, :-1], np.concatenate([value, value[:, :1]], axis=1), value[..., None]][how - 3]
    if how == 6:
        with np.errstate(all="ignore"):
            changed: np.ndarray = value.astype(KINDS[dice.integers(0, len(KINDS))])
            return changed
    if how == 7 and value.size:
        value = value.copy()
        wild = [-1, 0, 1, 5, 100] + ([1.5, np.nan, np.inf] if value.dtype.kind == "f" else [])
        value[tuple(dice.integers(0, size) for size in value.shape)] = dice.choice(wild)
        return value
    return np.zeros((), value.dtype)


def altered_case(one: Case, dice: np.random.Generator) -> Case:
    reference, got, quantities, rule = dict(one.reference), dict(one.got), dict(one.quantities), dict(one.rule)
    for _ in range(int(dice.integers(1, 3))):
        side = [reference, got, quantities, rule][int(dice.integers(0, 4))]
        names = [name for name in side if name != "indices"]
        if not names:
            continue
        name = names[int(dice.integers(0, len(names)))]
        if side is rule:
            rule[name] = [0, 1, -1, 3, "x", [1, 2], [], None, 2.5, 10**9, True][int(dice.integers(0, 11))]
            continue
        seed = int(dice.integers(0, 1 << 30))
        side[name] = altered(side[name], np.random.default_rng(seed))
        if side is reference and name in got and dice.integers(0, 2):  # the device, too
            got[name] = altered(got[name], np.random.default_rng(seed))
    return Case(reference, got, one.dtype, rule, quantities, one.whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_what_a_hand_put_there_is_no_crash_and_never_passes_where_python_fails(
    cpp: Path, tmp_path: Path, seed: int
) -> None:
    """Python stretches some arrays that C++ refuses; where both have a verdict, it is the same one."""
    dice = np.random.default_rng(seed)
    healthy = [case(of_scenes(), name, one) for name in NAMES for one in PRECISIONS]
    healthy += [stepped(name, one) for name in REDUCERS for one in PRECISIONS]
    cases = [altered_case(healthy[int(dice.integers(0, len(healthy)))], dice) for _ in range(400)]
    both = 0
    for one, verdict in zip(cases, judged(cpp, tmp_path, cases), strict=True):
        with np.errstate(all="ignore"):
            try:
                wanted = one.verdict()
            except Exception:  # numpy has errors of all kinds for what does not fit
                assert not verdict.get("passed")
                continue
        if "refused" in verdict:
            assert verdict["refused"].startswith("reference.safetensors is not that of the graph (")
            assert verdict["refused"].endswith("); export the bundle again")
        else:
            assert differences(verdict, wanted) == {}
            both += 1
    assert both > 100
