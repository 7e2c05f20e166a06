"""A device has numpy, Pillow and ONNX Runtime. That must be enough to load a bundle, run it and draw what it keeps."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("edgeprune", "export", "runtime", "targets", "pyproject.toml", "README.md", "LICENSE")
DEVICE_PACKAGES = ("numpy", "pillow", "onnxruntime")
ABSENT = ("torch", "transformers", "onnx", "onnxscript", "click", "rich", "safetensors")

PROGRAM = """
import importlib.util, json, sys
import numpy as np
import edgeprune.runtime
at_import = sorted({name.partition(".")[0] for name in sys.modules} & {"onnxruntime", *ABSENT})
from edgeprune.runtime.show import draw
import edgeprune.runtime.parity, edgeprune.runtime.parity.verify

encoder = edgeprune.runtime.load(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
output = encoder(image)
print(json.dumps({
    "at import": at_import,
    "importable": [name for name in ABSENT if importlib.util.find_spec(name)],
    "from": edgeprune.__file__,
    "shapes": [list(array.shape) for array in output],
    "indices": output.indices.tolist(),
    "picture": draw(encoder, image).mode,
}))
"""


def pip(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install_edgeprune(python: Path, scratch: Path) -> None:
    """From a copy: building in place would leave build/ and egg-info in the checkout."""
    scratch.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, scratch / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, scratch / name)
    done = pip(python, "--no-deps", str(scratch))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_numpy_pillow_and_onnxruntime_are_enough(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in DEVICE_PACKAGES]
    installed = pip(python, *versions)
    if installed.returncode != 0:
        pytest.skip(f"pip finds no packages here: {installed.stderr.strip().splitlines()[-1:]}")
    install_edgeprune(python, tmp_path / "sources")

    done = subprocess.run(
        [python, "-c", f"ABSENT = {ABSENT!r}\n{PROGRAM}", make_bundle()],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["from"]).is_relative_to(tmp_path / "venv")
    assert result["importable"] == []
    assert result["at import"] == []
    assert result["shapes"] == [[1, 5, 7], [1, 5], [1, 24]]
    assert result["indices"][0] == sorted(set(result["indices"][0]))
    assert result["picture"] == "RGB"
