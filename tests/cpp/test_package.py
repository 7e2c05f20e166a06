"""What is installed: the library shows its own functions alone, and CMake, pkg-config and a C compiler find it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import __version__
from tests.covering import always
from tests.cpp.conftest import HEADERS, ROOT, SOURCES
from tests.pages import blocks

HEADER = SOURCES / "include" / "edgeprune.h"
BUNDLE = ROOT / "tests" / "golden" / "bundle-0.2"
STRIPPED_MAX_NBYTES = 400_000
ASKED: dict[str, Any] = {"options": {"form": "openvino"}, "split": True}
SAYS = f"fastervlm on cpu: 16 tokens, edgeprune {__version__}\n"


def done(*command: str | Path, **environment: str) -> str:
    """What a command printed; it must not fail."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def installed(cpp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("prefix")
    done("cmake", "--install", cpp, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def library(installed: Path) -> Path:
    (found,) = installed.glob("lib*/**/libedgeprune.so")
    return found


def test_the_library_shows_the_functions_of_its_header_and_nothing_else(library: Path) -> None:
    declared = set(re.findall(r"EDGEPRUNE_API .*?\b(edgeprune_\w+)\(", HEADER.read_text()))
    shown = {line.split()[2] for line in done("nm", "-D", "--defined-only", library).splitlines()}
    assert shown == declared
    assert "edgeprune_open" in declared


def test_the_library_has_the_version_of_the_package(library: Path, installed: Path) -> None:
    (project,) = re.findall(r"^project\(edgeprune VERSION (\S+)", (SOURCES / "CMakeLists.txt").read_text(), re.M)
    assert project == __version__
    assert library.resolve().name == f"libedgeprune.so.{__version__}"
    needed = done("readelf", "-d", library)
    assert f"[libedgeprune.so.{__version__.rpartition('.')[0]}]" in needed
    assert done(installed / "bin" / "edgeprune-run", "--version") == f"edgeprune-run {__version__}\n"


def test_the_library_needs_libcrypto_and_what_every_system_has(library: Path) -> None:
    """And no ONNX Runtime, which is opened where there is one."""
    needed = set(re.findall(r"NEEDED.*\[([^.\]]+)", done("readelf", "-d", library)))
    system = {"libstdc++", "libm", "libgcc_s", "libc", "libdl", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert needed - system == {"libcrypto"}


def test_the_tools_look_for_what_runs_plans_beside_the_library(installed: Path, library: Path) -> None:
    """They hold the library within them, and open the other one by its name."""
    for name in ("verify", "run", "bench"):
        dynamic = done("readelf", "-d", installed / "bin" / f"edgeprune-{name}")
        (where,) = re.findall(r"R(?:UN)?PATH.*\[\$ORIGIN/(.*)\]", dynamic)
        assert (installed / "bin" / where).resolve() == library.parent


@pytest.mark.skipif("EDGEPRUNE_CPP" in os.environ, reason="of a build of its own, which may be no Release")
def test_the_library_is_small(library: Path, tmp_path: Path) -> None:
    done("strip", "-o", tmp_path / "stripped", library)
    assert (tmp_path / "stripped").stat().st_size <= STRIPPED_MAX_NBYTES


@pytest.mark.slow
def test_a_project_finds_it_by_cmake(installed: Path, tmp_path: Path) -> None:
    consumer = SOURCES / "examples" / "consumer"
    done("cmake", "-S", consumer, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
    done("cmake", "--build", tmp_path)
    assert done(tmp_path / "consumer", BUNDLE) == SAYS
    assert len((consumer / "CMakeLists.txt").read_text().splitlines()) <= 10


def test_a_compiler_finds_it_by_pkg_config(installed: Path, library: Path, tmp_path: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("pkg-config is not installed")
    where = {"PKG_CONFIG_PATH": str(library.parent / "pkgconfig")}
    assert done("pkg-config", "--modversion", "edgeprune", **where) == f"{__version__}\n"
    flags = done("pkg-config", "--cflags", "--libs", "edgeprune", **where).split()
    main = SOURCES / "examples" / "consumer" / "main.c"
    done("cc", "-std=c99", "-o", tmp_path / "consumer", main, *flags)
    assert done(tmp_path / "consumer", BUNDLE, LD_LIBRARY_PATH=str(library.parent)) == SAYS


@pytest.mark.slow
def test_a_static_library_is_found_and_linked_with_what_it_needs(cpp: Path, tmp_path: Path) -> None:
    off = [f"-DEDGEPRUNE_{name}=OFF" for name in ("TOOLS", "TESTS", "EXAMPLES")]
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    options = ["-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=Debug", f"-DEDGEPRUNE_ONNXRUNTIME_INCLUDE={HEADERS}"]
    done("cmake", "-S", SOURCES, "-B", build, *options, *off)
    done("cmake", "--build", build)
    done("cmake", "--install", build, "--prefix", prefix)
    assert [path.name for path in prefix.glob("lib*/**/libedgeprune.*")] == ["libedgeprune.a"]
    done("cmake", "-S", SOURCES / "examples" / "consumer", "-B", tmp_path / "use", f"-DCMAKE_PREFIX_PATH={prefix}")
    done("cmake", "--build", tmp_path / "use")
    assert done(tmp_path / "use" / "consumer", BUNDLE) == SAYS


@pytest.mark.parametrize("compiler", always(["gcc", "clang"], "gcc"))
@pytest.mark.parametrize(("header", "language"), [("h", "c99"), ("h", "c++11"), ("hpp", "c++11"), ("hpp", "c++17")])
def test_the_headers_stand_alone_without_a_warning(cpp: Path, compiler: str, header: str, language: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    kind = "c++" if "+" in language else "c"
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-fsyntax-only"]
    source = f'#include "{HEADER.parent}/edgeprune.{header}"\n'
    command = [compiler, "-x", kind, f"-std={language}", *strict, "-"]
    checked = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert checked.stderr == ""


PAGES = {
    f"{name}, block {number}": (language, block)
    for name in ("README.md", "docs/cpp.md")
    for language in ("c", "cpp")
    for number, block in enumerate(blocks((ROOT / name).read_text(encoding="utf-8"), language))
}


@pytest.mark.parametrize(
    "block", always(PAGES, *(name for name, (_, text) in PAGES.items() if "asked-bundle" not in text))
)
def test_what_a_page_shows_compiles_and_runs(
    installed: Path, library: Path, tmp_path: Path, block: str, exported_once: Callable[..., Any]
) -> None:
    """As it stands, beside bundles of the names that the pages give them."""
    language, text = PAGES[block]
    source = tmp_path / f"page.{language}"
    source.write_text(text)
    compiler = ["cc", "-std=c99"] if language == "c" else ["c++", "-std=c++17"]
    libraries = [f"-I{installed}/include", f"-L{library.parent}", "-ledgeprune", f"-Wl,-rpath,{library.parent}"]
    done(*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", tmp_path / "page", source, *libraries)
    (tmp_path / "my-bundle").symlink_to(BUNDLE)
    if asked := "asked-bundle" in text:
        folder = exported_once("cdpruner", "cpu", baselines=False, keep=24, **ASKED).folder
        (tmp_path / "asked-bundle").symlink_to(folder)
    ran = subprocess.run([tmp_path / "page"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"{24 if asked else 16} tokens" in ran.stdout
