"""edgeprune's own wheel in a bundle: the same bytes each time, what pip takes, and all but the models."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

import pytest

import edgeprune
from edgeprune import targets
from edgeprune.errors import RequestError
from edgeprune.export import wheel as wheels
from edgeprune.export.request import Request, carried
from edgeprune.export.wheel import wheel

INFO = f"edgeprune-{edgeprune.__version__}.dist-info"
MAX_NBYTES = 6 << 18


@pytest.fixture
def archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(wheel().content))


def test_it_is_named_as_pip_wants_it_and_small() -> None:
    assert wheel().name == f"edgeprune-{edgeprune.__version__}-py3-none-any.whl"
    assert len(wheel().content) < MAX_NBYTES


def test_the_same_sources_give_the_same_bytes() -> None:
    assert wheel.__wrapped__() == wheel()


def test_it_holds_the_sources_and_no_model(archive: zipfile.ZipFile) -> None:
    names = set(archive.namelist())
    root = Path(edgeprune.__file__).parent
    sources = {f"edgeprune/{path.relative_to(root).as_posix()}" for path in (root / "cli").rglob("*.py")}
    sources |= {f"edgeprune/targets/{name}.toml" for name in targets.names()}
    assert sources | {"edgeprune/__init__.py", "edgeprune/runtime/loading.py", "edgeprune/py.typed"} <= names
    assert not [name for name in names if "/models/" in name or "__pycache__" in name]


def test_every_file_stands_in_its_record_with_its_hash(archive: zipfile.ZipFile) -> None:
    rows = list(csv.reader(archive.read(f"{INFO}/RECORD").decode().splitlines()))
    assert sorted(name for name, _, _ in rows) == sorted(archive.namelist())
    for name, hashed, size in rows:
        content = archive.read(name)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (hashed, size) in ((f"sha256={digest}", str(len(content))), ("", "")), name


def test_its_metadata_are_those_of_the_installation_with_the_version_that_runs(archive: zipfile.ZipFile) -> None:
    installed = importlib.metadata.distribution("edgeprune")
    lines = archive.read(f"{INFO}/METADATA").decode().splitlines()
    assert f"Version: {edgeprune.__version__}" in lines
    assert [line for line in lines if line.startswith("Requires-Dist: ")] == [
        f"Requires-Dist: {need}" for need in installed.requires or ()
    ]
    assert archive.read(f"{INFO}/entry_points.txt").decode() == installed.read_text("entry_points.txt")


@pytest.mark.parametrize("runtime", [True, False])
def test_a_bundle_carries_it_unless_it_is_left_out(runtime: bool) -> None:
    assert carried(Request("fastervlm", "jetson-orin-jp51", keep=64, runtime=runtime)) == (wheel() if runtime else None)


def test_it_carries_the_sources_of_the_c_library(archive: zipfile.ZipFile) -> None:
    inside = {name.removeprefix("edgeprune/runtime/cpp/") for name in archive.namelist() if "/runtime/cpp/" in name}
    assert {
        "CMakeLists.txt",
        "include/edgeprune.h",
        "include/edgeprune.hpp",
        "cmake/headers.sh",
        "api/run.cpp",
    } <= inside
    assert {"cmake/symbols.map", "cmake/edgeprune.pc.in", "cmake/Install.cmake"} <= inside


def test_without_an_installation_it_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(wheels, "distribution", missing)
    with pytest.raises(RequestError, match=r"must be installed for that.*or leave it out with --no-runtime"):
        wheel.__wrapped__()
