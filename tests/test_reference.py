"""The reference is independent of what it judges."""

from __future__ import annotations

import ast
from pathlib import Path

import torch

import edgeprune.reference
from edgeprune import encoders
from edgeprune.checkpoint import open_checkpoint
from edgeprune.pruners import fastervlm
from edgeprune.reference import OfficialEncoder


def test_it_imports_neither_the_selection_nor_the_taps_of_the_traced_path() -> None:
    tree = ast.parse(Path(edgeprune.reference.__file__).read_text())
    names = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    forbidden = {"edgeprune.taps.Taps", "edgeprune.pruners._select.take"}
    assert not names & forbidden
    others = ("edgeprune.pruners._select", "edgeprune.trace", "edgeprune.export")
    assert not any(name.startswith(others) for name in names)


def test_a_pruned_reference_is_rows_of_the_unpruned_one() -> None:
    tiny, pixels = encoders.load(open_checkpoint()), torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        everything = OfficialEncoder(tiny, fastervlm.Method(144))(pixels)
        some = OfficialEncoder(tiny, fastervlm.Method(16))(pixels)
    assert torch.equal(some[0][0], everything[0][0][some[1][0].long()])
    assert set(some[1][0].tolist()) == set(everything[2][0].topk(16).indices.tolist())


def test_it_restores_the_towers_attention() -> None:
    tiny = encoders.load(open_checkpoint())
    before = tiny.tower.module.config._attn_implementation  # type: ignore[union-attr]
    with torch.inference_mode():
        OfficialEncoder(tiny, fastervlm.Method(4))(torch.randn(1, 3, 96, 96))
    assert tiny.tower.module.config._attn_implementation == before  # type: ignore[union-attr]
