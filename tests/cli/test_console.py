"""What reaches a terminal: text of files is text, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from edgeprune.bundle import MANIFEST, describe_files
from edgeprune.bundle.manifest import digest
from edgeprune.cli.console import display, leave, say, warn

Run = Callable[..., Any]
ESCAPE = "\x1b]0;title\x07\x1b[31mred\r\u202e"


def test_escape_sequences_are_spelt_out_wherever_a_line_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    warn(ESCAPE)
    say(ESCAPE)
    display(ESCAPE)
    with pytest.raises(SystemExit):
        leave(ESCAPE, 2)
    for printed in capfd.readouterr():
        assert all(one.isprintable() or one == "\n" for one in printed)
        assert "x1b" in printed
        assert "red" in printed


def test_a_probe_whose_name_would_paint_the_terminal_is_only_named(run: Run, make_bundle: Callable[..., Path]) -> None:
    """No manifest may hold such text; the names of probes stand in another file."""
    folder = make_bundle()
    tensors = load_file(folder / "reference.safetensors")
    painted = {key.replace("scene00", "scene\x1b[2J"): value for key, value in tensors.items()}
    save_file(painted, folder / "reference.safetensors")
    given = json.loads((folder / MANIFEST).read_text())
    one = describe_files(folder)["reference.safetensors"]
    given["files"]["reference.safetensors"] = {"size": one.size, "sha256": one.sha256}
    given.pop("digest")
    (folder / MANIFEST).write_text(json.dumps({**given, "digest": digest(given)}))
    done = run("verify", folder, "--device", "cpu")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "scene" in done.out
