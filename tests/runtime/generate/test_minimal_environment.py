"""What asking needs: ONNX Runtime, onnxruntime-genai, tokenizers, numpy, Pillow and jinja2. No torch.

jinja2 writes the prompt of every model, by its chat template; the command line wants click and rich as well.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.export.assemble import Assembly
from tests.runtime.test_minimal_environment import install_edgeprune, pip

ROOT = Path(__file__).parents[3]
SCENE = ROOT / "edgeprune/models/tiny/scenes/scene00.png"
QUESTION = "what color is the square?"
PACKAGES = ("onnxruntime", "onnxruntime-genai", "tokenizers", "numpy", "pillow", "jinja2")
COMMAND_LINE = ("click", "rich")
ABSENT = ("torch", "transformers", "onnx", "onnx_ir", "safetensors")
MOST_MIB = 150

MEMORY = """
def peak_mib():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""
PROGRAM = (
    MEMORY
    + """
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
    answer = model.ask(sys.argv[2], sys.argv[3])
mib = peak_mib()
import importlib.util
print(json.dumps({{
    "text": answer.text,
    "loaded": sorted({{name.partition(".")[0] for name in sys.modules}} & set({absent!r})),
    "importable": [] if {blocked!r} else [name for name in {absent!r} if importlib.util.find_spec(name)],
    "mib": mib,
}}))
"""
)
TYPED = (
    MEMORY
    + """
import atexit, sys
atexit.register(lambda: print(f"{peak_mib():.1f} MiB", file=sys.stderr))
from edgeprune.cli import main
main()
"""
)
"""`edgeprune`, which says at its end how much memory it had"""


needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory as Linux tells it")


def python_of(folder: Path) -> Path:
    venv.create(folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def install(python: Path, names: tuple[str, ...]) -> None:
    """The releases that are here."""
    done = pip(python, *(f"{name}=={importlib.metadata.version(name)}" for name in names))
    if done.returncode != 0:
        pytest.skip(f"pip finds no packages here: {done.stderr.strip().splitlines()[-1:]}")


def run(python: Path | str, code: str, *words: str | Path, place: Path, **more: str) -> tuple[str, str]:
    """What a program says, on stdout and on stderr."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=place, env={**kept, **more}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def ask(python: Path | str, folder: Path, blocked: tuple[str, ...], place: Path) -> dict[str, Any]:
    code = PROGRAM.format(blocked=blocked, absent=ABSENT)
    said, _ = run(python, code, folder, SCENE, QUESTION, place=place, **({"PYTHONPATH": str(ROOT)} if blocked else {}))
    found: dict[str, Any] = json.loads(said)
    return found


@needs_linux
@pytest.mark.parametrize("engine", ["genai", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_without_torch_it_answers_in_little_memory(
    assembled_once: Callable[..., Assembly], tmp_path: Path, engine: str
) -> None:
    found = ask(sys.executable, assembled_once(engine=engine).folder, ABSENT, tmp_path)
    print(f"{engine}: {found['mib']:.1f} MiB")
    assert (found["text"], found["loaded"]) == ("red", [])
    assert found["mib"] <= MOST_MIB


@needs_linux
@pytest.mark.slow
def test_an_environment_of_these_packages_alone_is_enough(
    assembled_once: Callable[..., Assembly], tmp_path: Path
) -> None:
    """From Python; and with two packages more, `edgeprune ask` says the same."""
    folder, python = assembled_once().folder, python_of(tmp_path / "venv")
    install(python, PACKAGES)
    install_edgeprune(python, tmp_path / "sources")
    found = ask(python, folder, (), tmp_path)
    assert (found["text"], found["loaded"], found["importable"]) == ("red", [], [])
    install(python, COMMAND_LINE)
    said, told = run(python, TYPED, "ask", folder, SCENE, QUESTION, place=tmp_path)
    mib = float(told.removesuffix(" MiB\n"))
    print(f"from Python: {found['mib']:.1f} MiB, edgeprune ask: {mib:.1f} MiB")
    assert said == "red\n"
    assert max(found["mib"], mib) <= MOST_MIB
