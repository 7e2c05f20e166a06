"""Who may import whom (read off the sources, functions included).

    cli -> export -> trace -> {pruners, encoders} -> selection, taps -> errors
                     reference -> {pruners, encoders} -> attention      never selection, taps: independent of the trace
    runtime -> bundle, targets -> errors

Pruners never import encoders or each other, encoders never pruners: they meet in `trace`. torch stays out of everything
that a device needs, onnx out of everything but export/.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"export": "edgeprune.export", "runtime": "edgeprune.runtime", "targets": "edgeprune.targets"}

# Part of the package -> the parts that it may import; a name with a dot at the end stands for the __init__ alone.
MAY = {
    "edgeprune": (),
    "edgeprune.__main__": ("cli",),
    "edgeprune.errors": (),
    "edgeprune.console": (),
    "edgeprune.bundle": ("errors",),
    "edgeprune.targets": ("targets", "errors"),
    "edgeprune.runtime": ("runtime", "bundle", "targets", "errors"),
    "edgeprune.selection": ("errors",),
    "edgeprune.greedy": ("selection",),
    "edgeprune.attention": ("errors",),
    "edgeprune.scorer": ("errors",),
    "edgeprune.bavit": ("",),  # a tool beside the others: it trains and measures with what they have
    "edgeprune.fixed_grid": ("encoders.", "checkpoint", "attention", "errors"),
    "edgeprune.taps": ("attention", "selection", "errors"),
    "edgeprune.checkpoint": ("errors",),
    "edgeprune.probes": ("errors",),
    "edgeprune.pruners": ("pruners.", "greedy", "selection", "taps", "scorer", "errors"),
    "edgeprune.encoders": ("encoders", "checkpoint", "attention", "fixed_grid", "errors"),
    "edgeprune.dropping": ("encoders.", "selection"),
    "edgeprune.trace": (
        *("pruners", "encoders", "checkpoint", "selection", "attention", "dropping", "taps", "scorer", "errors"),
    ),
    "edgeprune.reference": ("pruners.", "encoders", "attention", "errors"),
    "edgeprune.export": (
        *("export", "trace", "reference", "pruners", "encoders", "checkpoint", "attention", "selection", "greedy"),
        *("taps", "scorer", "probes", "runtime", "bundle", "targets", "errors"),
    ),
    "edgeprune.integrations": ("runtime", "errors"),
    "edgeprune.integrations.optimum": ("cli", "console", "errors"),
    "edgeprune.catalog": (),
    "edgeprune.tables": ("bundle", "catalog", "runtime", "targets"),
    "edgeprune.cli": ("",),  # everything, inside its functions
}

WITHOUT_TORCH = ("__main__", "bavit.commands", "cli", "console", "bundle", "errors", "runtime", "targets")
DEVICE = ("bundle", "errors", "runtime", "targets")
HEAVY = ("torch", "transformers")
ONNX = ("onnx", "onnx_ir", "onnxscript")
BACKENDS = ("onnxruntime", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    top: bool
    """at the top of the module, where it happens on import"""


def sources() -> dict[str, Path]:
    """Module -> file, for every module of edgeprune, each once."""
    found: dict[str, Path] = {}
    for folder, package in {"edgeprune": "edgeprune", **FOLDERS}.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "edgeprune" and parts[0] in FOLDERS:  # a link
                continue
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(source: str, module: str, is_package: bool, modules: set[str]) -> Iterator[Import]:
    """Every import of a source; `from package import name` counts as that of package.name when this is a module."""
    tree = ast.parse(source)
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in full]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, top=node not in inside)


def within(module: str, *names: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def part_of(module: str) -> str:
    """The longest entry of MAY that holds the module."""
    return max((part for part in MAY if part != "edgeprune" and within(module, part)), key=len, default="edgeprune")


def why_not(module: str, found: Import) -> str | None:
    """What forbids an import, or None."""
    own, name = module.removeprefix("edgeprune."), found.name
    if within(name, "edgeprune"):
        if name == "edgeprune":  # the version
            return None
        other = name.removeprefix("edgeprune.")
        for allowed in MAY[part_of(module)]:
            if allowed == "" or (other == allowed[:-1] if allowed.endswith(".") else within(other, allowed)):
                return None
        return f"{part_of(module)} may import {', '.join(MAY[part_of(module)]) or 'nothing'} of edgeprune"
    if within(own, "targets") and name.split(".")[0] not in {*sys.stdlib_module_names, "tomli"}:
        return "targets/ uses the standard library only"
    if within(name, *ONNX) and not within(own, "export"):
        return "only export/ may name onnx"
    if within(name, *HEAVY) and (within(own, *DEVICE) or (found.top and within(own, *WITHOUT_TORCH))):
        return "a device has no torch"
    if within(name, *HEAVY[1:]) and within(own, "pruners", "greedy", "selection"):
        return "a method knows no host model"
    if within(name, *BACKENDS) and (found.top or not within(own, "export", "runtime", "cli")):
        return "backends are imported inside functions of export/ and runtime/"
    return None


def violations(module: str, source: str, is_package: bool, modules: set[str]) -> list[str]:
    found = imports(source, module, is_package, modules)
    return [f"line {one.line} imports {one.name}: {reason}" for one in found if (reason := why_not(module, one))]


@pytest.mark.parametrize("module", sources())
def test_imports_run_one_way(module: str) -> None:
    path = sources()[module]
    assert not violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py", set(sources()))


def test_every_part_of_the_package_has_a_rule() -> None:
    unruled = [name for name in sources() if part_of(name) == "edgeprune" and name != "edgeprune"]
    assert not unruled, "say in MAY what these may import"


MODULES = {*MAY, "edgeprune.pruners.fastervlm", "edgeprune.pruners.hiprune", "edgeprune.encoders.clip"}

SEEDED = [
    ("edgeprune.pruners.fastervlm", "from edgeprune.encoders import clip"),
    ("edgeprune.pruners.fastervlm", "import edgeprune.encoders.clip"),
    ("edgeprune.pruners.fastervlm", "from edgeprune import encoders"),
    ("edgeprune.pruners.fastervlm", "from edgeprune.pruners import hiprune"),
    ("edgeprune.pruners.fastervlm", "from edgeprune.pruners.hiprune import Method"),
    ("edgeprune.pruners.fastervlm", "from . import hiprune"),
    ("edgeprune.pruners.fastervlm", "from .hiprune import Method"),
    ("edgeprune.pruners.fastervlm", "from ..encoders.clip import Encoder"),
    ("edgeprune.pruners.fastervlm", "from transformers import CLIPModel"),
    ("edgeprune.pruners.fastervlm", "def f():\n    from edgeprune import trace"),
    ("edgeprune.encoders.clip", "from edgeprune.pruners import fastervlm"),
    ("edgeprune.encoders.clip", "import edgeprune.trace"),
    ("edgeprune.selection", "from edgeprune.pruners import fastervlm"),
    ("edgeprune.errors", "import edgeprune.bundle"),
    ("edgeprune.reference", "from edgeprune.selection import top_in_order"),
    ("edgeprune.trace", "from edgeprune.export import graph"),
    ("edgeprune.trace", "import onnx"),
    ("edgeprune.bundle", "import torch"),
    ("edgeprune.bundle", "from edgeprune import runtime"),
    ("edgeprune.cli", "import torch"),
    ("edgeprune.cli", "from transformers import AutoModel"),
    ("edgeprune.cli", "def f():\n    import onnx"),
    ("edgeprune.runtime.ort", "def f():\n    import torch"),
    ("edgeprune.runtime.ort", "import onnxruntime"),
    ("edgeprune.runtime.ort", "from edgeprune.export import graph"),
    ("edgeprune.runtime.ort", "if TYPE_CHECKING:\n    from edgeprune.trace import PrunedEncoder"),
    ("edgeprune.targets", "import numpy"),
    ("edgeprune.targets", "from edgeprune.bundle import load"),
    ("edgeprune.export.engine", "import tensorrt"),
    ("edgeprune.export.graph", "from edgeprune.cli import main"),
]

HARMLESS = [
    ("edgeprune.cli", "def f():\n    import torch\n    from edgeprune.export import graph"),
    ("edgeprune.pruners", "from edgeprune.selection import top_in_order"),
    ("edgeprune.pruners.fastervlm", "import torch\nfrom edgeprune.pruners import Pruner"),
    ("edgeprune.encoders.clip", "import transformers\nfrom edgeprune.attention import Taps"),
    ("edgeprune.trace", "from edgeprune.pruners import fastervlm\nfrom edgeprune.encoders import clip"),
    ("edgeprune.export.graph", "import onnx\nimport torch\nfrom edgeprune.trace import PrunedEncoder"),
    ("edgeprune.runtime.ort", "import numpy\ndef f():\n    import onnxruntime\nfrom edgeprune import bundle, targets"),
    ("edgeprune.targets", "import tomllib\nimport tomli\nfrom edgeprune.errors import TargetError"),
]


@pytest.mark.parametrize(("module", "source"), SEEDED)
def test_a_seeded_violation_is_caught(module: str, source: str) -> None:
    assert violations(module, source, False, MODULES)


@pytest.mark.parametrize(("module", "source"), HARMLESS)
def test_an_allowed_import_is_left_alone(module: str, source: str) -> None:
    assert not violations(module, source, False, MODULES)


def test_what_a_device_imports_brings_no_torch_along() -> None:
    device = [name for name in sources() if within(name.removeprefix("edgeprune."), *DEVICE, "cli")]
    code = f"import sys, {', '.join(device)}; print([m for m in {[*HEAVY, *ONNX, *BACKENDS]} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
