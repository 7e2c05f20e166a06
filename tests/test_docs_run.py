"""What README.md and docs/ tell a newcomer to type runs: word for word, in order, in a fresh folder.

A page of docs/ begins where the README ended, with its `my-bundle`. What cannot run here is known by RULES; NOT_RUN
names every such line, so that none is left out in silence.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pages import blocks_in_order, commands

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))), "CONTRIBUTING.md"]
BUNDLE = "my-bundle"

C_LIBRARY = "needs the C library, which tests/cpp builds and runs"
RULES = {
    r"lmms-eval ": "needs sixty packages and a data set",
    r"(pip|npm|make) ": "changes the reader's environment",
    r"edgeprune assemble .*--node-modules |node ": "needs transformers.js",
    r"python -m http\.server ": "serves until it is stopped",
    r"(optimum-cli|python -m edgeprune\.integrations\.optimum)\b": "registers a command in optimum",
    r"model_signing ": "asks who signs",
    r"edgeprune (bavit|adapt|train) ": "trains for minutes",
    r"edgeprune sweep$|edgeprune sweep .*--inside ": "exports every method",
    r"edgeprune sweep .*--count 1000": "looks at a thousand images",
    r"hf |edgeprune verify \w+/": "reads from the Hugging Face hub",
    r".* --(model|language-model) (?!edgeprune/)[\w.-]+/[\w.-]+": "reads from the Hugging Face hub",
    r".* --device (tensorrt|cuda)\b": "needs a GPU",
    r"edgeprune (build|audit) ": "compiles with TensorRT-RTX",
    r"edgeprune show .*\.mp4 ": "needs a video",
    r"(sudo|bash|cmake|ffmpeg|(build/examples/)?edgeprune-\w+) ": C_LIBRARY,
}
"""how a line begins -> why it cannot run here; what reads the output of such a line cannot either"""

JETSON = "edgeprune export --method fastervlm --keep 64 --target jetson-orin --model llava-hf/llava-1.5-7b-hf"
DETECTOR = (
    "edgeprune export --method bavit --scorer bavit-scorer --keep 0.6 --model hustvl/yolos-small --size 512x864 "
    "--output detector-bundle"
)
NOT_RUN = {
    "README.md": {
        "pip install '.[export]'": "changes the reader's environment",
        JETSON: "reads from the Hugging Face hub",
    },
    "docs/browser.md": {
        "npm install --ignore-scripts @huggingface/transformers@4": "changes the reader's environment",
        "edgeprune assemble web-bundle --engine transformersjs --node-modules node_modules --output page": (
            "needs transformers.js"
        ),
        "python -m http.server --directory page": "needs page, which was not made",
        "node ask.mjs": "needs transformers.js",
    },
    "docs/ci.md": {
        "pip install model-signing": "changes the reader's environment",
        "model_signing sign my-bundle --signature my-bundle.sig": "asks who signs",
        "model_signing verify my-bundle --signature my-bundle.sig --identity you@example.com "
        "--identity-provider https://accounts.google.com": "asks who signs",
    },
    "docs/cost.md": {
        "edgeprune bench my-bundle --language-model llava-hf/llava-1.5-7b-hf": "reads from the Hugging Face hub"
    },
    "docs/cpp.md": {
        **{
            line: C_LIBRARY
            for line in (
                "sudo apt install cmake g++ nlohmann-json3-dev libssl-dev",
                'bash "$(edgeprune runtime-source)/cmake/headers.sh" headers',
                'cmake -S "$(edgeprune runtime-source)" -B build -DEDGEPRUNE_ONNXRUNTIME_INCLUDE="$PWD/headers"',
                "cmake --build build --parallel 2",
                "sudo cmake --install build",
                "sudo ldconfig",
                "edgeprune-verify my-bundle",
                "edgeprune-run my-bundle photo.ppm --output tokens.npy",
                "edgeprune-bench my-bundle",
                "edgeprune-run asked-bundle photo.ppm --input text=question.npy --split",
                "edgeprune-bench asked-bundle --split",
                "ffmpeg -i clip.mp4 -f image2pipe -c:v ppm - | build/examples/edgeprune-camera my-bundle - --every",
                "build/examples/edgeprune-camera my-bundle /dev/video0 --size 1280x720",
            )
        },
        "make cpp-arm64": "changes the reader's environment",
    },
    "docs/detectors.md": {
        "pip install '.[export,bavit]'": "changes the reader's environment",
        "edgeprune bavit train": "trains for minutes",
        DETECTOR: "reads from the Hugging Face hub",
        "from edgeprune.runtime import load": "needs detector-bundle, which was not made",
    },
    "docs/encoders.md": {
        "edgeprune export --method fastervlm --keep 320 --tiles 5 --model llava-hf/llava-v1.6-vicuna-7b-hf": (
            "reads from the Hugging Face hub"
        ),
        "edgeprune export --method forestprune --keep 320 --video --tiles 8 --model "
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": "reads from the Hugging Face hub",
        "edgeprune export --method hiprune --keep 64 --grid 32x32 --model Qwen/Qwen2.5-VL-3B-Instruct": (
            "reads from the Hugging Face hub"
        ),
        "edgeprune export --method received --option layer=4 --keep 0.6 --head --model "
        "facebook/deit-base-distilled-patch16-224 --output deit-bundle": "reads from the Hugging Face hub",
        "from edgeprune.runtime import load": "needs deit-bundle, which was not made",
        "pip install '.[export,hub]'": "changes the reader's environment",
        "edgeprune export --method fastervlm --keep 64 --model llava-hf/llava-1.5-7b-hf --push-to-hub me/llava-64": (
            "reads from the Hugging Face hub"
        ),
        "hf download me/llava-64": "reads from the Hugging Face hub",
        "edgeprune verify me/llava-64": "reads from the Hugging Face hub",
        "pip install '.[export,optimum]'": "changes the reader's environment",
        "python -m edgeprune.integrations.optimum": "registers a command in optimum",
        "optimum-cli export edgeprune --method fastervlm --keep 64 --output optimum-bundle": (
            "registers a command in optimum"
        ),
    },
    "docs/inside.md": {
        "edgeprune sweep --methods fastervlm --inside tome,cells,nearest,pitome,drop --encoder-cost 0.6,0.5 "
        "--keep 64,32 --count 1000 --no-speed --output inside-sweep": "exports every method",
        "python -m edgeprune.cli.tables.quality inside-sweep docs/inside.md": "needs inside-sweep, which was not made",
        "edgeprune adapt --method fastervlm --keep 32 --inside drop --encoder-cost 0.5 --output adapted": (
            "trains for minutes"
        ),
        "edgeprune export --method fastervlm --keep 32 --inside drop --encoder-cost 0.5 --adapted adapted "
        "--output with-adapted": "needs adapted, which was not made",
        "edgeprune adapt --kind thresholds --method adaptive_sparse --encoder-cost 0.6 --count 400 "
        "--output thresholds": "trains for minutes",
        "edgeprune export --method adaptive_sparse --encoder-cost 0.6 --adapted thresholds --output by-thresholds": (
            "needs thresholds, which was not made"
        ),
    },
    "docs/quality.md": {
        "edgeprune sweep": "exports every method",
        "edgeprune sweep --methods fastervlm --keep 64,32 --precision float32,float16,int8,int8-dynamic --count 1000 "
        "--no-speed": "looks at a thousand images",
        "edgeprune sweep --model llava-hf/llava-1.5-7b-hf --images photos --questions questions.jsonl "
        "--keep 192,128,64": "reads from the Hugging Face hub",
        "pip install '.[lmms-eval]'": "changes the reader's environment",
        "lmms-eval --model edgeprune --model_args bundle=my-bundle,pretrained=llava-hf/llava-1.5-7b-hf "
        "--tasks gqa,pope": "needs sixty packages and a data set",
    },
    "docs/questions.md": {
        "edgeprune export --method cdpruner --keep 64 --model llava-hf/llava-1.5-7b-hf "
        "--text-model openai/clip-vit-large-patch14-336 --output llava-bundle": "reads from the Hugging Face hub",
        'edgeprune show llava-bundle photo.jpg --text "which one is red?"': "needs llava-bundle, which was not made",
        "edgeprune show known-bundle clip.mp4 --prior motion --output frames": "needs a video",
    },
    "docs/targets.md": {
        JETSON: "reads from the Hugging Face hub",
        "pip install '.[export,rtx]'": "changes the reader's environment",
        "edgeprune build rtx-bundle --audit": "compiles with TensorRT-RTX",
        "edgeprune bench rtx-bundle --device tensorrt": "needs a GPU",
    },
    "docs/methods.md": {
        "edgeprune train learnpruner --output learnpruner-scorer": "trains for minutes",
        "edgeprune export --method learnpruner --keep 32 --scorer learnpruner-scorer --output learned-bundle": (
            "needs learnpruner-scorer, which was not made"
        ),
    },
    "docs/whole-model.md": {
        "pip install '.[assemble]'": "changes the reader's environment",
        'build/examples/edgeprune-ask model photo.ppm "what color is the square?"': C_LIBRARY,
    },
    "CONTRIBUTING.md": {
        line: "changes the reader's environment"
        for line in (
            "make test",
            "make test-slow",
            "make test-all",
            "make lint types",
            "make lowest",
            "make cpp",
            "make docs",
            "make readme",
        )
    },
}
"""page -> line, or first line of a block of Python -> why it is not run"""


class Step(NamedTuple):
    text: str
    """a line of a shell, or a block of Python"""
    language: str
    why_not: str
    """empty where it runs"""

    @property
    def name(self) -> str:
        return self.text.splitlines()[0]


def steps(page: str) -> list[Step]:
    """What a page says to type, in order."""
    found: list[Step] = []
    missing: set[str] = set()
    for language, block in blocks_in_order((ROOT / page).read_text(encoding="utf-8")):
        for text in commands(block) if language == "sh" else [block] if language == "python" else []:
            needs = [name for name in sorted(missing) if re.search(rf"[\s\"']{name}\b", text)]
            why_not = f"needs {needs[0]}, which was not made" if needs else ""
            if language == "sh" and not why_not:
                why_not = next((why for rule, why in RULES.items() if re.match(rule, text)), "")
            if why_not:
                missing |= set(re.findall(r"--output (\S+)", text))
            found.append(Step(text, language, why_not))
    return found


STEPS = {page: steps(page) for page in PAGES}
RUN = [page for page in PAGES[1:] if any(not step.why_not for step in STEPS[page])]


def test_what_is_not_run_is_named_with_its_reason() -> None:
    left = {page: {one.name: one.why_not for one in found if one.why_not} for page, found in STEPS.items()}
    assert {page: lines for page, lines in left.items() if lines} == NOT_RUN


def test_the_readme_and_some_pages_have_lines_that_run() -> None:
    assert [step.name.split()[1] for step in STEPS["README.md"] if step.language == "sh" and not step.why_not] == [
        "export", "verify", "bench", "show", "assemble", "ask",
    ]  # fmt: skip
    assert {"docs/encoders.md", "docs/methods.md", "docs/parity.md"} <= set(RUN)


def test_no_page_makes_a_bundle_twice_or_reads_one_that_nobody_makes() -> None:
    made = [re.findall(r"--output (\S+-bundle)", step.text) for found in STEPS.values() for step in found]
    names = [name for outputs in made for name in outputs]
    assert sorted(names) == sorted(set(names))
    read = {name for found in STEPS.values() for one in found for name in re.findall(r"[\w-]+-bundle\b", one.text)}
    assert read == {*names}


def run(page: str, folder: Path) -> None:
    """The steps of a page in the folder. What a comment behind a print says is what is printed."""
    bin = folder / "bin"
    bin.mkdir()
    command = bin / "edgeprune"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgeprune "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    environment["PATH"] = f"{bin}{os.pathsep}{os.environ['PATH']}"
    desk = folder / "desk"
    (desk / "edgeprune").symlink_to(ROOT / "edgeprune")  # it is typed in a clone
    for step in STEPS[page]:
        if step.why_not:
            continue
        typed = ["bash", "-ec", step.text] if step.language == "sh" else [sys.executable, "-c", step.text]
        done = subprocess.run(typed, cwd=desk, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {step.name}\n{done.stderr}"
        printed = re.findall(r"^print\(.*\)  # (.+)$", step.text, flags=re.MULTILINE)
        assert not printed or [line.strip() for line in done.stdout.splitlines()[-len(printed) :]] == printed


@pytest.fixture(scope="module")
def after_the_readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a reader of the README typed what it says."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "desk").mkdir()
    run("README.md", folder)
    return folder / "desk"


@pytest.mark.slow
def test_the_readme_runs_word_for_word(after_the_readme: Path) -> None:
    assert sorted(os.listdir(after_the_readme)) == ["edgeprune", "kept.png", BUNDLE, "my-model"]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_word_for_word_behind_the_readme(after_the_readme: Path, tmp_path: Path, page: str) -> None:
    shutil.copytree(after_the_readme / BUNDLE, tmp_path / "desk" / BUNDLE)
    run(page, tmp_path)
