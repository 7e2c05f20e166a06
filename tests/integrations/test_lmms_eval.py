"""lmms-eval itself, on a task of drawn scenes: what it counts is what the sweep counts. `make lmms-eval` runs it.

Its sixty packages want an environment of their own, so that this is skipped where it is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

lmms_eval = pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; make lmms-eval")

from edgeprune.errors import RequestError  # noqa: E402
from edgeprune.export import Request, export_bundle  # noqa: E402
from edgeprune.integrations.lmms_eval import cut, generation  # noqa: E402
from edgeprune.quality.language import load_language  # noqa: E402
from edgeprune.quality.questions import ask  # noqa: E402
from edgeprune.quality.scenes import held_out  # noqa: E402
from edgeprune.runtime import load  # noqa: E402

SCENES = 12
TASK = """
task: drawn_scenes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/questions.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 1
process_results: !function utils.process_results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
"""
UTILS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def process_results(doc, results):
    return {"accuracy": float(results[0] == doc["answer"])}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lmms") / "bundle"
    export_bundle(Request("fastervlm", "cpu", keep=8, output=output, baselines=False))
    return output


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    lines = []
    for at, scene in enumerate(held_out(SCENES)):
        image = folder / f"{at}.png"
        Image.fromarray(scene.image).save(image)
        lines += [{"image": str(image), "question": one.text, "answer": one.answer} for one in ask(scene)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "drawn_scenes.yaml").write_text(TASK.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)
    return folder


def test_lmms_eval_counts_what_the_sweep_counts(bundle: Path, task: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmms_eval", "--model", "edgeprune", "--model_args", f"bundle={bundle}"]
    command += ["--tasks", "drawn_scenes", "--include_path", str(task), "--output_path", str(tmp_path / "results")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "results").rglob("*results.json")
    counted = json.loads(file.read_text())["results"]["drawn_scenes"]["accuracy,none"]

    encoder, language, right, total = load(bundle, "cpu"), load_language(), 0, 0
    for scene in held_out(SCENES):
        questions = ask(scene)
        said = language.answers(encoder(scene.image).tokens, [[one.text for one in questions]])[0]
        right += sum(answer == one.answer for answer, one in zip(said, questions, strict=True))
        total += len(questions)
    assert counted == pytest.approx(right / total)
    assert 0.5 < counted < 1


def test_it_is_found_by_its_entry_point() -> None:
    from lmms_eval.models import get_model

    assert get_model("edgeprune").__name__ == "Edgeprune"


def test_a_batch_is_refused(bundle: Path) -> None:
    from edgeprune.integrations.lmms_eval import Edgeprune

    with pytest.raises(RequestError, match="--batch_size must be 1"):
        Edgeprune(str(bundle), batch_size=8)


def test_answers_are_greedy_unless_a_temperature_is_asked_for() -> None:
    task = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n"]}
    assert generation(task) == {"num_beams": 1, "do_sample": False, "max_new_tokens": 16}
    assert generation({"temperature": 0.7}) == {"temperature": 0.7, "do_sample": True, "max_new_tokens": 1024}
    assert cut("one\ntwo", ["\n"]) == "one"
