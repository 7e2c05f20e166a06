"""What edgeprune's own metadata asks for, beside what is installed. Nothing is imported.

The metadata is edgeprune's own, so what a requirement may look like is known: a name, a range, and of the markers the
extra, the version of Python and the machine (tests/doctor/test_packages.py holds it against `packaging`, which a device
does not have).
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgeprune import __file__ as package
from edgeprune.targets import accepts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BASE", "Package", "Requirement", "declared", "parse", "survey"]

BASE = "base"
"""in place of an extra: what every installation needs"""
LEFT_OUT = ("dev", "lmms-eval")
INSTEAD = {"onnxruntime": "onnxruntime-gpu"}
"""distribution -> another one that brings the same module"""

_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(?:;\s*(.*))?")
_MARKER = re.compile(r"(extra|python_version|platform_machine)\s*(==|<=|>=|<)\s*['\"]([^'\"]*)['\"]")


@dataclass(frozen=True)
class Requirement:
    name: str
    """normalised: lower case, with hyphens"""
    range: str
    """as `>=2.11,<2.14`; empty for any version"""
    extra: str


@dataclass(frozen=True)
class Package:
    name: str
    installed: str | None
    """its version, None where it is not installed"""
    wanted: Mapping[str, str]
    """extra, or `base` -> range"""
    instead: str = ""
    """what is installed in its place"""

    def fits(self, extra: str | None = None) -> bool:
        """Whether what is installed lies in the range of an extra; None: of any of them."""
        if self.installed is None:
            return bool(self.instead)
        ranges = self.wanted.values() if extra is None else [self.wanted[extra]]
        return any(accepts(one, self.installed) for one in ranges)

    def problem(self, extra: str | None = None) -> str:
        """What is wrong with it, in words; empty where nothing is."""
        if self.fits(extra):
            return ""
        if self.installed is None:
            return f"{self.name} is not installed"
        ranges = {*self.wanted.values()} if extra is None else {self.wanted[extra]}
        return f"{self.name} must be {' or '.join(sorted(ranges))}, here is {self.installed}"


def parse(text: str, python: str, machine: str) -> Requirement | None:
    """A line of the metadata; None where its markers leave it out here, and for an extra of edgeprune in another one.

    >>> parse("torch<2.14,>=2.11; extra == 'export'", "3.12", "x86_64")
    Requirement(name='torch', range='>=2.11,<2.14', extra='export')
    >>> parse("tomli>=2; python_version < '3.11'", "3.12", "x86_64") is None
    True
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        return None
    name, given, markers = match.groups()
    name = re.sub(r"[-_.]+", "-", name).lower()
    extra = BASE
    for variable, sign, value in _MARKER.findall(markers or ""):
        if variable == "extra":
            extra = value
        elif not (accepts(f"{sign}{value}", python) if variable == "python_version" else value == machine):
            return None
    clauses = sorted(filter(None, (one.strip() for one in given.split(","))), reverse=True)
    return None if name == "edgeprune" else Requirement(name, ",".join(clauses), extra)


def declared() -> list[Requirement]:
    """What edgeprune asks for, extras for development left out; empty where nothing says it."""
    here = ".".join(platform.python_version_tuple()[:2]), platform.machine()
    packages = [one for line in _lines() if (one := parse(line, *here))]
    return [one for one in packages if one.extra not in LEFT_OUT]


def _lines() -> list[str]:
    """Of the metadata; in a clone that was not installed, of pyproject.toml."""
    try:
        return metadata.requires("edgeprune") or []
    except metadata.PackageNotFoundError:
        project_file = Path(package).parents[1] / "pyproject.toml"
    if not project_file.is_file():
        return []
    project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *(
            f"{one}{' and' if ';' in one else ';'} extra == '{extra}'"
            for extra, lines in extras.items()
            for one in lines
        ),
    ]


def survey(requirements: Iterable[Requirement]) -> list[Package]:
    """Each package once, in the order of the metadata."""
    wanted: dict[str, dict[str, str]] = {}
    for one in requirements:
        wanted.setdefault(one.name, {})[one.extra] = one.range
    versions = {name: _version(name) for name in (*wanted, *INSTEAD.values())}
    return [
        Package(name, versions[name], ranges, other if (other := INSTEAD.get(name, "")) and versions[other] else "")
        for name, ranges in wanted.items()
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name) or "unknown"  # None where the METADATA is damaged
    except metadata.PackageNotFoundError:
        return None
    except Exception as error:  # whatever a damaged installation holds
        return f"unknown ({type(error).__name__})"
