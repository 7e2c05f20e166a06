"""The wheel holds the package, all of it, and nothing else; so does that of the sdist, and it runs."""

from __future__ import annotations

import email
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeprune import __version__
from edgeprune.export.wheel import wheel as carried
from tests.pages import blocks, commands

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = ("export", "runtime", "targets")
TOP = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md")
INFO = f"edgeprune-{__version__}.dist-info"
SOURCES = ("CMakeLists.txt", "*.c", "*.cmake", "*.cpp", "*.h", "*.hpp", "*.in", "*.map", "*.md", "*.sh")
"""of the C library"""
WHEEL_MAX_MIB = 8  # the tiny model is 4.5 MB of it


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: a build leaves folders behind, and would pick up what an earlier one left."""
    folder = tmp_path_factory.mktemp("source")
    for name in TOP:
        shutil.copy(ROOT / name, folder)
    for name in ("edgeprune", "docs", *FOLDERS):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build(kind: str, source: Path, out: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked."""
    archive = build("sdist", source, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(archive, unpacked)
    return unpacked / f"edgeprune-{__version__}"


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
        "runtime": ["**/*.py", *(f"cpp/**/{name}" for name in SOURCES), "web/*"],
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


def test_package_data_names_only_what_is_there(project: dict[str, Any]) -> None:
    named = project["tool"]["setuptools"]["package-data"]
    folders = {package: ROOT / package.replace(".", "/") for package in named}
    assert [one for package, globs in named.items() for one in globs if not any(folders[package].glob(one))] == []


def test_the_citation_is_of_this_version_and_licence() -> None:
    cited = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if ": " in line)
    assert (cited["version"], cited["license"]) == (__version__, "Apache-2.0")


@pytest.mark.slow
def test_the_sdist_holds_sources_and_pages_and_no_part_of_the_tests(sdist: Path) -> None:
    assert [name for name in TOP if not (sdist / name).is_file()] == []
    assert sorted(path.name for path in (sdist / "docs").iterdir()) == sorted(os.listdir(ROOT / "docs"))
    assert not (sdist / "tests").exists()


@pytest.mark.slow
def test_the_wheel_of_the_sdist_runs_the_first_lines_of_the_readme(
    sdist: Path, contents: set[str], tmp_path: Path
) -> None:
    """In an environment of its own, which finds what edgeprune needs in that of the tests."""
    (tmp_path / "dist").mkdir()
    wheel = build("wheel", sdist, tmp_path / "dist")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == contents
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    (Path(own) / "tests.pth").write_text(
        sysconfig.get_path("purelib")
    )  # no .pth in there is read, as an editable one's
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, capture_output=True, check=True)
    block = next(block for block in blocks((ROOT / "README.md").read_text(), "sh") if "edgeprune export" in block)
    desk = tmp_path / "desk"
    desk.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    for line in ("edgeprune --version", *(line for line in commands(block) if " bench " not in line)):
        done = subprocess.run(line.split(), cwd=desk, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert sorted(os.listdir(desk)) == ["kept.png", "my-bundle"]
    imported = subprocess.run(
        [python, "-c", "import edgeprune; print(edgeprune.__file__)"],
        cwd=desk, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert imported.stdout.startswith(own)
