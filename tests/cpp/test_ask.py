"""The example that asks a whole model without Python: libedgeprune for the encoder, onnxruntime-genai behind it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.export.assemble import Assembly
from tests.cpp.conftest import ROOT

QUESTION = "what color is the square?"


@pytest.fixture(scope="module")
def genai() -> Path:
    """The library inside the wheel, which has no header of its own."""
    found = importlib.util.find_spec("onnxruntime_genai")
    for place in (found.submodule_search_locations or ()) if found else ():
        for library in Path(place).glob("libonnxruntime-genai.so"):
            return library
    pytest.skip("no onnxruntime-genai here")


@pytest.fixture(scope="module")
def model(assembled_once: Callable[..., Assembly]) -> Path:
    return assembled_once().folder


@pytest.fixture(scope="module")
def pictures(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Those of the stored questions as PPM."""
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    for path in sorted((model / "questions").glob("*.png")):
        found[path.name] = folder / f"{path.stem}.ppm"
        Image.open(path).convert("RGB").save(found[path.name])
    return found


def ask(cpp: Path, genai: Path, *words: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [cpp / "examples" / "edgeprune-ask", *words]
    environment = {**os.environ, "EDGEPRUNE_GENAI": str(genai)}
    return subprocess.run(command, env=environment, input=given, capture_output=True, check=False)


@pytest.mark.slow
def test_its_words_are_those_of_python_for_every_stored_question(
    cpp: Path, genai: Path, model: Path, pictures: dict[str, Path]
) -> None:
    from edgeprune.runtime.generate import open_model

    stored = json.loads((model / "questions/answers.json").read_text())["answers"]
    with open_model(model, "cpu", 1) as opened:
        expected = [opened.ask(model / "questions" / one["image"], one["question"]).text for one in stored]
    said = []
    for one in stored:
        done = ask(cpp, genai, model, pictures[one["image"]], one["question"])
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.decode().removesuffix("\n"))
    print(f"{len(said)} answers, such as {said[:3]}")
    assert said == expected
    assert len(said) == 33


@pytest.mark.slow
def test_it_prints_what_edgeprune_ask_prints(cpp: Path, genai: Path, model: Path, pictures: dict[str, Path]) -> None:
    """Of an image from a pipe, too; and no more ids than are asked for."""
    scene = model / "questions" / "scene00.png"
    command: list[str | Path] = [sys.executable, "-m", "edgeprune", "ask", model, scene, QUESTION]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    expected = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    found = ask(cpp, genai, model, "-", QUESTION, given=pictures["scene00.png"].read_bytes())
    assert (found.returncode, found.stdout) == (0, expected)
    assert found.stderr == b""
    long = "what is to the left of the red square?"
    assert len(ask(cpp, genai, model, pictures["scene00.png"], long, "1").stdout.split()) <= 1


@pytest.mark.slow
def test_what_cannot_be_asked_is_one_line(
    cpp: Path, genai: Path, model: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    scene = pictures["scene00.png"]
    for words, library, said in (
        ((model / "encoder", scene, QUESTION), genai, "must be a model for genai; make one with `edgeprune assemble"),
        ((tmp_path, scene, QUESTION), genai, "must be a model for genai"),
        ((model, tmp_path / "no.ppm", QUESTION), genai, "no.ppm: No such file or directory"),
        ((model, model / "questions/scene00.png", QUESTION), genai, "a frame must be a PPM of P6"),
        ((model, scene, "what is <image>?"), genai, "the question must have no placeholder of an image"),
        ((model, scene, "what? " * 512), genai, "prompt and answer must fit into 512 tokens; the prompt alone has"),
        ((model, scene, QUESTION), tmp_path / "no.so", "name onnxruntime-genai's library by EDGEPRUNE_GENAI"),
        ((model, scene, QUESTION), Path(os.environ["EDGEPRUNE_ONNXRUNTIME"]), "it must be onnxruntime-genai 0.18"),
    ):
        done = ask(cpp, library, *words)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1), words
        assert done.stderr.decode().startswith("edgeprune-ask: ")
        assert said in done.stderr.decode()


NO_NUMBER = ("0", "-1", "", "many", "12x", "9" * 30)


@pytest.mark.parametrize(
    "words", [[], ["a"], ["a", "b"], ["a", "b", "c", "1", "e"], *(["a", "b", "c", most] for most in NO_NUMBER)]
)
def test_wrong_arguments_are_the_usage(cpp: Path, words: list[str]) -> None:
    done = ask(cpp, Path(), *words)
    assert (done.returncode, done.stderr) == (2, b"usage: edgeprune-ask MODEL IMAGE QUESTION [MOST]\n")
