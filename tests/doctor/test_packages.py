"""What the metadata asks for: read as `packaging` reads it, and held against what is installed without an import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from edgeprune.doctor import packages
from edgeprune.doctor.packages import BASE, Package, Requirement, declared, parse, survey
from edgeprune.targets import accepts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
VERSIONS = ("0.1", "1.22.0", "2.11", "2.13.0+cpu", "2.14", "5", "6.0.1", "9.1", "10.3.0", "13.5", "14", "77")


@pytest.mark.parametrize("line", LINES)
def test_every_requirement_of_ours_is_read_as_packaging_reads_it(line: str) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    wanted = requirements.Requirement(line)
    for python, machine in (("3.10", "x86_64"), ("3.12", "aarch64")):
        found = parse(line, python, machine)
        environment = {"python_version": python, "platform_machine": machine}
        if wanted.name == "edgeprune" or (wanted.marker and not wanted.marker.evaluate(environment)):
            assert found is None
            continue
        assert found is not None
        assert found.name == wanted.name.lower().replace("_", "-")
        for version in VERSIONS:
            assert accepts(found.range, version) == wanted.specifier.contains(version, prereleases=True), version


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('onnx>=1.18; extra == "export"', Requirement("onnx", ">=1.18", "export")),
        ('cuda-bindings<14,>=13; platform_machine == "x86_64" and extra == "dev"', None),
        ('Huggingface_Hub; extra == "export"', Requirement("huggingface-hub", "", "export")),
        ("rich (>=13)", Requirement("rich", ">=13", BASE)),
        ("@nonsense", None),
    ],
)
def test_a_line_of_the_metadata(line: str, found: Requirement | None) -> None:
    assert parse(line, "3.12", "aarch64") == found


def test_without_metadata_it_is_read_from_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    found = {(one.name, one.extra): one.range for one in declared()}
    assert found["torch", "export"].endswith(",<2.14")
    assert found["numpy", BASE] == ">=1.22"
    assert not [extra for _, extra in found if extra == "dev"]
    monkeypatch.setattr(packages, "package", "/nowhere/edgeprune/__init__.py")
    assert declared() == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """installed(name=version, ...): what the metadata of the environment says; an exception is raised."""

    def make(**versions: object) -> None:
        def version(name: str) -> object:
            found = versions.get(name.replace("-", "_"), metadata.PackageNotFoundError(name))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(metadata, "version", version)

    return make


def test_a_package_fits_lacks_or_is_of_another_release(installed: Callable[..., None]) -> None:
    installed(torch="2.10.1", transformers="5.2", onnx=None, onnxscript=ValueError("damaged"))
    names = {"torch": ">=2.11,<2.14", "transformers": ">=5,<6", "onnx": ">=1.18", "onnxscript": "", "rich": ">=13"}
    found = {one.name: one for one in survey(Requirement(name, span, "export") for name, span in names.items())}
    assert {name: one.problem() for name, one in found.items()} == {
        "torch": "torch must be >=2.11,<2.14, here is 2.10.1",
        "transformers": "",
        "onnx": "onnx must be >=1.18, here is unknown",
        "onnxscript": "",
        "rich": "rich is not installed",
    }
    assert found["onnxscript"].installed == "unknown (ValueError)"


def test_onnxruntime_gpu_is_onnxruntime_as_well(installed: Callable[..., None]) -> None:
    installed(onnxruntime_gpu="1.24")
    (found,) = survey([Requirement("onnxruntime", "", "export")])
    assert (found.installed, found.instead, found.problem()) == (None, "onnxruntime-gpu", "")


def test_one_package_may_have_a_range_for_each_extra() -> None:
    board = Package("cuda-bindings", "12.9", {"rtx": ">=13,<14", "tensorrt": ""})
    assert (board.fits(), board.fits("rtx"), board.fits("tensorrt")) == (True, False, True)
    assert board.problem("rtx") == "cuda-bindings must be >=13,<14, here is 12.9"
