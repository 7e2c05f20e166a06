"""Mistakes that need no weights are answered before torch and transformers, which take seconds, are imported."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
EXPORT = ("export", "--method", "fastervlm", "--keep", "4")
INT8 = (*EXPORT, "--precision", "int8")
STEPS = (*EXPORT, "--schedule", "2:80", "--inside")
ANSWERS = """
import contextlib, io, json, os, sys
from edgeprune.cli import main
answers = []
os.chdir(sys.argv[2])
for words in json.loads(sys.argv[1]):
    sys.argv, said = ["edgeprune", *words], io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as exit:
            loaded = {"torch", "transformers", "onnx", "onnxruntime", "huggingface_hub"} & set(sys.modules)
            answers.append([exit.code, said.getvalue(), sorted(loaded)])
print(json.dumps(answers))
"""
EARLY: dict[tuple[str, ...], str] = {
    ("export", "--method", "FasterVLM"): r"no method 'FasterVLM'; .* Did you mean 'fastervlm'\?",
    (
        "export",
        "--method",
        "hiprune",
        "--option",
        "alpha=high",
    ): r"option alpha of hiprune must be a number, got 'high'",
    (
        "export",
        "--method",
        "hiprune",
        "--option",
        "alhpa=1",
    ): r"no option of hiprune 'alhpa'; .* mean 'alpha'\?",
    (
        "export",
        "--method",
        "dart",
        "--option",
        "pivots=2.5",
    ): r"option pivots of dart must be a whole number, got '2",
    (*EXPORT, "--option", "alpha"): r"--option must be NAME=VALUE, got alpha",
    ("export", "--method", "fastervlm", "--keep", "1.5"): r"--keep as a share must be in \(0, 1\], got 1\.5",
    (*EXPORT, "--target", "orin"): r"no target 'orin'; .* Did you mean 'jetson-orin'\?",
    (*EXPORT, "--target", "nowhere.toml"): r"nowhere\.toml cannot be read",
    (*EXPORT, "--tiles", "0"): r"--tiles must be at least 1, got 0",
    (*EXPORT, "--dynamic-batch", "--target", "jetson-orin"): r"plan for jetson-orin takes a fixed number .* --tiles",
    (*EXPORT, "--grid", "32"): r"--grid must be rows x columns of patches, such as 32x32, got 32",
    (*EXPORT, "--output", "taken"): r"taken exists; choose another --output",
    (*EXPORT, "--model", "taken"): r"taken has a model_type that no family knows: no model_type 'bert'",
    (*EXPORT, "--model", "detector"): r"detector is a detr: its encoder is a small part .*; read is yolos",
    (
        *EXPORT,
        "--model",
        "original",
    ): r"original is a llava_llama: of the original LLaVA code, not .* `edgeprune convert`",
    (*EXPORT, "--model", "./nope"): r"--model must be a folder or a Hugging Face id .*; there is no folder \./nope",
    (
        *EXPORT,
        "--model",
        "https://huggingface.co/a/b",
    ): r"--model must be a folder or .*, got the URL https://huggingface",
    (*EXPORT, "--probes", "nowhere"): r"--probes must be a folder with images; there is no folder nowhere",
    (*EXPORT, "--probes", "probes"): r"an image must be a file Pillow can read; probes/broken\.jpg is not",
    (*INT8, "--calibration", "nowhere"): r"--calibration must be a folder with images; there is no folder nowhere",
    (*INT8, "--calibration", "cut"): r"an image must be a file Pillow can read; cut/b\.jpg is not .* truncated",
    (*INT8, "--calibration", "holes", "--image-range", "0", "1"): r"holes/b\.tif: .*NaN",
    (*STEPS, "sta", "--dynamic-batch"): r"sta keeps something of every frame .* --dynamic-batch frees that number",
    (*STEPS, "drop", "--option", "score=nope"): r"no score 'nope'; have auto, cls, column, fastervlm, ",
    (
        *STEPS,
        "drop",
        "--option",
        "score=pool",
    ): r"option score must give each row a score of its own, which pool does not; use auto, cls, ",
    (*STEPS, "tome", "--option", "score=nope"): (
        r"option score is of the reducers cells, drop, .*; got --inside tome, whose options are bias, metric; leave"
    ),
    (
        *STEPS,
        "tome",
        "--option",
        "scoer=cls",
    ): r"no option of fastervlm or tome 'scoer'; have bias, metric, padding, position",
    (*EXPORT, "--option", "position=foo"): r"option position must be none or fitted, got foo; give fitted, or leave it",
    (*EXPORT, "--option", "padding=wide"): r"option padding must be none, or height x width .*, got wide",
    (
        "export",
        "--method",
        "pool",
        "--option",
        "padding=480x640",
    ): r"option padding is of the methods that rank by attention .*fastervlm, .*; got --method pool, which has no",
    (*EXPORT, "--scorer", "nowhere"): r"--scorer must be left out; there is no nowhere",
    (*EXPORT, "--push-to-hub", "bundle"): r"--push-to-hub must be a repository of the Hugging Face hub .*, got bundle",
    (*EXPORT, "--private"): r"--private goes with --push-to-hub, which is missing",
    ("show", "taken", "https://a.b/c.png"): r"must be a file on this machine, got the URL https://a\.b/c\.png",
    ("verify", "nowhere"): r"nowhere is not a bundle",
    ("bench", "nowhere"): r"nowhere is not a bundle",
    ("diff", "nowhere", "nowhere"): r"nowhere is not a bundle",
    ("audit", "nowhere"): r"nowhere is not a bundle",
    ("build", "nowhere"): r"nowhere is not a bundle",
}


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, process: Run
) -> dict[tuple[str, ...], tuple[int, str, list[str]]]:
    """Arguments -> exit code, stderr, and what was imported by then: all in one process, one after the other."""
    folder = tmp_path_factory.mktemp("early")
    for name, model_type in (("taken", "bert"), ("detector", "detr"), ("original", "llava_llama")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "probes").mkdir()
    (folder / "probes" / "broken.jpg").write_bytes(b"no image")
    half_a_jpeg, holes = io.BytesIO(), Image.fromarray(np.full((64, 64), np.nan, np.float32))
    Image.effect_noise((256, 256), 90).save(half_a_jpeg, "JPEG")
    for name in ("cut", "holes"):
        (folder / name).mkdir()
    for at in "ab":
        Image.new("RGB", (64, 64)).save(folder / "cut" / f"{at}.jpg")
        Image.fromarray(np.eye(64, dtype=np.float32)).save(folder / "holes" / f"{at}.tif")
    (folder / "cut" / "b.jpg").write_bytes(half_a_jpeg.getvalue()[: half_a_jpeg.tell() // 2])
    holes.save(folder / "holes" / "b.tif")
    done = process(json.dumps([*EARLY]), folder, code=ANSWERS)
    return dict(zip(EARLY, json.loads(done.out), strict=True))


@pytest.mark.parametrize("arguments", EARLY, ids=" ".join)
def test_a_mistake_is_answered_before_torch_is_imported(answers: Any, arguments: tuple[str, ...]) -> None:
    code, said, loaded = answers[arguments]
    assert (code, loaded) == (2, []), said
    assert re.match(rf"edgeprune: .*{EARLY[arguments]}", said)
    assert len(said.splitlines()) == 1


def test_the_model_type_comes_first(run: Run, desk: Path) -> None:
    """Not the missing processor, the missing weights, or the name of the method."""
    (desk / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "no model_type 'bert'" in run("export", "--method", "nothing", "--model", ".").err


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "clip_vision_model", "num_hidden_layers": 4}, "layer must be in 1..4 or -4..-1 for 4 layers"),
        (
            {"model_type": "llava_next", "vision_feature_layer": [-4, -3, -2, -1]},
            "its projector takes 4 layers side by side (-4, -3, -2, -1), --layer 9 would give one",
        ),
    ],
    ids=["no such layer", "one of several"],
)
def test_case_layer_list_a_layer_that_cannot_fit_is_refused_before_anything_else_is_read(
    run: Run, desk: Path, config: dict[str, Any], says: str
) -> None:
    (desk / "config.json").write_text(json.dumps(config))
    done = run("export", "--method", "none", "--model", ".", "--output", "b", "--layer", 9)
    assert done.code == 2
    assert says in done.err


def test_a_file_in_a_bundle_means_the_bundle(run: Run, exported: tuple[Path, Any]) -> None:
    graph = exported[0] / "encoder.onnx"
    assert run("inspect", graph).out == run("inspect", exported[0]).out
