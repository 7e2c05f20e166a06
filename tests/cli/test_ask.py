"""`edgeprune assemble`, and `edgeprune ask` of what it wrote."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.export.assemble import Assembly

pytest.importorskip("onnxruntime_genai")

Run = Callable[..., Any]
Said = Callable[..., str]
SCENES = Path(__file__).parents[2] / "edgeprune/models/tiny/scenes"
ONE, OTHER = SCENES / "scene00.png", SCENES / "scene01.png"
COLOR = "what color is the square?"


@pytest.fixture
def model(assembled_once: Callable[..., Assembly]) -> Path:
    return assembled_once().folder


def test_it_answers_and_nothing_else(run: Run, model: Path) -> None:
    done = run("ask", model, ONE, COLOR)
    assert (done.code, done.out, done.err) == (0, "red\n", "")


def test_where_the_time_went_stands_apart(run: Run, model: Path) -> None:
    done = run("ask", model, ONE, COLOR, "--time")
    assert (done.code, done.out) == (0, "red\n")
    assert done.err.startswith("first token after ")
    assert "prefill" in done.err
    assert "of 77 tokens, 64 of images" in done.err


def test_json_has_the_times_apart(run: Run, model: Path) -> None:
    found = json.loads(run("ask", model, ONE, COLOR, "--json").out)
    assert (found["text"], found["engine"], found["stopped"]) == ("red", "genai", True)
    assert found["first_token_ms"] == pytest.approx(found["image_ms"] + found["encoder_ms"] + found["prefill_ms"])
    assert found["decode_ms"] > 0


def test_turns_follow_each_other(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = "what shape is the red object?"
    done = run("ask", model, ONE, COLOR, "--question", shape)
    assert (done.code, done.out) == (0, "red\nsquare\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{COLOR}\n\n{shape}\n"))
    assert run("ask", model, ONE, "--chat").out == done.out
    found = json.loads(run("ask", model, ONE, COLOR, "--question", shape, "--json").out)
    assert [one["text"] for one in found["answers"]] == ["red", "square"]
    assert found["answers"][1]["encoder_ms"] == 0


def test_several_images_are_one_prompt(run: Run, model: Path) -> None:
    found = json.loads(run("ask", model, ONE, OTHER, "how many objects are there?", "--json").out)
    assert found["image_tokens"] == 128


REFUSED: list[tuple[tuple[object, ...], str]] = [
    ((), "takes an image and a question; got neither"),
    ((COLOR,), f"an image stands in front of the question, got '{COLOR}' alone"),
    ((COLOR, ONE), "the question stands last, got the image"),
    ((ONE, " "), "the question stands last and says something, got an empty one"),
    (("nowhere.png", COLOR), "an image must be a file; there is none at nowhere.png"),
    ((ONE, "what <image> is it?"), "must have one placeholder (token 3) for each image, got 2 for 1"),
    ((*[ONE] * 8, COLOR), "must fit into 512 tokens"),
    ((ONE, "color " * 600), "the prompt alone has 6"),
    ((ONE, COLOR, "--temperature", "-1"), "temperature must be 0 or above, got -1.0"),
    ((ONE, COLOR, "--top-p", "0"), "top_p must be above 0 and at most 1, got 0.0"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_cannot_be_asked_is_one_line(
    run: Run, model: Path, words: tuple[object, ...], message: str, said: Said
) -> None:
    done = run("ask", model, *words)
    assert message in said(done)
    assert (done.code, done.out) == (2, "")


def test_a_bundle_alone_cannot_be_asked(run: Run, exported_once: Callable[..., Any], said: Said) -> None:
    bundle = exported_once("fastervlm", "cpu", keep=64).folder
    assert "must be of an assembled model; make one with `edgeprune assemble`" in said(run("ask", bundle, ONE, COLOR))
    assert "--generate goes with a folder that `edgeprune assemble` wrote" in said(run("verify", bundle, "--generate"))


def test_verify_holds_the_encoder_and_the_answers(run: Run, model: Path, tmp_path: Path) -> None:
    done = run("verify", model, "--generate", "--device", "cpu", "--json")
    found = json.loads(done.out)
    assert (done.code, found["passed"], found["generate"]["equal"], found["generate"]["asked"]) == (0, True, 33, 33)
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    _answer_something_else(copy)
    done = run("verify", copy, "--generate", "--device", "cpu")
    assert "32 of 33 answers are torch's with the same tokens, 1 wrong" in done.out
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "does not say what torch says: scene00.png, 'what color is the square?': id 0 is 333, not 334" in done.err


def _answer_something_else(folder: Path) -> None:
    """As if torch had said another word first, and surely."""
    from tests.runtime.generate.test_folder import rewritten

    path = folder / "questions/answers.json"
    given = json.loads(path.read_text())
    given["answers"][0]["ids"][0] += 1
    path.write_text(json.dumps(given))
    from edgeprune.bundle import describe_files

    files = {name: {"size": one.size, "sha256": one.sha256} for name, one in describe_files(folder).items()}
    rewritten(folder, files={name: one for name, one in files.items() if not name.startswith("encoder/")})


@pytest.mark.slow
def test_bench_tells_the_parts_apart(run: Run, model: Path) -> None:
    found = json.loads(run("bench", model, "--rounds", "2", "--threads", "1", "--json").out)
    pruned, unpruned = found["pruned"], found["unpruned"]
    assert (pruned["image_tokens"], unpruned["image_tokens"]) == (64, 144)
    assert unpruned["prompt_tokens"] - pruned["prompt_tokens"] == 80
    for side in (pruned, unpruned):
        assert set(side["ms"]) == {"image", "encoder", "prefill", "first token", "token"}
        assert sum(side["share"].values()) == pytest.approx(1, abs=0.5)
    assert found["estimate"]["pruned"]["image_tokens"] == 64
    assert set(found["doubts"]) == set(pruned["ms"])  # two rounds say too little
    done = run("bench", model, "--rounds", "2", "--threads", "1")
    assert "64 tokens" in done.out
    assert done.out.splitlines()[-1].startswith("first token after ")


def test_assemble_refuses_before_it_begins(
    run: Run, exported_once: Callable[..., Any], tmp_path: Path, said: Said, llava_folder: Callable[..., Path]
) -> None:
    bundle = exported_once("fastervlm", "cpu", keep=64).folder
    (tmp_path / "mine").mkdir()
    assert "mine exists; choose another --output" in said(run("assemble", bundle, "--output", tmp_path / "mine"))
    done = run("assemble", bundle, "--output", tmp_path / "mine", "--force")
    assert "is not an assembled model, so --force does not replace it" in said(done)
    other = llava_folder(tmp_path / "other")
    done = run("assemble", bundle, "--model", other, "--output", tmp_path / "new")
    assert "must be as wide as the embeddings of other (48), they are 128" in said(done)
    done = run("assemble", bundle, "--questions", tmp_path / "none.jsonl", "--output", tmp_path / "new")
    assert "--questions must be a file of JSON lines" in said(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["desk", "mine", "other"]


@pytest.mark.slow
def test_export_assembles_as_well(run: Run, tmp_path: Path, said: Said) -> None:
    bundle, whole = tmp_path / "bundle", tmp_path / "whole"
    words = ("export", "--method", "fastervlm", "--keep", "36", "--no-baselines", "--output", bundle)
    done = run(*words, "--assemble", whole, "--json")
    found = json.loads(done.out)
    assert (found["bundle"], found["assembled"]["folder"]) == (str(bundle), str(whole))
    assert found["assembled"]["generate"]["passed"]
    assert run("ask", whole, ONE, COLOR).out == "red\n"
    again = run(*words[:-1], tmp_path / "another", "--assemble", whole)
    assert f"{whole.name} exists" in said(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "desk", "whole"]


def test_the_command_line_names_the_engines_and_precisions_that_there_are() -> None:
    from edgeprune.cli import assemble as words
    from edgeprune.export.assemble import request

    assert (words.ENGINES, words.PRECISIONS) == (request.ENGINES, request.PRECISIONS)
