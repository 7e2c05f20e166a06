"""build.sh is run by a real bash, with a trtexec that writes down what it was given."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeprune import targets
from edgeprune.export.recipe import build_script

TRTEXEC = """#!/bin/sh
for word in "$@"; do echo "$word" >> words; case "$word" in --saveEngine=*) : > "${word#--saveEngine=}";; esac; done
"""


def run(folder: Path, target: targets.Target, **variables: str) -> tuple[list[str], str]:
    """The words that trtexec was given, and what the script said; it must end well."""
    script = build_script(target)
    assert script is not None
    return executed(folder, script, **variables)


def executed(folder: Path, script: str, **variables: str) -> tuple[list[str], str]:
    (folder / "build.sh").write_text(script)
    done = subprocess.run(
        ["bash", "build.sh"], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return (folder / "words").read_text().splitlines(), done.stdout


@pytest.fixture
def trtexec(tmp_path: Path) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    (tmp_path / "trtexec").write_text(TRTEXEC)
    (tmp_path / "trtexec").chmod(0o755)
    return tmp_path / "trtexec"


def test_trtexec_is_given_the_flags_of_the_target_and_the_plan_takes_its_name(tmp_path: Path, trtexec: Path) -> None:
    orin = targets.load("jetson-orin")
    words, said = run(tmp_path, orin, TRTEXEC=str(trtexec))
    assert words[:2] == ["--onnx=encoder.onnx", "--saveEngine=encoder.jetson-orin.plan.partial"]
    assert words[2 : 2 + len(orin.engine.build_flags)] == list(orin.engine.build_flags)
    assert (tmp_path / "encoder.jetson-orin.plan").exists()
    assert f"{trtexec} --loadEngine=encoder.jetson-orin.plan {' '.join(orin.bench.flags)}" in said


def test_a_pattern_among_the_flags_reaches_trtexec_as_it_is(tmp_path: Path, trtexec: Path) -> None:
    """Files that it would match lie there."""
    orin = targets.load("jetson-orin")
    (tmp_path / "--layerPrecisions=a:fp32").touch()
    engine = dataclasses.replace(orin.engine, build_flags=("--layerPrecisions=*:fp32",))
    words, _ = run(tmp_path, dataclasses.replace(orin, engine=engine), TRTEXEC=str(trtexec))
    assert "--layerPrecisions=*:fp32" in words


def test_layers_that_float16_cannot_hold_are_named_to_trtexec_as_one_word(tmp_path: Path, trtexec: Path) -> None:
    """Names are of tensors in a checkpoint, so that they may be anything."""
    nodes = ("encoder.layers.2/Add", "$(touch pwned)'; touch pwned; '")
    script = build_script(targets.load("jetson-orin-jp60"), float32_nodes=nodes)
    assert script is not None
    words, _ = executed(tmp_path, script, TRTEXEC=str(trtexec))
    assert "--precisionConstraints=obey" in words
    assert f"--layerPrecisions={nodes[0]}:fp32,{nodes[1]}:fp32" in words
    assert not (tmp_path / "pwned").exists()
    assert "recision" not in str(build_script(targets.load("jetson-orin-jp60")))


def test_even_what_a_target_may_not_say_is_only_text_to_the_shell(tmp_path: Path, trtexec: Path) -> None:
    """`targets.check` refuses these before; the script does not rely on it."""
    orin = targets.load("jetson-orin")
    assert orin.jetson is not None
    bad = "$(touch pwned)`touch pwned`'; touch pwned; '"
    target = dataclasses.replace(
        orin,
        bench=targets.Bench((bad,)),
        engine=dataclasses.replace(orin.engine, build_flags=(bad,)),
        jetson=dataclasses.replace(orin.jetson, trtexec=bad),
    )
    words, _ = run(tmp_path, target, TRTEXEC=str(trtexec))
    assert bad in words
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(subprocess.CalledProcessError):  # there is no program of such a name
        run(tmp_path, target)
    assert not (tmp_path / "pwned").exists()
