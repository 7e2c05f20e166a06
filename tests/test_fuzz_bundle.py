"""Mutated bundles, through the command line's own handling of errors: each is what it was, or refused in one line.

    manifest.json, as bytes          refused, or the same bundle
    manifest.json, its digest right  whatever a hand could write: a verdict, or one line
    encoder.onnx, sizes and sha256 right; reference.safetensors, likewise

Seeded: the same mutations every time.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bundle import MANIFEST, describe_files
from edgeprune.bundle.manifest import digest
from edgeprune.cli import main
from tests.covering import always

MakeBundle = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
Mutation = Callable[[bytes, random.Random], bytes]

HOSTILE: list[Any] = [
    None, True, 0, -1, 97, 2**31, 2**62, 0.5, -1e308, "", "x", "../x", "/dev/zero", "\x1b[31mred", "\u202e", "float16",
    "batch", "NaN", [], [0], [1, 2, 3], [[]], {}, {"name": "greedy"}, {"shape": [-1], "dtype": "float32"},
]  # fmt: skip
"""values that a field may be given instead of its own"""


@pytest.fixture
def folder(make_bundle: MakeBundle) -> Path:
    return make_bundle(picks=True, nested=True, rule={"name": "topk"}, cost={"formula": 1, "graph": 1})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """(arguments) -> exit code, stdout, stderr"""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def is_an_answer(done: tuple[int, str, str], parity: bool = False) -> bool:
    """One line and exit 2; or, of verify, a bundle that is well and a device that fails."""
    code, out, err = done
    if "unexpected" in err or "Traceback" in err or len(err.splitlines()) > 1 or not printable(out + err):
        return False
    return code == 2 and err.startswith("edgeprune: ") if err and not parity else code in (0, 1, 2)


def printable(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


def flipped(data: bytes, drawn: random.Random) -> bytes:
    changed = bytearray(data)
    changed[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def cut_off(data: bytes, drawn: random.Random) -> bytes:
    return data[: drawn.randrange(len(data))]


def overwritten(data: bytes, drawn: random.Random) -> bytes:
    at, size = drawn.randrange(len(data)), drawn.randrange(1, 9)
    return data[:at] + drawn.randbytes(size) + data[at + size :]


def doubled(data: bytes, drawn: random.Random) -> bytes:
    at, end = sorted(drawn.randrange(len(data)) for _ in range(2))
    return data[:end] + data[at:]


BYTES: tuple[Mutation, ...] = (flipped, flipped, cut_off, overwritten, doubled)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a tree of JSON."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in parts:
        yield (*path, name)
        yield from places(inner, (*path, name))


def changed(given: dict[str, Any], drawn: random.Random) -> dict[str, Any]:
    """One value taken out, or put in the place of another, or another name for it."""
    given = copy.deepcopy(given)
    *way, last = drawn.choice([*places(given)])
    inner: Any = given
    for step in way:
        inner = inner[step]
    how = drawn.randrange(8)
    if how == 0:
        del inner[last]
    elif how == 1 and isinstance(inner, dict):
        inner[drawn.choice(["x", "\x1b]0;t\x07", "tokens", "../up"])] = inner.pop(last)
    else:
        inner[last] = copy.deepcopy(drawn.choice(HOSTILE))
    return given


def sealed(folder: Path, given: dict[str, Any]) -> None:
    given.pop("digest", None)
    (folder / MANIFEST).write_text(json.dumps({**given, "digest": digest(given)}))


def refile(folder: Path) -> None:
    """Sizes and sha256 of the files as they are now, and a digest that is right again."""
    given = json.loads((folder / MANIFEST).read_text())
    files = {name: {"size": one.size, "sha256": one.sha256} for name, one in describe_files(folder).items()}
    sealed(folder, {**given, "files": files})


@pytest.mark.parametrize("seed", always(range(50), *range(20)))
def test_bytes_of_a_manifest(folder: Path, run: Run, seed: int) -> None:
    drawn, path = random.Random(seed), folder / MANIFEST
    before = run("inspect", folder, "--json")[:2]
    path.write_bytes(drawn.choice(BYTES)(path.read_bytes(), drawn))
    done = run("inspect", folder, "--json")
    assert is_an_answer(run("inspect", folder))
    assert done[0] == 2 or done[:2] == before


@pytest.mark.parametrize("seed", always(range(100), *range(30)))
def test_a_manifest_by_another_hand(folder: Path, run: Run, seed: int) -> None:
    drawn = random.Random(1000 + seed)
    sealed(folder, changed(json.loads((folder / MANIFEST).read_text()), drawn))
    assert is_an_answer(run("inspect", folder))
    assert is_an_answer(run("verify", folder, "--device", "cpu"), parity=True)


@pytest.mark.parametrize("name", ["encoder.onnx", "reference.safetensors"])
@pytest.mark.parametrize("seed", always(range(50), *range(15)))
def test_a_graph_or_a_reference_by_another_hand(folder: Path, run: Run, seed: int, name: str) -> None:
    drawn, path = random.Random(2000 + seed), folder / name
    path.write_bytes(drawn.choice(BYTES)(path.read_bytes(), drawn))
    refile(folder)
    assert is_an_answer(run("verify", folder, "--device", "cpu"), parity=True)
