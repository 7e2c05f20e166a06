"""build.sh is run by a real bash, with a trtexec that writes down what it was given."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeprune import targets
from edgeprune.export.recipe import build_script
from edgeprune.runtime.adopt import note_of

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
    (folder / "encoder.onnx").write_bytes(b"a graph")
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


def test_a_builder_that_chooses_types_is_allowed_int8_where_the_graph_has_it() -> None:
    """A strongly typed one takes the types of the graph, and TensorRT 11 refuses such a flag."""
    for name, flag in (("jetson-orin-jp60", True), ("jetson-orin", False), ("jetson-orin-jp72", False)):
        script = build_script(targets.load(name), quantised=True)
        assert ("--int8" in str(script)) is flag
        assert "--int8" not in str(build_script(targets.load(name)))
    assert '"--int8"' in str(build_script(targets.load("jetson-orin-jp60"), quantised=True))  # noted for --adopt


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


def test_what_the_engine_was_built_of_and_by_stands_beside_it(tmp_path: Path) -> None:
    """So that `edgeprune build --adopt` need not be told (`edgeprune.runtime.adopt`)."""
    trtexec = Path(__file__).parents[1] / "fake_board" / "trtexec"
    (tmp_path / "encoder.onnx.data").write_bytes(b"weights")
    (tmp_path / "words").touch()
    orin = targets.load("jetson-orin")
    run(tmp_path, orin, TRTEXEC=str(trtexec))
    note = note_of(tmp_path / "encoder.jetson-orin.plan")
    assert note is not None
    assert (note.release, note.gpu, note.capability) == ("10.3.0", "Orin", "8.7")
    assert note.system == f"{platform.system()} {platform.machine()}"
    assert note.flags == orin.engine.build_flags
    assert note.files == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("encoder.jetson-orin.plan", "encoder.onnx", "encoder.onnx.data")
    }


def test_an_engine_that_the_manifest_lists_is_not_replaced_behind_its_back(tmp_path: Path, trtexec: Path) -> None:
    """Its size and hash would be those of another one: the bundle could not be loaded any more."""
    (tmp_path / "manifest.json").write_text('{"files": {"encoder.jetson-orin.plan": {}}}')
    (tmp_path / "encoder.jetson-orin.plan").write_bytes(b"listed")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run(tmp_path, targets.load("jetson-orin"), TRTEXEC=str(trtexec))
    assert refused.value.returncode == 2
    assert refused.value.stderr == (
        "build.sh: manifest.json lists encoder.jetson-orin.plan; build it again with `edgeprune build . --force`\n"
    )
    assert (tmp_path / "encoder.jetson-orin.plan").read_bytes() == b"listed"
