"""What `ask` needs: ONNX Runtime, onnxruntime-genai, tokenizers, numpy, Pillow, jinja2, click and rich. No torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.export.assemble import Assembly
from tests.runtime.test_minimal_environment import install_edgeprune, pip

ROOT = Path(__file__).parents[3]
SCENE = ROOT / "edgeprune/models/tiny/scenes/scene00.png"
PACKAGES = ("onnxruntime", "onnxruntime-genai", "tokenizers", "numpy", "pillow", "jinja2", "click", "rich")
ABSENT = ("torch", "transformers", "onnx", "onnx_ir", "safetensors")
MOST_MIB = 150

PROGRAM = """
import sys
if {blocked!r}:
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {blocked!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Blocked())
import json
from edgeprune.runtime.generate import open_model
with open_model(sys.argv[1], "cpu", 1) as model:
    answer = model.ask(sys.argv[2], "what color is the square?")
import importlib.util
print(json.dumps({{
    "text": answer.text,
    "loaded": sorted({{name.partition(".")[0] for name in sys.modules}} & set({absent!r})),
    "mib": next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")),
}}))
"""


def ask(python: Path | str, folder: Path, blocked: tuple[str, ...], place: Path) -> dict[str, object]:
    code = PROGRAM.format(blocked=blocked, absent=ABSENT)
    sources = {"PYTHONPATH": str(ROOT)} if blocked else {}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", code, str(folder), str(SCENE)],
        cwd=place,
        env={**kept, **sources},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory as Linux tells it")
@pytest.mark.parametrize("engine", ["genai", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_without_torch_it_answers_in_little_memory(
    assembled_once: Callable[..., Assembly], tmp_path: Path, engine: str
) -> None:
    found = ask(sys.executable, assembled_once(engine=engine).folder, ABSENT, tmp_path)
    assert (found["text"], found["loaded"]) == ("red", [])
    assert isinstance(found["mib"], float)
    assert found["mib"] <= MOST_MIB


@pytest.mark.slow
def test_an_environment_of_these_packages_alone_is_enough(
    assembled_once: Callable[..., Assembly], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = pip(python, *(f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES))
    if installed.returncode != 0:
        pytest.skip(f"pip finds no packages here: {installed.stderr.strip().splitlines()[-1:]}")
    install_edgeprune(python, tmp_path / "sources")
    found = ask(python, assembled_once().folder, (), tmp_path)
    assert (found["text"], found["loaded"]) == ("red", [])
    edgeprune = python.with_name("edgeprune")
    done = subprocess.run(
        [str(edgeprune), "ask", str(assembled_once().folder), str(SCENE), "what color is the square?", "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "red"
