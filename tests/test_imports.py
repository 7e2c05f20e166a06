"""Who may import whom (read off the sources, functions included): rooms stand on floors, and arrows go down.

    7  cli  ->  export.assemble                  8  integrations.optimum, a second face of cli
    6  export  <-  quality  <-  train            integrations (what others call)
    5  trace  ->  fit, shortening      reference (never what selects: it is independent of the trace)
    4  pruners | encoders                        neither sees the other; they meet in `taps` and in `fit`
    3  prior, taps, schedule, estimate, doctor
    2  runtime, probes
    1  bundle, checkpoint, targets, catalog
    0  errors, typed, traits, precisions, ports

torch stays out of everything that a device needs, onnx out of everything but export/.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"export": "edgeprune.export", "runtime": "edgeprune.runtime", "targets": "edgeprune.targets"}

FLOORS = {
    **dict.fromkeys(("errors", "typed", "traits", "precisions", "ports"), 0),
    **dict.fromkeys(("bundle", "checkpoint", "targets", "catalog"), 1),
    **dict.fromkeys(("runtime", "probes"), 2),
    **dict.fromkeys(("prior", "schedule", "taps", "estimate", "doctor"), 3),
    **dict.fromkeys(("pruners", "encoders"), 4),
    **dict.fromkeys(("trace", "fit", "fit_inside", "reference", "reference_steps", "shortening"), 5),
    **dict.fromkeys(("correction", "adapted", "frozen", "weighting"), 5),
    **dict.fromkeys(("export", "quality", "train", "integrations"), 6),
    **dict.fromkeys(("cli", "export.assemble", "__main__"), 7),
    "integrations.optimum": 8,
}
"""part of the package -> its floor; it may import what stands below"""
BESIDE = {
    "typed": ("errors",),
    "probes": ("runtime",),
    "quality": ("export",),
    "train": ("export", "quality"),
    "integrations": ("export",),
    "trace": ("fit", "shortening"),
    "reference": ("reference_steps",),
    "adapted": ("correction",),
    "frozen": ("reference_steps",),
    "cli": ("export.assemble",),
    "__main__": ("cli",),
}
"""and these on its own floor"""
NEVER = {
    "reference_steps": ("trace", "fit", "shortening", "pruners._select", "pruners._greedy", "taps"),
    "reference": ("trace", "fit", "shortening", "pruners._select", "pruners._greedy", "pruners._directions", "taps"),
    "pruners": ("checkpoint", "bundle", "runtime", "targets"),
    "encoders": ("bundle", "targets", "estimate"),
}
"""and these not, though they stand below"""
SIBLINGS = {"pruners": "_", "encoders": None}
"""rooms whose files are apart: of its own, a file may import the __init__ and what begins like this; None: any file"""

DEVICE = (
    *("bundle", "catalog", "doctor", "errors", "estimate", "ports", "precisions", "probes", "runtime", "targets"),
    *("traits", "typed"),
)
WITHOUT_TORCH = ("__main__", "cli", *DEVICE)
HEAVY = ("torch", "transformers")
ONNX = ("onnx", "onnx_ir", "onnxscript")
BACKENDS = ("onnxruntime", "onnxruntime_genai", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    top: bool
    """at the top of the module, where it happens on import"""


@cache
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


def statements(node: ast.AST, top: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Everything that may hold an import, and whether it stands at the top; what is no statement holds none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield child, top
            yield from statements(child, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


def imports(source: str, module: str, is_package: bool, modules: set[str]) -> Iterator[Import]:
    """Every import of a source; `from package import name` counts as that of package.name when this is a module."""
    for node, top in statements(ast.parse(source)):
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
            yield Import(name, node.lineno, top)


def within(module: str, *names: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def room_of(name: str) -> str | None:
    """The room of a module, its name without `edgeprune.`; None for one that stands nowhere."""
    return max((room for room in FLOORS if within(name, room)), key=len, default=None)


def why_not_ours(own: str, other: str) -> str | None:
    """What forbids a module to import another one of edgeprune; both without `edgeprune.`."""
    room, below = room_of(own), room_of(other)
    if room is None or below is None:
        return f"{other if room else own} stands on no floor"
    if room == below:
        apart = SIBLINGS.get(room)
        file = other.removeprefix(f"{room}.")
        package = file == "inside"  # a room of its own, whose files read what it declares
        private = apart is not None and file.rpartition(".")[2].startswith(apart)
        if apart is None or other == room or own == room or private or package:
            return None
        return f"files of {room} do not import each other"
    if within(other, *NEVER.get(room, ())):
        return f"{room} is kept apart from {other}"
    if FLOORS[below] < FLOORS[room] or below in BESIDE.get(room, ()):
        return None
    return f"{below} (floor {FLOORS[below]}) does not stand below {room} (floor {FLOORS[room]})"


def why_not(module: str, found: Import) -> str | None:
    """What forbids an import, or None."""
    own, name = module.removeprefix("edgeprune."), found.name
    if within(name, "edgeprune"):
        bare = name == "edgeprune" or module == "edgeprune"  # the version
        return None if bare else why_not_ours(own, name.removeprefix("edgeprune."))
    if within(own, "targets") and name.split(".")[0] not in {*sys.stdlib_module_names, "tomli", "tomllib"}:
        return "targets/ uses the standard library only"
    if within(name, *ONNX) and not within(own, "export"):
        return "only export/ may name onnx"
    if within(name, *HEAVY) and (within(own, *DEVICE) or (found.top and within(own, *WITHOUT_TORCH))):
        return "a device has no torch"
    if within(name, *HEAVY[1:]) and within(own, "pruners"):
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


def test_every_part_of_the_package_stands_on_a_floor() -> None:
    assert not [name for name in sources() if name != "edgeprune" and room_of(name.removeprefix("edgeprune.")) is None]


def test_no_module_imports_itself_through_others() -> None:
    """Imports at the top of modules make no circle; inside functions they may, within a room."""
    modules, files = set(sources()), sources()
    arrows = {
        name: {
            one.name
            for one in imports(path.read_text(encoding="utf-8"), name, path.name == "__init__.py", modules)
            if one.top and one.name in modules
        }
        for name, path in files.items()
    }
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for other in sorted(arrows[name] - {name}):
                walk(other, (*above, name))
            done.add(name)

    for name in sorted(arrows):
        walk(name, ())


MODULES = {f"edgeprune.{name}" for name in FLOORS} | {
    "edgeprune",
    *(f"edgeprune.pruners.{name}" for name in ("fastervlm", "hiprune", "_select")),
    "edgeprune.encoders.clip",
    "edgeprune.runtime.parity",
}

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
    ("edgeprune.pruners._select", "from edgeprune.pruners import fastervlm"),
    ("edgeprune.errors", "import edgeprune.bundle"),
    ("edgeprune.reference", "from edgeprune.pruners._select import top_in_order"),
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
    ("edgeprune.reference", "from edgeprune.trace import PrunedEncoder"),
    ("edgeprune.quality", "from edgeprune.train import scorer"),
    ("edgeprune.export", "from edgeprune.quality import sweep"),
    ("edgeprune.estimate", "import torch"),
    ("edgeprune.targets", "import numpy"),
    ("edgeprune.targets", "from edgeprune.bundle import load"),
    ("edgeprune.export.engine", "import tensorrt"),
    ("edgeprune.export.graph", "from edgeprune.cli import main"),
]

HARMLESS = [
    ("edgeprune.cli", "def f():\n    import torch\n    from edgeprune.export import graph"),
    ("edgeprune.pruners", "from edgeprune.pruners._select import top_in_order"),
    ("edgeprune.pruners.fastervlm", "import torch\nfrom edgeprune.pruners import Pruner"),
    ("edgeprune.encoders.clip", "import transformers\nfrom edgeprune.taps import Attention"),
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
