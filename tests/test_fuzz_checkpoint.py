"""Checkpoints that are not what they should be: each of 250 seeded mutations loads, or is refused in one line.

A mutation changes one place of config.json or of the header of model.safetensors: takes it away, gives it a wild value,
or that of another place. In-process, the loading alone.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.errors import RequestError
from tests.covering import always

MakeFolder = Callable[..., Path]
WILD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 7, 2**20, 2**31, 10**30, -0.5, 1e308, float("nan"), float("inf"),
    "", "x", "32", "\x1b[31m", [], [0], [8, 8], ["a"], [[1]], {}, {"a": 1}, {"model_type": "clip"},
)  # fmt: skip
DTYPES = ("F64", "F16", "BF16", "I8", "U8", "F8_E4M3", "F4", "C64", "BOOL", "XX", "")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield (*path, name)
        yield from places(one, (*path, name))


def mutated(value: Any, chance: random.Random, wild: tuple[Any, ...] = WILD) -> Any:
    """A copy with one place changed."""
    copy: Any = json.loads(json.dumps(value))
    *way, last = chance.choice([*places(copy)])
    part, kind = copy, chance.random()
    for name in way:
        part = part[name]
    if kind < 0.15:
        del part[last]
    elif kind < 0.3:
        other: Any = value
        for name in chance.choice([*places(value)]):
            other = other[name]
        part[last] = other
    else:
        part[last] = chance.choice(wild)
    return copy


def mutated_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with its header changed in one place, its length kept where the file says so."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = chance.random()
    if kind < 0.25:
        header[chance.choice([name for name in header if name != "__metadata__"])]["dtype"] = chance.choice(DTYPES)
    elif kind < 0.4:
        name = chance.choice(sorted(header))
        header[chance.choice((f"{name}x", f"module.{name}", f"{name}.lora_A", "", "\n"))] = header.pop(name)
    else:
        header = mutated(header, chance)
    text = json.dumps(header).encode()
    said = chance.choice((0, 1, 2**40)) if kind > 0.95 else len(text)
    return struct.pack("<Q", said) + text + (data[: len(data) // 2] if 0.9 < kind < 0.95 else data)


@pytest.fixture(scope="module")
def folders(
    clip_folder: MakeFolder,
    llava_folder: MakeFolder,
    model_folder: MakeFolder,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    root = tmp_path_factory.mktemp("fuzz")
    return [
        clip_folder(root / "clip", num_hidden_layers=2),
        clip_folder(root / "whole", "CLIPModel", num_hidden_layers=2),
        llava_folder(root / "llava", num_hidden_layers=2),
        model_folder(root / "dinov2", "Dinov2Model", num_hidden_layers=2),
        model_folder(root / "yolos", "YolosForObjectDetection", num_hidden_layers=2, image_size=[48, 48]),
    ]


def outcome(folder: Path) -> str | None:
    """The refusal, or None when it loads to numbers."""
    try:
        encoder = encoders.load(open_checkpoint(str(folder)))
    except RequestError as error:
        return str(error)
    assert all(torch.isfinite(one).all() for one in encoder.tower.module.parameters())
    return None


@pytest.mark.parametrize(
    ("file", "count"),
    always(
        [("config.json", 40), ("config.json", 125), ("model.safetensors", 125)],
        ("config.json", 40),
        ("model.safetensors", 125),
    ),
)
def test_a_mutated_checkpoint_loads_or_is_refused_in_one_line(folders: list[Path], file: str, count: int) -> None:
    chance, said = random.Random(0), []
    for at in range(count):
        path = folders[at % len(folders)] / file
        before = path.read_bytes()
        if file == "config.json":
            path.write_text(json.dumps(mutated(json.loads(before), chance)))
        else:
            path.write_bytes(mutated_header(before, chance))
        try:
            said.append(outcome(path.parent))
        finally:
            path.write_bytes(before)
    refused = [one for one in said if one is not None]
    assert all(0 < len(one) < 1000 and len(one.splitlines()) == 1 for one in refused)
    assert count / 6 < len(refused) < count - 1
    assert [outcome(folder) for folder in folders] == [None] * len(folders)
