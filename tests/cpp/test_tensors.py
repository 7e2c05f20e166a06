"""Numbers, texts and tensors in the C library are those of Python, numpy and safetensors."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tests.cpp.answers import Ask, asking, raw


@pytest.fixture(scope="module")
def ask(cpp: Path) -> Ask:
    return asking(cpp)


def test_numbers_and_texts_have_the_canonical_form_of_python(ask: Ask) -> None:
    dice = random.Random(0)
    numbers = [number for (number,) in struct.iter_unpack("<d", dice.randbytes(80_000)) if math.isfinite(number)]
    numbers += [math.ldexp(1, power) for power in range(-1074, 1024)]
    numbers += [math.ldexp(dice.randrange(1, 1 << 20), -1074) for _ in range(1000)]
    numbers += [10.0**power for power in range(-323, 309)] + [dice.random() for _ in range(1000)]
    numbers += [round(dice.uniform(-1000, 1000), dice.randrange(8)) for _ in range(2000)]
    spelt = [f"{number:.20e}" for number in numbers]
    assert ask("canonical", [text.encode() for text in spelt]) == [json.dumps(float(text)).encode() for text in spelt]
    points = [*range(1, 0x300), 0x2028, 0xFEFF, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF]
    texts = [json.dumps({chr(point): chr(point)}, ensure_ascii=ascii) for point in points for ascii in (True, False)]
    canonical = [json.dumps(json.loads(text), separators=(",", ":")).encode() for text in texts]
    assert ask("canonical", [text.encode() for text in texts]) == canonical


def test_halves_are_those_of_numpy(cpp: Path) -> None:
    def converted(what: str, given: NDArray[Any]) -> bytes:
        return raw(cpp, what, given=given.tobytes())

    halves = np.arange(1 << 16, dtype=np.uint16)
    singles = halves.view(np.float16).astype(np.float32)
    assert converted("singles", halves) == singles.tobytes()
    finite = singles[np.isfinite(singles)]
    between = np.sort(finite).astype(np.float64)
    between = ((between[1:] + between[:-1]) / 2).astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    near = [np.nextafter(one, way) for one in (finite, between) for way in (up, down)]
    drawn = np.frombuffer(random.Random(0).randbytes(400_000), np.float32)
    given = np.concatenate([singles, between, *near, drawn])
    with np.errstate(over="ignore", invalid="ignore"):
        assert converted("halves", given) == given.astype(np.float16).tobytes()


def test_tensors_that_are_written_are_read_by_safetensors(cpp: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        "b/x": dice.normal(size=(2, 3)).astype(np.float32), "h": dice.normal(size=5).astype(np.float16),
        "é": np.arange(3, dtype=np.int64), "none": np.zeros((0, 2), np.float32), "one": np.array(7, np.uint8),
        "bool": np.array([True, False, True]), "i": np.arange(-2, 2, dtype=np.int32), "s": np.array([-1], np.int8),
    }  # fmt: skip
    save_file(tensors, tmp_path / "a")
    raw(cpp, "copy", tmp_path / "a", tmp_path / "b")
    read = load_file(tmp_path / "b")
    assert set(read) == set(tensors)
    assert all(read[name].dtype == one.dtype and np.array_equal(read[name], one) for name, one in tensors.items())


def places(header: dict[str, Any]) -> list[Any]:
    """The arrays and objects of a header that are not empty."""
    entries = [one for one in header.values() if isinstance(one, dict)]
    return [one for one in (header, *entries, *(value for entry in entries for value in entry.values()))
            if isinstance(one, (dict, list)) and one]  # fmt: skip


def test_safetensors_files_changed_at_random_are_refused_alike(ask: Ask, tmp_path: Path) -> None:
    """Where one of them alone refuses a file, it is this library, for a reason that stands in its source."""
    dice, files, theirs = random.Random(0), [], []
    good = {name: {"dtype": "F32", "shape": [size, 2], "data_offsets": [8 * at, 8 * (at + size)]}
            for name, at, size in (("a", 0, 3), ("b", 3, 1), ("c", 4, 0))}  # fmt: skip
    numbers = [-1, 0, 1, 2, 8, 24, 32, 1 << 31, 1 << 62, (1 << 63) - 1, 1.0, "1", None]
    for at in range(600):
        header: Any = copy.deepcopy(good) | ({"__metadata__": {"x": "y"}} if at % 3 == 0 else {})
        for _ in range(dice.randrange(3)):
            place = dice.choice(places(header))
            key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place[key] = dice.choice([*numbers, [], {}, "F16", "U8", [4, 2], [24, 40]])
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        length = len(text) + dice.choice([0] * 20 + [1, -1, 1 << 40])
        path = tmp_path / str(at)
        path.write_bytes(struct.pack("<Q", length) + text + bytes(32 + dice.choice([0] * 9 + [-1, 1, 8])))
        files.append(path)
        try:
            with safe_open(path, "numpy") as opened:
                opened.keys()
            theirs.append("")
        except SafetensorError as error:
            theirs.append(str(error))
    ours = [line.decode() for line in ask("tensors", [os.fsencode(path) for path in files])]
    alone = [line for line, their in zip(ours, theirs, strict=True) if line and not their]
    assert all("is not aligned" in line for line in alone), alone
    assert not [their for line, their in zip(ours, theirs, strict=True) if their and not line]
    assert 100 < sum(map(bool, theirs)) < 500
