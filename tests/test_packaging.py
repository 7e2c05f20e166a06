"""The wheel holds the package, all of it, and nothing else."""

from __future__ import annotations

import email
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeprune import __version__
from edgeprune.export.wheel import wheel as carried

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = ("export", "runtime", "targets")
INFO = f"edgeprune-{__version__}.dist-info"
WHEEL_MAX_MIB = 8  # the tiny model is 4.5 MB of it


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy: a build leaves folders behind, and would pick up what an earlier one left."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edgeprune", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def installed_files() -> set[str]:
    """Where each source belongs: the folder F is edgeprune/F."""
    own = [
        path for path in (ROOT / "edgeprune").rglob("*") if path.relative_to(ROOT / "edgeprune").parts[0] not in FOLDERS
    ]
    files = {path.relative_to(ROOT).as_posix() for path in own if path.is_file() and path.suffix != ".pyc"}
    patterns = {
        "export": ["**/*.py"],
        "runtime": ["**/*.py", "**/*.h", "**/*.c", "**/*.cpp", "**/CMakeLists.txt"],
        "targets": ["**/*.py", "*.toml"],
    }
    for folder, globs in patterns.items():
        for pattern in globs:
            files |= {f"edgeprune/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).glob(pattern)}
    return files


def test_the_wheel_holds_every_source_and_nothing_else(contents: set[str]) -> None:
    inside = {name for name in contents if not name.startswith(f"{INFO}/")}
    assert sorted(installed_files() - inside) == [], "missing from the wheel: list it in pyproject.toml"
    assert sorted(name for name in inside - installed_files() if not name.endswith(".md")) == []


def test_the_wheel_puts_one_folder_into_site_packages(contents: set[str]) -> None:
    assert {name.split("/")[0] for name in contents} == {"edgeprune", INFO}


def test_the_wheel_carries_the_tiny_model_and_its_scenes(contents: set[str]) -> None:
    tiny = {name.removeprefix("edgeprune/models/tiny/") for name in contents if "/models/tiny/" in name}
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= tiny
    assert {"chat_template.jinja", "scenes/scene00.png", "scenes/questions.jsonl"} <= tiny


def test_the_wheel_that_a_bundle_carries_is_this_one_without_the_models(contents: set[str]) -> None:
    with zipfile.ZipFile(io.BytesIO(carried().content)) as archive:
        assert set(archive.namelist()) == {name for name in contents if "/models/" not in name}


def test_the_wheel_is_pure_and_small(wheel: Path) -> None:
    assert wheel.name == f"edgeprune-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < WHEEL_MAX_MIB << 20


def test_the_base_install_needs_no_deep_learning_framework(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{INFO}/METADATA"))
    base = {
        line.split(";")[0].split(">")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line
    }
    assert base == {"click", "numpy", "pillow", "rich", "safetensors", "tomli"}
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_wheel_brings_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "edgeprune = edgeprune.cli:main" in archive.read(f"{INFO}/entry_points.txt").decode()
        assert archive.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_every_folder_with_a_module_is_listed_as_a_package(project: dict[str, Any]) -> None:
    modules = [*(ROOT / "edgeprune").rglob("*.py"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
    folders = {path.parent.relative_to(ROOT).parts for path in modules}
    packages = {".".join(parts if parts[0] == "edgeprune" else ("edgeprune", *parts)) for parts in folders}
    assert sorted(packages - set(project["tool"]["setuptools"]["packages"])) == []


def test_every_listed_package_has_an_init(project: dict[str, Any]) -> None:
    packages = project["tool"]["setuptools"]["packages"]
    assert [name for name in packages if not (ROOT / name.replace(".", "/") / "__init__.py").is_file()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_link_in_the_package_leads_to_the_folder(folder: str) -> None:
    link = ROOT / "edgeprune" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
